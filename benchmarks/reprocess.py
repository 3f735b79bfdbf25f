"""How long it takes to do work again: one simulation over a year, and everybody over a month.

Each of the two has servers of its own, and is measured alike. First the nights run undisturbed, as one run over all
days: they warm the workers up, and say what the tables must hold when work has been done again. Then, before each
measurement, days and trades are taken away and their simulations are quarantined as of their start, which is what
nights that leave them out come to. Measured is what `nightshift reprocess --quarantined --wait` does on a running
stack: from the first statement of the request to the end of its run, without the start of Python. In the end every
column of every row and trade is compared.

A wider scope is another `Request`; one that replaces days needs nothing to be taken away before.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Decimal
from typing import Any

from sqlalchemy import Engine, text
from sqlalchemy.orm import Session

from benchmarks.figures import Spread, spread
from benchmarks.night import MAX_NIGHTS
from benchmarks.nights import Night, Watched, run_night, wait_until_ended, watched_stack, worker_peaks
from benchmarks.reprocess_beside import measure_beside
from benchmarks.row_hashes import Contents, contents_of
from benchmarks.site import ASSETS, bench_site, prepare, tidy
from core.clock import utc_now
from core.database import session_scope
from core.errors import NightshiftError, UsageError
from core.settings import Settings
from services.digest import digest_of_day
from services.relay import publish_planned
from services.reprocessing import retry_quarantined
from services.runs import RunView, count_quarantine, run_view

ONE_DAYS = 365
# Among whom the one is: his rows lie on pages that others fill.
ONE_AMONG = 1_000
# A hundredth of half a second.
_POLL_SECONDS = 0.005
_STAGES = ("read", "decode", "market", "compute", "encode", "write", "other")

Tell = Callable[[str], None]
Request = Callable[[Session], int | None]
"""Plans a run, in the caller's transaction; the run's id, or None if there is nothing to do."""


@dataclass(frozen=True, slots=True)
class Reprocess:
    """One request and its run, in seconds.

    Attributes:
        plan: what the request takes: to clear the quarantine and to insert the run.
        total: planning, publishing, all batches, and the end of the run.
        stages: worker seconds of all batches; `other` is the rest of the workers' time, waits for locks among it.
    """

    run: RunView
    plan: float
    total: float
    stages: dict[str, float]

    @property
    def user_days_per_second(self) -> float:
        """Rows written in a second: every user of ours has one simulation."""
        return (self.run.rows or 0) / self.total


@dataclass(frozen=True, slots=True)
class _World:
    """A running stack, its days, and what undisturbed nights wrote on them."""

    watched: Watched
    days: Sequence[date]
    nights: Night
    contents: Contents
    tell: Tell

    @property
    def engine(self) -> Engine:
        return self.watched.site.engine


def measure_reprocess(
    *,
    users: int,
    days: int,
    repeats: int,
    workers: int,
    settings: Settings,
    tell: Tell = lambda _: None,
    one_days: int = ONE_DAYS,
    one_among: int = ONE_AMONG,
) -> dict[str, Any]:
    """One simulation of `one_among` over `one_days` days, and `users` users with one simulation each over `days` days.

    Returns:
        Plain values; what is measured `repeats` times as {"min", "median", "max"}, and the digest of the last day.

    Raises:
        UsageError: numbers out of range.
        NightshiftError: a run did not end well, or the tables are not what undisturbed nights write.
    """
    if not 1 <= days <= MAX_NIGHTS:
        raise UsageError(f"days must be 1 to {MAX_NIGHTS}, not {days}")
    if not 1 <= repeats < one_among:
        raise UsageError(f"repeats must be 1 to {one_among - 1}, not {repeats}")
    numbers = {"users": users, "days": days, "repeats": repeats, "workers": workers}
    one = measure_one(days=one_days, among=one_among, repeats=repeats, workers=workers, settings=settings, tell=tell)
    everybody = measure_all(users=users, days=days, repeats=repeats, workers=workers, settings=settings, tell=tell)
    night = measure_beside(users=users, days=days, repeats=repeats, workers=workers, settings=settings, tell=tell)
    market = {"market": f"synthetic, {ASSETS} assets", "batch_users": settings.batch_users}
    return numbers | market | one | everybody | night


def measure_one(*, days: int, among: int, repeats: int, workers: int, settings: Settings, tell: Tell) -> dict[str, Any]:
    """One simulation over all days, `repeats` times another one of `among`; one more, before them, warms up."""
    # So many batches that each worker process has one or two of the nights that warm it up.
    settings = settings.model_copy(update={"batch_users": max(among // (2 * workers), 1)})

    def measure(world: _World) -> dict[str, Any]:
        measured = []
        for number in range(repeats + 1):
            user = 1 + number * (among // (repeats + 1))
            _leave_out(world.engine, user)
            done = reprocess(world.watched, _retry(settings, [user]))
            _check_run(done, days)
            world.tell(f"{f'user {user}' if number else 'warm-up'}: {days} days in {done.total:.3f} s")
            measured.append(done)
        return {
            "reprocess_one_seconds": spread(each.total for each in measured[1:]),
            "reprocess_one_days": days,
            "reprocess_one_stage_seconds": _stages(measured[1:]),
        }

    return _in_world(users=among, days=days, workers=workers, settings=settings, tell=tell, measure=measure)


def measure_all(*, users: int, days: int, repeats: int, workers: int, settings: Settings, tell: Tell) -> dict[str, Any]:
    """All users over all days in one request, `repeats` times; the peak of a worker is that over the nights as well."""

    def measure(world: _World) -> dict[str, Any]:
        measured = []
        for number in range(1, repeats + 1):
            _leave_out(world.engine, None)
            done = reprocess(world.watched, _retry(settings, None))
            _check_run(done, users * days)
            world.tell(f"reprocess {number}: {users:,} users, {days} days in {done.total:.2f} s")
            measured.append(done)
        return {
            "reprocess_seconds": spread(each.total for each in measured),
            "user_days_per_second": spread((each.user_days_per_second for each in measured), 0),
            "plan_seconds": spread(each.plan for each in measured),
            "stage_seconds": _stages(measured),
            "worker_peak_rss_mib": spread(worker_peaks(world.watched.stack), 1),
            "trades": measured[-1].run.trades,
            "undisturbed_seconds": round(world.nights.total, 4),
            "digest": digest_of_day(world.engine, world.days[-1]).digest,
        }

    return _in_world(users=users, days=days, workers=workers, settings=settings, tell=tell, measure=measure)


def reprocess(watched: Watched, request: Request) -> Reprocess:
    """Ask for it as the command does, publish, and wait until the run has ended.

    Raises:
        NightshiftError: there was nothing to do.
    """
    engine, began = watched.site.engine, time.perf_counter()
    with session_scope(engine) as session:
        run_id = request(session)
    planned = time.perf_counter()
    if run_id is None:
        raise NightshiftError("the request found nothing to do again")
    publish_planned(engine, watched.publish, now=utc_now())
    wait_until_ended(watched.site, run_id, every=_POLL_SECONDS)
    ended = time.perf_counter()
    with session_scope(engine) as session:
        run = run_view(session, run_id, utc_now())
        stages = {name: float(seconds) for name, seconds in session.execute(_STAGE_SECONDS, {"run": run_id})}
    # More workers than batches have nothing to do with it.
    at_work = (ended - planned) * min(watched.site.settings.workers, run.batches)
    stages["other"] = max(at_work - sum(stages.values()), 0.0)
    return Reprocess(run, planned - began, ended - began, stages)


_STAGE_SECONDS = text(
    "SELECT stage, sum(seconds::float8) FROM batches, jsonb_each_text(timings) AS t (stage, seconds)"
    " WHERE run_id = :run GROUP BY stage"
)


def _retry(settings: Settings, users: Sequence[int] | None) -> Request:
    """The quarantined simulations, or those of `users`."""
    return lambda session: retry_quarantined(
        session, reason="measured", requested_by="bench", now=utc_now(), settings=settings, users=users
    )


def _in_world(
    *,
    users: int,
    days: int,
    workers: int,
    settings: Settings,
    tell: Tell,
    measure: Callable[[_World], dict[str, Any]],
) -> dict[str, Any]:
    """Seed, run the nights undisturbed, measure, and compare what the tables hold with what they held before."""
    with bench_site(settings, workers) as site:
        tell(f"seeding {users:,} users …")
        first = prepare(site, users=users, nights=days)
        dates = [first + timedelta(days=offset) for offset in range(days)]
        with watched_stack(site) as watched:
            nights = run_night(watched, dates[-1])
            tell(f"undisturbed: {users:,} users, {days} nights in {nights.total:.2f} s")
            contents = contents_of(site.engine)
            if any(contents["portfolio_days", day][0] != users for day in dates):
                raise NightshiftError("the undisturbed nights left somebody out: see the quarantine")
            world = _World(watched, dates, nights, contents, tell)
            measured = measure(world)
        _check_tables(world)
        return measured


_TAKE_AWAY_ALL = ("TRUNCATE portfolio_days, trades",)
_TAKE_AWAY = ("DELETE FROM portfolio_days WHERE user_id = :user", "DELETE FROM trades WHERE user_id = :user")
_QUARANTINE = (
    "INSERT INTO quarantine (user_id, simulation_id, day, reason, detail)"
    " SELECT user_id, id, start_day, 'no_close', 'of the benchmark' FROM simulations"
)


def _leave_out(engine: Engine, user: int | None) -> None:
    """As if the nights had never seen this user; without one, nobody at all."""
    whose = "" if user is None else " WHERE user_id = :user"
    with engine.begin() as connection:
        for statement in (*(_TAKE_AWAY_ALL if user is None else _TAKE_AWAY), _QUARANTINE + whose):
            connection.execute(text(statement), {} if user is None else {"user": user})
    tidy(engine, "portfolio_days, trades, quarantine, runs, batches, run_simulations")


def _check_run(done: Reprocess, rows: int) -> None:
    run = done.run
    if run.status != "done":
        raise NightshiftError(f"the reprocess {run.status}: {run.error or 'see the log'}")
    if (run.rows, run.quarantined) != (rows, 0):
        raise NightshiftError(f"the reprocess wrote {run.rows} rows instead of {rows}, quarantined {run.quarantined}")


def _check_tables(world: _World) -> None:
    """Every row and trade is there once, as if nobody had ever been left out, and nobody is any more."""
    with session_scope(world.engine) as session:
        quarantined = count_quarantine(session)
    if quarantined:
        raise NightshiftError(f"{quarantined} simulations are still in quarantine")
    found = contents_of(world.engine)
    for table, day in sorted(found.keys() | world.contents.keys()):
        rows, expected = found.get((table, day), (0, Decimal(0))), world.contents.get((table, day), (0, Decimal(0)))
        if rows != expected:
            raise NightshiftError(
                f"after the reprocess {table} of {day} are not those of undisturbed nights: "
                + (f"{rows[0]} instead of {expected[0]}" if rows[0] != expected[0] else "as many, but others")
            )


def _stages(measured: Sequence[Reprocess]) -> dict[str, Spread]:
    return {name: spread(each.stages.get(name, 0.0) for each in measured) for name in _STAGES}
