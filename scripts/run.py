"""`nightshift run`: plan what is missing, publish it, and if asked wait for it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from core.errors import NightshiftError, UsageError
from scripts.cli import (
    Json,
    Servers,
    answering_workers,
    check_redis,
    connected,
    interruptible,
    note,
    parse_day,
    print_json,
    progress,
)

if TYPE_CHECKING:
    from services.catching_up import Told
    from services.publishing import Publisher
    from services.runs import Progress, RunView

_POLL_SECONDS = 0.1
_CARE_SECONDS = 2.0
_MANY_PARTITIONS = 200


def run(
    day: Annotated[
        str | None, typer.Option(help="The night of this day, YYYY-MM-DD; the last due one by default.")
    ] = None,
    through: Annotated[str | None, typer.Option(help="All missing nights up to this day, fifty in a run.")] = None,
    each: Annotated[bool, typer.Option("--each", help="With --through: a run for each night.")] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Until it is done; 1 if it failed.")] = False,
    json: Json = False,
) -> None:
    """Run a night, or all missing ones. Running a done night again changes nothing."""
    from core.clock import utc_now

    if day and through:
        raise UsageError("give --day or --through, not both")
    if each and not through:
        raise UsageError("--each goes with --through")
    wanted = parse_day(day, "--day") or parse_day(through, "--through")
    with interruptible(), connected() as servers:
        check_redis(servers.urls.redis_url)
        target = wanted or _last_due(servers, utc_now())
        _check_prices(servers, target)
        planned = plan(servers, target, through=bool(through), each=each, now=utc_now())
        ids = planned or _unfinished(servers, target)
        if ids:
            _publish(servers, ids, wait=wait, new=bool(planned))
        _tell(servers, target, ids, waited=wait, json=json)


def _last_due(servers: Servers, now: datetime) -> date:
    from schedules.calendar import last_due_day

    return last_due_day(now, servers.settings.nightly_at)


def _check_prices(servers: Servers, target: date) -> None:
    """Refuse a day without prices: every simulation would go into quarantine."""
    from sqlalchemy import text

    with servers.engine.connect() as connection:
        oldest, newest = connection.execute(text("SELECT min(day), max(day) FROM closes")).one()
    if newest is None:
        raise UsageError("there are no prices: import some first, nightshift prices import FILE")
    if target < oldest:
        raise UsageError(f"there are no prices on {target} or before: the first are of {oldest}")
    if target > newest + timedelta(days=servers.settings.max_stale_days):
        raise UsageError(
            f"the newest prices are of {newest}, too old for {target}: import newer ones, or use --day {newest}"
        )
    _check_prices_in_use(servers, target)


def _check_prices_in_use(servers: Servers, target: date) -> None:
    """Refuse it as well where only assets that no simulation has are priced."""
    from sqlalchemy import text

    oldest_usable = target - timedelta(days=servers.settings.max_stale_days)
    with servers.engine.connect() as connection:
        if connection.execute(text(_PRICED), {"first": oldest_usable, "target": target}).scalar_one():
            return
        newest = connection.execute(text(_NEWEST_IN_USE), {"target": target}).scalar_one()
    since = "there are none at all" if newest is None else f"their newest prices are of {newest}"
    raise UsageError(
        f"no asset of any simulation has a price from {oldest_usable} to {target}: {since}; import newer ones first"
    )


# The first simulation answers it, but where nobody's assets have prices.
_PRICED = """
SELECT NOT EXISTS (SELECT FROM simulations WHERE start_day <= :target) OR EXISTS (
    SELECT FROM simulations s CROSS JOIN LATERAL unnest(s.asset_ids) AS slot (asset_id)
    WHERE s.start_day <= :target
      AND slot.asset_id IN (SELECT asset_id FROM closes WHERE day BETWEEN :first AND :target OFFSET 0)
)
"""
_NEWEST_IN_USE = """
SELECT max(day) FROM closes
WHERE day <= :target AND asset_id IN (SELECT DISTINCT unnest(asset_ids) FROM simulations WHERE start_day <= :target)
"""


def plan(
    servers: Servers, target: date, *, through: bool, each: bool, now: datetime, by: str = "nightshift run"
) -> list[int]:
    """Plan the night of `target`, or with `through` all missing nights up to it; the new runs' ids."""
    from core.database import session_scope
    from services.catching_up import catch_up
    from services.planning import plan_night

    if not through:
        with session_scope(servers.engine) as session:
            return plan_night(session, day=target, now=now, settings=servers.settings, requested_by=by)
    with _planning() as told:
        return catch_up(
            servers.engine, through=target, now=now, settings=servers.settings, requested_by=by, each=each, told=told
        )


@contextmanager
def _planning() -> Iterator[Told]:
    """Shows how far planning is; to make the partitions of years takes minutes."""
    with progress() as bar:
        task = bar.add_task("planning", total=None, detail="")

        def told(what: str, done: int, total: int) -> None:
            if what == "partitions" and done == 0 and total >= _MANY_PARTITIONS:
                note(f"{total:,} partitions are made first; a command that is interrupted goes on from there")
            bar.update(task, total=total, completed=done, detail=what)

        yield told


def _unfinished(servers: Servers, target: date) -> list[int]:
    from core.database import session_scope
    from services.runs import nightly_ids_through

    with session_scope(servers.engine) as session:
        return nightly_ids_through(session, target)


@contextmanager
def publisher_of(servers: Servers) -> Iterator[Publisher]:
    """A publisher on the servers' Redis."""
    from workers.app import make_app
    from workers.publisher import CeleryPublisher

    with make_app(servers.settings, servers.urls.redis_url) as app:
        yield CeleryPublisher(app)


