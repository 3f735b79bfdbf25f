"""How long the status page and Prometheus wait for the exporter when the system is large and old.

The real exporter in its process, on a database with a thousand runs and a million users, asked page by page by an
operator who is logged in. Workers are there and idle: what a night costs the pages depends on the machine, and what the
pages cost a night is bounded by the CPU seconds told here.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import httpx
import psutil
from sqlalchemy import Engine

from benchmarks.figures import Spread, spread
from benchmarks.pages_world import LAST_DAY, Scale, fill_scale, paths
from benchmarks.site import bench_site, tidy
from core.clock import utc_now
from core.database import session_scope
from core.errors import NightshiftError, UsageError
from core.settings import Settings
from models.migrate import migrate
from services.operators import add_operator
from workers.stack import Stack

MAX_RUNS = 10_000
BATCHES = 100
_TIMES = 15
# Noon of the day after the last one, so that the newest night is the one at hand.
_NOW = datetime(LAST_DAY.year, LAST_DAY.month, LAST_DAY.day + 1, 12, tzinfo=UTC)
_CSRF = re.compile(r'name="csrf" value="([0-9a-f]+)"')


@dataclass(frozen=True, slots=True)
class _Asked:
    """What one address took: milliseconds until the whole answer was there, and of the exporter's processor."""

    waited: Spread
    cpu: float


def measure_pages(
    *,
    users: int,
    runs: int,
    workers: int,
    settings: Settings,
    tell: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Ask for every kind of page and for the metrics, each fifteen times after one to warm up.

    Raises:
        UsageError: numbers out of range.
        NightshiftError: a page did not come.
    """
    if not 10 <= runs <= MAX_RUNS:
        raise UsageError(f"runs must be 10 to {MAX_RUNS}, not {runs}")
    if users < 1_000:
        raise UsageError(f"users must be 1000 or more, not {users}")
    scale = large_scale(users, runs)
    changes = {"clock_offset": _NOW - utc_now(), "exporter_port": 0, "price_sources": "binance", "metrics_token": None}
    with bench_site(settings.model_copy(update=changes), workers) as site:
        tell(f"filling a database with {users:,} users and {runs:,} runs of {BATCHES} batches …")
        migrate(site.engine)
        fill_scale(site.engine, scale, _NOW)
        tidy(site.engine, "runs")
        with (
            Stack(site.settings, site.urls, workers=workers, beat=False, flower=False) as stack,
            _operator(site.engine, stack.addresses["page"]) as client,
        ):
            exporter = psutil.Process(stack.processes["exporter"])
            found = {}
            for path in [*paths(scale), "/metrics"]:
                found[path] = asked = _ask(client, path, exporter)
                tell(f"{path}: {asked.waited['median']:.0f} ms, {asked.cpu:.0f} ms of the exporter's processor")
    scrape = found.pop("/metrics")
    return {
        "users": users,
        "runs": runs,
        "batches": runs * BATCHES,
        "page_ms": {path: asked.waited for path, asked in found.items()},
        "page_cpu_ms": spread((asked.cpu for asked in found.values()), 1),
        "slowest_page_ms": max(asked.waited["median"] for asked in found.values()),
        "scrape_ms": scrape.waited,
        "scrape_cpu_ms": scrape.cpu,
    }


def large_scale(users: int, runs: int) -> Scale:
    """What is measured: a partition for each of the last 400 nights, two of them with everybody's rows."""
    return Scale(users=users, runs=runs, batches=BATCHES, days=min(400, max(40, runs)), few=1_000, full=2)


@contextmanager
def _operator(engine: Engine, address: str) -> Iterator[httpx.Client]:
    """An operator who has just been made, logged in by the form as people do it."""
    password = secrets.token_urlsafe(24)
    with session_scope(engine) as session:
        add_operator(session, "bench", "operator", password, now=utc_now())
    with httpx.Client(base_url=address, timeout=60) as client:
        token = _CSRF.search(client.get("/login").text)
        if token is None:
            raise NightshiftError("the login page has no form")
        client.post("/login", data={"csrf": token[1], "name": "bench", "password": password})
        yield client


def _ask(client: httpx.Client, path: str, exporter: psutil.Process) -> _Asked:
    waited, before = [], 0.0
    for number in range(_TIMES + 1):
        if number == 1:
            before = _cpu_seconds(exporter)
        began = time.perf_counter()
        answer = client.get(path)
        waited.append(1000 * (time.perf_counter() - began))
        if answer.status_code != httpx.codes.OK:
            raise NightshiftError(f"{path} answered {answer.status_code}")
    return _Asked(spread(waited[1:], 1), round(1000 * (_cpu_seconds(exporter) - before) / _TIMES, 1))


def _cpu_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)
