"""One night, watched from where it is planned: how long each part takes, and what it costs in memory and log."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import psutil
from sqlalchemy import text

from benchmarks.site import Site, tidy
from core.clock import utc_now
from core.database import driver_connection, session_scope
from core.errors import NightshiftError
from models.partitions import day_partition
from models.tables import RUN_UNFINISHED
from services.planning import plan_nights
from services.publishing import Publisher
from services.relay import publish_planned
from services.runs import run_view
from workers.app import make_app
from workers.publisher import CeleryPublisher
from workers.stack import Stack

_POLL_SECONDS = 0.02
_MIB = 2**20


@dataclass(frozen=True, slots=True)
class Night:
    """Seconds from the first statement of planning on; memory in MiB, at its peak.

    Attributes:
        first_batch: from the first message's way to Redis to the first batch's claim.
        total: planning, publishing, all batches, and the end of the run.
        stages: worker seconds of all batches by stage; `other` is the rest of the workers' time.
        worker_rss: of each pool process; producer_rss: of this process, which plans and publishes.
    """

    run_id: int
    day: date
    users: int
    simulations: int
    trades: int
    quarantined: int
    plan: float
    publish: float
    first_batch: float
    total: float
    wal_bytes: int
    stages: dict[str, float]
    worker_rss: tuple[float, ...]
    producer_rss: float


@dataclass(frozen=True, slots=True)
class Watched:
    """A running stack, and who publishes to it. `check` raises what makes it useless to wait for a night's end."""

    site: Site
    stack: Stack
    publish: Publisher
    log: Path
    check: Callable[[], None] = lambda: None


@contextmanager
def watched_stack(site: Site) -> Iterator[Watched]:
    """Workers as they run in production, without beat, Flower and exporter: the benchmark is the only one to ask."""
    stack = Stack(site.settings, site.urls, workers=site.settings.workers, beat=False, flower=False, exporter=False)
    with stack, make_app(site.settings, site.urls.redis_url) as app:
        log = site.settings.nightshift_home() / "log" / "simulations.log"
        yield Watched(site, stack, CeleryPublisher(app), log)


def run_nights(watched: Watched, days: Sequence[date], tell: Callable[[str], None]) -> Iterator[Night]:
    """Run the nights of `days`, one after the other, with the rest of the day's work in between; the first warms up."""
    for number, day in enumerate(days):
        night = run_night(watched, day)
        tell(f"{'warm-up' if number == 0 else f'night {number}'}: {night.users:,} users in {night.total:.2f} s")
        tidy(watched.site.engine, f"{day_partition(day).name}, runs, batches")
        yield night


def run_night(watched: Watched, day: date) -> Night:
    """Plan, publish, and wait until the run has ended.

    Raises:
        NightshiftError: it did not end well.
    """
    engine, settings = watched.site.engine, watched.site.settings
    log_begins, wal_begins = watched.log.stat().st_size, _wal_position(watched.site)
    began = time.perf_counter()
    with session_scope(engine) as session:
        (run_id,) = plan_nights(session, through=day, now=utc_now(), settings=settings, requested_by="bench")
    planned = time.perf_counter()
    publish_planned(engine, watched.publish, now=utc_now())
    published = time.perf_counter()
    wait_until_ended(watched.site, run_id, check=watched.check)
    ended = time.perf_counter()
    wal_bytes = _wal_position(watched.site) - wal_begins
    with session_scope(engine) as session:
        run = run_view(session, run_id, utc_now())
        first = session.scalar(text("SELECT min(started_at) FROM batches WHERE run_id = :run"), {"run": run_id})
    if run.status != "done" or run.started_at is None or first is None:
        raise NightshiftError(f"the night of {day} {run.status}: {run.error or 'see the log'}")
    return Night(
        run_id=run_id,
        day=day,
        users=run.users,
        simulations=run.simulations or 0,
        trades=run.trades or 0,
        quarantined=run.quarantined or 0,
        plan=planned - began,
        publish=published - planned,
        first_batch=(first - run.started_at).total_seconds(),
        total=ended - began,
        wal_bytes=wal_bytes,
        stages=_stages(watched, log_begins, run_id, (ended - planned) * settings.workers),
        worker_rss=worker_peaks(watched.stack),
        producer_rss=peak_rss(os.getpid()),
    )


def wait_until_ended(
    site: Site, run_id: int, every: float = _POLL_SECONDS, check: Callable[[], None] = lambda: None
) -> None:
    """Wait for the end of the run, looking `every` so many seconds; what `check` raises ends it."""
    # One key looked up on one connection: what watches the night must not cost the night.
    query, values = "SELECT 1 FROM runs WHERE id = %s AND status = ANY(%s)", (run_id, list(RUN_UNFINISHED))
    with site.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        session = driver_connection(connection)
        while session.execute(query, values).fetchone() is not None:
            check()
            time.sleep(every)


def _wal_position(site: Site) -> int:
    with site.engine.connect() as connection:
        return int(connection.scalar(text("SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn")) or 0)


def _stages(watched: Watched, log_begins: int, run_id: int, worker_seconds: float) -> dict[str, float]:
    """Worker seconds by stage, from the workers' log lines behind `log_begins`: the commit is in no table."""
    total: Counter[str] = Counter()
    with watched.log.open("rb") as log:
        log.seek(log_begins)
        for line in log:
            if b'"batch done"' in line and (said := json.loads(line))["run"] == run_id:
                total.update(said["stages"])
    return dict(total) | {"other": max(worker_seconds - sum(total.values()), 0.0)}


def worker_peaks(stack: Stack) -> tuple[float, ...]:
    """The peak resident memory of each pool process, MiB."""
    pool = psutil.Process(stack.processes["simulations"]).children()
    return tuple(peak_rss(process.pid) for process in pool)


def peak_rss(pid: int) -> float:
    """A process' peak resident memory, MiB; what it has now where the system does not tell."""
    status = Path(f"/proc/{pid}/status")
    if not status.exists():
        return float(psutil.Process(pid).memory_info().rss / _MIB)
    (peak,) = (line for line in status.read_text(encoding="ascii").splitlines() if line.startswith("VmHWM:"))
    return int(peak.split()[1]) * 1024 / _MIB
