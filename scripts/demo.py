"""`nightshift demo`: thirty nights on real prices, start to end, and then the stack to look at.

The clock stands one day after the samples end, at noon, so that beat, calendar, health and status are true to them. A
second start finds its users and its finished nights, and repeats nothing.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from datetime import time as time_of_day
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from core.errors import NightshiftError, UsageError
from scripts.cli import Servers, connected, interruptible, note, stay

if TYPE_CHECKING:
    from core.settings import Settings
    from services.runs import RunView

SAMPLES = Path(__file__).parents[1] / "samples" / "us_stocks_daily.csv.gz"
LAST_SAMPLE = date(2022, 12, 28)
NIGHTS = 30
SPREAD_DAYS = 14
_NOON = time_of_day(12, tzinfo=UTC)


def demo(
    users: Annotated[int, typer.Option(min=1, max=1_000_000, help="Users of the first start.")] = 10_000,
    exit_: Annotated[
        bool, typer.Option("--exit", envvar="DEMO_EXIT", help="Stop at the end instead of staying up.")
    ] = False,
) -> None:
    """Thirty nights of sample users on real prices. The whole stack then stays up until Ctrl-C."""
    from scripts.up import full_stack, refuse_second, show_addresses

    if not SAMPLES.is_file():
        raise UsageError(f"{SAMPLES} is missing: the demo runs from a clone of the repository")
    settings = demo_settings()
    refuse_second(settings)
    with interruptible(), connected(settings, migrate_own=True) as servers:
        _prepare(servers, users)
        ids = _plan(servers)
        with full_stack(servers, settings) as stack:
            _run(servers, ids)
            _tell(servers)
            show_addresses(stack, settings)
            if exit_:
                note("stopping …")
                return
            clock = f"NIGHTSHIFT_CLOCK_OFFSET={iso_seconds(settings.clock_offset)}"
            note(f"elsewhere: NIGHTSHIFT_HOME={settings.home} {clock} nightshift status")
            note("up; Ctrl-C stops everything in order")
            stay()


def iso_seconds(span: timedelta) -> str:
    """A span of whole seconds as settings read it, e.g. -PT90S."""
    seconds = round(span.total_seconds())
    return f"{'-' if seconds < 0 else ''}PT{abs(seconds)}S"


def demo_settings() -> Settings:
    """The settings of this process with a home of its own, the demo's clock, and free ports where the usual are taken.

    The whole process lives by that clock from here on. Ports that were set are left alone.
    """
    from core.errors import NightshiftError
    from core.settings import get_settings
    from workers.ports import choose_port

    offset = datetime.combine(LAST_SAMPLE + timedelta(days=1), _NOON) - datetime.now(UTC)  # noqa: TID251 - the offset is to the real clock
    os.environ["NIGHTSHIFT_CLOCK_OFFSET"] = iso_seconds(offset)
    get_settings.cache_clear()
    settings = get_settings()
    changes: dict[str, object] = {"home": settings.home / "demo", "database_url": None, "redis_url": None}
    for name in ("flower_port", "exporter_port"):
        if name in settings.model_fields_set:
            continue
        try:
            choose_port(settings.host, getattr(settings, name), name)
        except NightshiftError:
            note(f"port {getattr(settings, name)} is taken: {name.removesuffix('_port')} takes a free one")
            changes[name] = 0
    return settings.model_copy(update=changes)


@contextmanager
def _timed(what: str) -> Iterator[list[str]]:
    """Say what was done and how long it took; the block may add words."""
    words: list[str] = []
    began = time.perf_counter()
    yield words
    note(f"{' '.join([what, *words])} ({time.perf_counter() - began:.1f} s)")


def _prepare(servers: Servers, users: int) -> None:
    """Prices and users, unless they are there."""
    from sqlalchemy import text

    from core.clock import utc_now
    from core.database import session_scope
    from services.prices import import_closes
    from services.seeding import seed

    with _timed("prices:") as words, session_scope(servers.engine) as session:
        summary = import_closes(session, SAMPLES, now=utc_now(), strict=True, calendar="weekdays")
        words.append(f"{summary.rows:,} closes, {summary.inserted:,} of them new")
    with servers.engine.connect() as connection:
        existing = connection.scalar(text("SELECT count(*) FROM users"))
    if existing:
        note(f"users: {existing:,} from an earlier start")
        return
    with _timed("users:") as words:
        start = LAST_SAMPLE - timedelta(days=NIGHTS - 1)
        seeded = seed(servers.engine, users=users, start=start, spread_days=SPREAD_DAYS)
        words.append(f"{seeded.users:,} seeded, who begin on {seeded.first_day} to {seeded.last_day}")


def _plan(servers: Servers) -> list[int]:
    """The runs that are still to be done. Planned before beat is up, or it would plan the newest night alone."""
    from core.clock import utc_now
    from core.database import session_scope
    from scripts.run import plan
    from services.runs import nightly_ids_through

    plan(servers, LAST_SAMPLE, through=True, each=True, now=utc_now(), by="nightshift demo")
    with session_scope(servers.engine) as session:
        return nightly_ids_through(session, LAST_SAMPLE)


def _run(servers: Servers, ids: Sequence[int]) -> None:
    from core.clock import utc_now
    from scripts.run import publisher_of, wait_for
    from services.relay import publish_planned

    if not ids:
        note("nights: all done in an earlier start")
        return
    with _timed(f"nights: {len(ids)}") as words, publisher_of(servers) as publish:
        publish_planned(servers.engine, publish, now=utc_now())
        state = wait_for(servers, ids)
        words.append(f"with {state.trades:,} trades")
    if state.failed_runs:
        raise NightshiftError(f"{state.failed_runs} of {len(ids)} nights failed (nightshift runs)")


def _tell(servers: Servers) -> None:
    """What happened, on stdout; and the report."""
    from core.clock import utc_now
    from core.database import session_scope
    from scripts.demo_report import demo_page, print_results
    from scripts.page import write_page
    from services.reports import leaders, returns_by_strategy, simulation_report
    from services.runs import list_runs

    with session_scope(servers.engine) as session:
        runs: list[RunView] = [
            run for run in reversed(list_runs(session, utc_now(), limit=NIGHTS * 2))
            if run.kind == "nightly" and run.status == "done"
        ]  # fmt: skip
        best = leaders(session)
        histories = [simulation_report(session, leader.simulation_id) for leader in best]
        returns = returns_by_strategy(session, [run.day for run in runs])
    print_results(runs, best, histories)
    path = servers.settings.nightshift_home() / "report.html"
    write_page(path, demo_page(runs, best, histories, returns))
    note(f"{'report':<10} {path.as_uri()}")
