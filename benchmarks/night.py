"""How long a night takes, all of it: planning, Redis, Celery workers, PostgreSQL, the end of the run.

On servers of its own in a temporary home, with settings of production. The first night, in which workers warm up and
most simulations begin, is not measured.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, text

from benchmarks.market import ASSETS, write_market
from core.clock import utc_now
from core.database import make_engine, session_scope
from core.errors import NightshiftError, UsageError
from core.settings import Settings
from models.migrate import migrate
from models.tables import RUN_UNFINISHED
from services.digest import digest_of_day
from services.planning import plan_nights
from services.prices import import_closes
from services.publishing import Publisher
from services.relay import publish_planned
from services.runs import RunView, run_view
from services.seeding import seed
from workers.app import make_app
from workers.embedded import EmbeddedServers
from workers.publisher import CeleryPublisher
from workers.stack import Stack

MAX_NIGHTS = 365
_POLL_SECONDS = 0.01
_RUN_STATUS = text("SELECT status FROM runs WHERE id = :run")


@dataclass(frozen=True, slots=True)
class _Night:
    plan: float
    publish: float
    total: float
    run: RunView


def measure_nights(
    *, users: int, nights: int, workers: int, settings: Settings, tell: Callable[[str], None] = lambda _: None
) -> dict[str, Any]:
    """Seed `users` users with one simulation each, run a night to warm up and then `nights` more, each on its own.

    Returns:
        Plain values; seconds and users per second as {"min", "median", "max"} over the nights, and the digest and
        rows of the last one.

    Raises:
        UsageError: numbers out of range.
        NightshiftError: a night did not end well.
    """
    if not 1 <= nights <= MAX_NIGHTS:
        raise UsageError(f"nights must be 1 to {MAX_NIGHTS}, not {nights}")
    with tempfile.TemporaryDirectory(prefix="nightshift-bench-", ignore_cleanup_errors=True) as directory:
        home = Path(directory)
        settings = settings.model_copy(
            update={"home": home, "workers": workers, "database_url": None, "redis_url": None}
        )
        with EmbeddedServers(home) as servers:
            urls = servers.start()
            engine = make_engine(urls.database_url, application="nightshift-bench")
            try:
                tell(f"seeding {users:,} users …")
                first = _prepare(engine, home, users, nights)
                stack = Stack(settings, urls, workers=workers, beat=False, flower=False, exporter=False)
                with stack, make_app(settings, urls.redis_url) as app:
                    days = [first + timedelta(days=offset) for offset in range(nights + 1)]
                    measured = _run_nights(engine, CeleryPublisher(app), days, settings, tell)
                last = digest_of_day(engine, days[-1])
            finally:
                engine.dispose()
    return _summary(users, workers, settings, measured) | {
        "digest": last.digest,
        "rows": last.rows,
        "day": last.day.isoformat(),
    }


def _prepare(engine: Engine, home: Path, users: int, nights: int) -> date:
    migrate(engine)
    first = write_market(home / "market.csv", nights + 1)
    with session_scope(engine) as session:
        import_closes(session, home / "market.csv", now=utc_now(), strict=True)
    seed(engine, users=users, start=first)
    return first


def _run_nights(
    engine: Engine, publish: Publisher, days: Sequence[date], settings: Settings, tell: Callable[[str], None]
) -> list[_Night]:
    """The nights of `days` but the first, which only warms up."""
    measured = []
    for number, day in enumerate(days):
        night = _run_night(engine, publish, day, settings)
        tell(f"{'warm-up' if number == 0 else f'night {number}'}: {night.run.users:,} users in {night.total:.2f} s")
        if number:
            measured.append(night)
    return measured


def _run_night(engine: Engine, publish: Publisher, day: date, settings: Settings) -> _Night:
    began = time.perf_counter()
    with session_scope(engine) as session:
        (run_id,) = plan_nights(session, through=day, now=utc_now(), settings=settings, requested_by="bench")
    planned = time.perf_counter()
    publish_planned(engine, publish, now=utc_now())
    published = time.perf_counter()
    _wait_until_ended(engine, run_id)
    ended = time.perf_counter()
    with session_scope(engine) as session:
        run = run_view(session, run_id, utc_now())
    if run.status != "done":
        raise NightshiftError(f"the night of {day} {run.status}: {run.error or 'see the log'}")
    return _Night(planned - began, published - planned, ended - began, run)


def _wait_until_ended(engine: Engine, run_id: int) -> None:
    # One key looked up on one connection: what watches the night must not cost the night.
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        while connection.execute(_RUN_STATUS, {"run": run_id}).scalar_one() in RUN_UNFINISHED:
            time.sleep(_POLL_SECONDS)


def _summary(users: int, workers: int, settings: Settings, nights: Sequence[_Night]) -> dict[str, Any]:
    return {
        "users": users,
        "nights": len(nights),
        "workers": workers,
        "batch_users": settings.batch_users,
        "market": f"synthetic, {ASSETS} assets",
        "night_seconds": _spread([night.total for night in nights]),
        "users_per_second": _spread([night.run.users / night.total for night in nights]),
        "plan_seconds": _spread([night.plan for night in nights]),
        "publish_seconds": _spread([night.publish for night in nights]),
        "trades": _spread([float(night.run.trades or 0) for night in nights]),
        "quarantined": sum(night.run.quarantined or 0 for night in nights),
    }


def _spread(values: Sequence[float]) -> dict[str, float]:
    return {
        "min": round(min(values), 4),
        "median": round(statistics.median(values), 4),
        "max": round(max(values), 4),
    }
