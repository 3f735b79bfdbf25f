"""Prices without Celery: beat's look, the queue and a worker in this process, a provider on this machine, any clock."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta

from sqlalchemy import Engine

from core.database import session_scope
from core.settings import Settings
from price_sources.fetching import Fetcher, Timeouts
from price_sources.rate_limit import SharedLimit
from price_sources.registry import limits_of, sources
from services.following import Wanted, follow
from services.ingestion import PriceWorker
from services.price_cache import PriceCache
from services.price_chunks import publish_chunks
from services.price_planning import PricesPlanned, plan_prices
from services.publishing import ChunkMessage, MarkMessage
from tests.support.nights import Queue, settings
from tests.support.provider import Provider

WINDOW = timedelta(minutes=5)
UNIT = 10**8
# A source that does not answer is given up soon.
QUICK = {"soft_time_limit": 1, "hard_time_limit": 2}

Market = Callable[[str, datetime], int]
"""The price, in ticks, of a code at a moment."""


def text_of(ticks: int) -> str:
    """A price as Binance writes it."""
    return f"{ticks // UNIT}.{ticks % UNIT:08d}"


@dataclass
class Exchange:
    """Binance's API over a market of our own, at the time of its clock; `down`: nobody answers in a useful way."""

    server: Provider
    codes: list[str]
    market: Market
    now: datetime
    down: bool = False

    def __post_init__(self) -> None:
        self.server.serve("/api/v3/ticker/price", lambda _: self._ticker())
        self.server.serve("/api/v3/klines", self._klines)

    def _ticker(self) -> bytes | tuple[int, bytes]:
        if self.down:
            return 503, b'{"msg":"down for maintenance"}'
        prices = [{"symbol": code, "price": text_of(self.market(code, self.now))} for code in self.codes]
        return json.dumps(prices).encode()

    def _klines(self, query: dict[str, str]) -> bytes | tuple[int, bytes]:
        if self.down:
            return 503, b'{"msg":"down for maintenance"}'
        length = {"5m": WINDOW, "1d": timedelta(days=1), "1m": timedelta(minutes=1)}[query["interval"]]
        first, last = (datetime.fromtimestamp(int(query[name]) / 1000, UTC) for name in ("startTime", "endTime"))
        rows: list[list[object]] = []
        start = first
        while start <= min(last, self.now) and len(rows) < int(query.get("limit", "500")):
            rows.append(self._kline(query["symbol"], start, start + length))
            start += length
        return json.dumps(rows).encode()

    def _kline(self, code: str, start: datetime, end: datetime) -> list[object]:
        opens, closes = (self.market(code, moment) for moment in (start, min(end, self.now)))
        high, low = max(opens, closes), min(opens, closes)
        moments = int(start.timestamp() * 1000), int(end.timestamp() * 1000) - 1
        return [moments[0], *map(text_of, (opens, high, low, closes)), "1.0", moments[1], "1.0", 1, "1.0", "1.0", "0"]


@dataclass
class PriceWorld:
    """Beat and a worker in this process, at any moment."""

    engine: Engine
    settings: Settings
    fetchers: dict[str, Fetcher]
    cache: PriceCache
    now: datetime
    queue: Queue = field(default_factory=Queue)

    def __post_init__(self) -> None:
        self.worker = PriceWorker(
            self.engine, self.settings, self.queue, lambda: self.now, "test", self.fetchers.get, self.cache
        )

    def look(self) -> PricesPlanned:
        """What beat's tick does about prices."""
        with session_scope(self.engine) as session:
            planned = plan_prices(session, sources(self.settings), now=self.now, settings=self.settings)
        publish_chunks(self.engine, self.queue, now=self.now)
        return planned

    def work(self) -> int:
        """Do what is queued; how many chunks are done with it."""
        done = 0
        waiting, self.queue.prices[:] = list(self.queue.prices), []
        for message in waiting:
            if isinstance(message, ChunkMessage):
                done += self.worker.fetch(message.chunk_id)
        return done

    def marks(self) -> list[datetime]:
        """The windows that are to be marked."""
        return [message.window for message in self.queue.prices if isinstance(message, MarkMessage)]

    def step(self, now: datetime) -> PricesPlanned:
        """Look and work at a moment."""
        self.now = now
        planned = self.look()
        self.work()
        return planned


@contextmanager
def price_world(
    engine: Engine,
    redis_url: str,
    now: datetime,
    *,
    symbols: dict[str, str],
    source: str = "binance",
    **changes: object,
) -> Iterator[PriceWorld]:
    """A world in which one source follows these symbols (by our name); `changes` are those of its settings."""
    chosen = settings(price_sources=source, **QUICK | changes)  # type: ignore[arg-type]
    limits = limits_of(chosen)
    quick = Timeouts(connect=1, read=1, whole=1, backoff=0.05, longest_backoff=0.1)
    with session_scope(engine) as session:
        follow(session, source, [Wanted(symbol, code) for symbol, code in symbols.items()], now=now)
    with SharedLimit(redis_url) as limit:
        fetchers = {
            name: Fetcher(one, limit, item=limits[name], timeouts=quick) for name, one in sources(chosen).items()
        }
        try:
            yield PriceWorld(engine, chosen, fetchers, PriceCache(redis_url), now)
        finally:
            for fetcher in fetchers.values():
                fetcher.close()


def wave(code: str, moment: datetime) -> int:
    """A market that moves a little in every window and a few percent a day, the same whenever it is asked."""
    minutes = int(moment.timestamp()) // 60
    seed = sum(map(ord, code))
    return (100 + seed % 50) * UNIT + (minutes * 7919 + seed) % 997 * 10**5


def days(first: date, count: int) -> list[date]:
    """So many days from the first on."""
    return [first + timedelta(days=number) for number in range(count)]