def _workers(servers: Servers, *, wanted: bool) -> AbstractContextManager[object]:
    """Workers for the length of the block, where they are wanted and this command started the servers."""
    if not (servers.urls.owned and wanted):
        return nullcontext()
    from workers.stack import Stack

    return Stack(
        servers.settings, servers.urls, workers=servers.settings.workers, beat=False, flower=False, exporter=False
    )


def publish_and_wait(servers: Servers, ids: Sequence[int], *, wait: bool) -> None:
    """Publish these planned runs; with `wait`, until they are finished.

    Raises:
        NightshiftError: with `wait`, one of them failed or was cancelled.
    """
    from core.clock import utc_now
    from core.database import session_scope
    from services.runs import runs_by_id

    _publish(servers, ids, wait=wait, new=True)
    if wait:
        with session_scope(servers.engine) as session:
            _raise_if_failed(runs_by_id(session, ids, utc_now()))


def _publish(servers: Servers, ids: Sequence[int], *, wait: bool, new: bool) -> None:
    from core.clock import utc_now
    from services.relay import publish_planned

    with publisher_of(servers) as publish, _workers(servers, wanted=wait):
        in_flight = servers.settings.reprocess_in_flight
        count = publish_planned(servers.engine, publish, now=utc_now(), in_flight=in_flight)
        verb = "planned" if new else "found unfinished"
        # Beat's tick may have come first: then there is nothing left to publish, and nothing is amiss.
        published = f", published {count:,} batch{'' if count == 1 else 'es'}" if count else ""
        note(f"{verb} {len(ids)} run{'s' if len(ids) > 1 else ''} ({_ids(ids)}){published}")
        if wait:
            try:
                wait_for(servers, ids, care=publish if servers.urls.owned else None)
            except KeyboardInterrupt:
                note(f"interrupted; what is left of run {_ids(ids)} goes on wherever workers run: nightshift status")
                raise
        else:
            warn_if_nobody_works(servers)


def wait_for(servers: Servers, ids: Sequence[int], *, care: Publisher | None = None) -> Progress:
    """Show the progress of these runs until none of them is unfinished.

    With a publisher in `care`, because no beat ticks here, it looks after the runs itself: puts back what was lost,
    ends what is done, publishes the next night.
    """
    from core.clock import utc_now
    from core.database import session_scope
    from services.runs import run_progress

    cared, began = time.monotonic(), time.monotonic()
    with progress() as bar:
        task = bar.add_task("runs", total=None, detail="")
        while True:
            with session_scope(servers.engine) as session:
                state = run_progress(session, ids)
            speed = state.users_done / max(time.monotonic() - began, 1e-3)
            bar.update(
                task,
                description=f"run {min(state.runs_ended + 1, len(ids))} of {len(ids)}",
                total=state.users_total,
                completed=state.users_done,
                detail=f"users · {speed:,.0f}/s · {state.trades:,} trades",
            )
            if state.finished:
                return state
            if care is not None and time.monotonic() - cared > _CARE_SECONDS:
                _look_after(servers, care, utc_now())
                cared = time.monotonic()
            time.sleep(_POLL_SECONDS)


def _look_after(servers: Servers, publish: Publisher, now: datetime) -> None:
    """What beat's tick does, without planning."""
    from services.completion import finish_runs
    from services.reconciler import reconcile
    from services.relay import publish_planned

    reconcile(servers.engine, now=now, settings=servers.settings)
    finish_runs(servers.engine, now=now)
    publish_planned(servers.engine, publish, now=now, in_flight=servers.settings.reprocess_in_flight)


def _tell(servers: Servers, target: date, ids: Sequence[int], *, waited: bool, json: bool) -> None:
    """Say what became of it, and raise if it failed."""
    from core.clock import utc_now
    from core.database import session_scope
    from scripts.status import print_runs
    from services.runs import nightly_of, runs_by_id

    with session_scope(servers.engine) as session:
        existing = nightly_of(session, target, utc_now())
        runs = runs_by_id(session, ids, utc_now()) if ids else [existing] if existing else []
    if not ids:
        run = f" (run {existing.id} of {existing.day})" if existing else ""
        note(f"the night of {target} is {existing.status if existing else 'done'} already{run}: nothing changed")
    if json:
        print_json({"day": target, "planned": bool(ids), "runs": runs})
    elif ids:
        print_runs(runs)
    if waited or not ids:
        _raise_if_failed(runs)


def _raise_if_failed(runs: Sequence[RunView]) -> None:
    for run in runs:
        if run.status == "missed":
            raise NightshiftError(
                f"the night of {run.day} was given up (run {run.id}): it was further back than"
                " NIGHTSHIFT_CATCH_UP_DAYS, and the next night brings simulations up over it"
            )
        if run.status in {"failed", "cancelled"}:
            cause = f": {run.error}" if run.error else ""
            remedy = f"; {who_was_left_out(run)}" if run.kind == "nightly" else ""
            raise NightshiftError(
                f"run {run.id} of {run.day} {run.status}{cause} (nightshift batches {run.id}){remedy}"
            )


def who_was_left_out(night: RunView) -> str:
    """What becomes of those whom a night left out that failed or was cancelled."""
    return (
        "whoever it left out is brought up by the next night, or at once by nightshift reprocess"
        f' --from {night.first_day} --all --only missing-and-failed --reason "…"'
    )


def warn_if_nobody_works(servers: Servers) -> None:
    """Say so, where what was published waits for workers to be started."""
    if servers.urls.owned:
        note("no worker is running: nightshift up does the work, or this command with --wait")
    elif not answering_workers(servers):
        note("no worker answers: the run waits until one is started, e.g. with nightshift up")


def _ids(ids: Sequence[int]) -> str:
    return str(ids[0]) if len(ids) == 1 else f"{ids[0]} … {ids[-1]}"
