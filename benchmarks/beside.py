"""What prices that come in cost a night: nights alone and nights beside windows of prices, in turn on the same stack.

Windows come much more often than in production, so that every night has some of them to bear: through the real way,
from the provider over HTTP, Redis and the workers for prices to ticks, closes and cache.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date, datetime, timedelta
from typing import Any

from sqlalchemy import text

from benchmarks.figures import spread
from benchmarks.nights import Watched, run_night, watched_stack
from benchmarks.price_market import SOURCE, Market, wanted_symbols
from benchmarks.price_server import price_server
from benchmarks.site import Site, bench_site, prepare, tidy
from core.clock import utc_now
from core.database import session_scope
from core.errors import NightshiftError, UsageError
from core.settings import Settings
from models.partitions import day_partition
from price_sources.registry import sources
from services.following import follow
from services.price_chunks import publish_chunks
from services.price_planning import plan_prices, window_start
from services.price_store import Followed

_BODIES = 60
_LOOK_SECONDS = 1.0
MAX_NIGHTS = 100


def measure_beside(
    *,
    users: int,
    nights: int,
    symbols: int,
    window_seconds: int,
    workers: int,
    settings: Settings,
    tell: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Run `nights` nights alone and as many beside prices of `symbols` symbols every `window_seconds`, in turn.

    Raises:
        UsageError: numbers out of range.
        NightshiftError: a night did not end well, or no window came while a night beside them ran.
    """
    if not 1 <= nights <= MAX_NIGHTS:
        raise UsageError(f"nights must be 1 to {MAX_NIGHTS}, not {nights}")
    wanted = wanted_symbols(symbols)
    market = Market({one.code: Followed(0, one.symbol, one.code) for one in wanted})
    bodies = [market.window(utc_now()).body for _ in range(_BODIES)]
    # There and back again, so that the first follows the last without a jump.
    with price_server(bodies + bodies[::-1]) as url:
        changes = {"price_sources": SOURCE, "binance_url": url, "price_window_seconds": window_seconds}
        with bench_site(settings.model_copy(update=changes), workers) as site:
            tell(f"seeding {users:,} users …")
            first = prepare(site, users=users, nights=2 * nights + 1)
            with session_scope(site.engine) as session:
                follow(session, SOURCE, wanted, now=utc_now())
            with watched_stack(site) as watched:
                return {"users": users, "nights": nights, "symbols": symbols, "window_seconds": window_seconds} | (
                    _measure(watched, first, nights, tell)
                )


def _measure(watched: Watched, first: date, nights: int, tell: Callable[[str], None]) -> dict[str, Any]:
    seconds: dict[str, list[float]] = {"alone": [], "beside": []}
    windows = 0
    for number in range(2 * nights + 1):
        day = first + timedelta(days=number)
        if number == 0 or number % 2:
            night = run_night(watched, day)
        else:
            with prices_coming(watched) as count:
                night = run_night(watched, day)
                windows += count()
        tidy(watched.site.engine, f"{day_partition(day).name}, runs, batches, latest_prices, closes, price_chunks")
        if number:
            kind = "alone" if number % 2 else "beside"
            seconds[kind].append(night.total)
            tell(f"night {number} {kind}: {night.users:,} users in {night.total:.2f} s")
    if windows == 0:
        raise NightshiftError("no window of prices came while a night ran: take more users or shorter windows")
    alone, beside = spread(seconds["alone"]), spread(seconds["beside"])
    return {
        "alone_seconds": alone,
        "beside_seconds": beside,
        "windows_beside": windows,
        "throughput_beside": round(alone["median"] / beside["median"], 3),
    }


@contextmanager
def prices_coming(watched: Watched) -> Iterator[Callable[[], int]]:
    """Windows are planned and published, as by beat, while the block runs; yields a count of those that came."""
    site = watched.site
    stop = threading.Event()
    failures: list[BaseException] = []

    def beat() -> None:
        try:
            _look(watched)
            while not stop.wait(_LOOK_SECONDS):
                _look(watched)
        except Exception as error:  # noqa: BLE001 - told to whoever waits for the block
            failures.append(error)

    began = utc_now()
    thread = threading.Thread(target=beat, name="prices", daemon=True)
    thread.start()
    try:
        yield lambda: _windows(site, began)
    finally:
        stop.set()
        thread.join()
        _forget(site)
    if failures:
        raise failures[0]


def _look(watched: Watched) -> None:
    site, now = watched.site, utc_now()
    with session_scope(site.engine) as session:
        plan_prices(session, sources(site.settings), now=now, settings=site.settings)
        # Windows only: the history of ten thousand symbols is another matter.
        session.execute(text("DELETE FROM price_chunks WHERE kind <> 'live' AND status = 'planned'"))
    publish_chunks(site.engine, watched.publish, now=now)


def _windows(site: Site, since: datetime) -> int:
    """How many were given to the workers."""
    query = text(
        "SELECT count(*) FROM price_chunks WHERE kind = 'live' AND queued_at IS NOT NULL AND created_at >= :since"
    )
    with site.engine.connect() as connection:
        return int(connection.scalar(query, {"since": since}) or 0)


def _forget(site: Site) -> None:
    """Let the time until the next block leave no gap that would have to be filled."""
    current = window_start(utc_now(), site.settings.price_window_seconds)
    with site.engine.begin() as connection:
        connection.execute(text("DELETE FROM price_windows WHERE starts_at <= :current"), {"current": current})
        connection.execute(text("UPDATE price_chunks SET status = 'failed' WHERE status IN ('planned', 'queued')"))
