"""The latest prices in Redis: never a price that PostgreSQL did not accept, and after a mishap at most one TTL behind.

The truth is `latest_prices`; the cache is read through to it, so an empty, lost or stopped Redis costs time only. Two
chunks may put their prices in any order: a price never takes the place of a newer one. The comparison is made by a
script in the server, for a thousand keys at a time, because other clients wait while it runs; to read the keys before
writing them would be a race. Prices that are put back after a miss give way to whatever is there already: between the
look into the database and the putting back, a writer may have been faster.

Mishaps are a writer that dies between its commit and `put`, and a cache that is emptied between a reader's look and its
putting back while a writer passes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import NamedTuple

from sqlalchemy import Engine, text

from core.database import session_scope
from models.ticks import TICKS_PER_UNIT, to_ticks
from services.cache_server import CacheServer, Client, cache_url

__all__ = ["CacheCounts", "LatestView", "PriceCache", "cache_url", "price_key", "read_counts"]

KEY_PREFIX = "nightshift:price:"
COUNTS_KEY = "nightshift:price_cache"
TTL = timedelta(minutes=5)
_KEYS_PER_SCRIPT = 1_000


class LatestView(NamedTuple):
    """The newest accepted price of an asset: ticks of 1e-8, when it was, and who said so."""

    symbol: str
    price: int
    ts: datetime
    source: str


class CacheCounts(NamedTuple):
    """How many prices were ever found in the cache, and how many were not, by all processes."""

    hits: int
    misses: int

    @property
    def hit_ratio(self) -> float | None:
        """Between 0 and 1; None before the first question."""
        asked = self.hits + self.misses
        return self.hits / asked if asked else None


class PriceCache:
    """The cache at `url`, made once a process after its fork; threads may share it. `server` is for other caches.

    Raises:
        UsageError: `url` is no Redis URL.
    """

    def __init__(self, url: str, *, ttl: timedelta = TTL) -> None:
        self.server = CacheServer(url)
        self._ttl = int(ttl.total_seconds())

    def put(self, prices: Sequence[LatestView]) -> None:
        """Cache prices that are committed in `latest_prices`, in one round trip. An older one changes nothing."""
        if not prices:
            return

        def write(client: Client) -> None:
            with client.pipeline(transaction=False) as pipeline:
                self._write(pipeline, prices, "not older")
                pipeline.execute()

        self.server.softly("put prices", write)

    def get(self, engine: Engine, symbols: Iterable[str]) -> dict[str, LatestView]:
        """The latest price of each symbol, in their order; a symbol that is unknown or has no price is left out.

        Raises:
            sqlalchemy.exc.SQLAlchemyError: prices are missing in the cache, and the database is away.
        """
        # What no import takes, no server need be asked for: neither driver would send a NUL or half a surrogate.
        wanted = list(dict.fromkeys(symbol for symbol in symbols if symbol.isprintable()))
        if not wanted:
            return {}
        cached = self._read(wanted)
        found = dict(cached or {})
        missing = [symbol for symbol in wanted if symbol not in found]
        fresh = latest_prices(engine, missing) if missing else {}
        if cached is not None:
            self._answered(len(cached), len(missing), list(fresh.values()))
        found |= fresh
        return {symbol: found[symbol] for symbol in wanted if symbol in found}

    def counts(self) -> CacheCounts | None:
        """Hits and misses so far; None: the cache does not answer."""
        return self.server.softly("read the counts", read_counts)

    def close(self) -> None:
        """Close the connections."""
        self.server.close()

    def _read(self, symbols: Sequence[str]) -> dict[str, LatestView] | None:
        """What is cached of `symbols`; None: the cache does not answer."""
        keys = [price_key(symbol) for symbol in symbols]
        values = self.server.softly("get prices", lambda client: client.mget(keys))
        if values is None:
            return None
        views = (_decode(symbol, value) for symbol, value in zip(symbols, values, strict=True))
        return {view.symbol: view for view in views if view is not None}

    def _answered(self, hits: int, misses: int, fresh: Sequence[LatestView]) -> None:
        def write(client: Client) -> None:
            with client.pipeline(transaction=False) as pipeline:
                self._write(pipeline, fresh, "absent or older")
                pipeline.hincrby(COUNTS_KEY, "hits", hits)
                pipeline.hincrby(COUNTS_KEY, "misses", misses)
                pipeline.execute()

        self.server.softly("put prices back", write)

    def _write(self, pipeline: Client, prices: Sequence[LatestView], condition: str) -> None:
        for first in range(0, len(prices), _KEYS_PER_SCRIPT):
            block = prices[first : first + _KEYS_PER_SCRIPT]
            keys = [price_key(price.symbol) for price in block]
            pipeline.eval(_SET_UNLESS_NEWER, len(keys), *keys, self._ttl, condition, *_encoded(block))


def price_key(symbol: str) -> str:
    """The key under which the price of `symbol` lies."""
    return KEY_PREFIX + symbol


def read_counts(client: Client) -> CacheCounts:
    """Hits and misses so far; a cache that evicts may have begun anew, as any counter may."""
    hits, misses = client.hmget(COUNTS_KEY, ["hits", "misses"])
    return CacheCounts(int(hits or 0), int(misses or 0))


def latest_prices(engine: Engine, symbols: Sequence[str]) -> dict[str, LatestView]:
    """The truth: the newest accepted price by symbol, in one statement."""
    with session_scope(engine) as session:
        rows = session.execute(_LATEST, {"symbols": list(symbols)})
        return {row.symbol: LatestView(row.symbol, row.price, row.ts, row.source) for row in rows}


_LATEST = text(
    "SELECT a.symbol, l.price, l.ts, l.source FROM latest_prices l JOIN assets a ON a.id = l.asset_id"
    " WHERE a.symbol = ANY(:symbols)"
)

# Each value begins with its moment, in one width and one zone, so that their beginnings compare as moments. What does
# not begin so is not ours, and older than anything.
_SET_UNLESS_NEWER = """
local there = redis.call('MGET', unpack(KEYS))
for i, key in ipairs(KEYS) do
    local value, before = ARGV[i + 2], there[i]
    local moment = string.sub(value, 1, 39)
    before = before and string.find(before, '^{"ts":"%d%d%d%d%-') and string.sub(before, 1, 39) or ''
    if before < moment or (before == moment and ARGV[2] == 'not older') then
        redis.call('SET', key, value, 'EX', ARGV[1])
    end
end
"""


def _encoded(prices: Sequence[LatestView]) -> Iterator[str]:
    # All but the price is that of many others.
    heads: dict[tuple[datetime, str], str] = {}
    for price in prices:
        head = heads.get((price.ts, price.source))
        if head is None:
            moment = price.ts.astimezone(UTC).isoformat(timespec="microseconds")
            head = json.dumps({"ts": moment, "source": price.source}, separators=(",", ":"))[:-1]
            heads[price.ts, price.source] = head
        units, ticks = divmod(price.price, TICKS_PER_UNIT)
        yield f'{head},"price":"{units}.{ticks:08d}"}}'


def _decode(symbol: str, value: bytes | str | None) -> LatestView | None:
    """The price in `value`; None, which is a miss, for anything that we did not write."""
    if value is None:
        return None
    try:
        document = json.loads(value)
        amount, ts, source = document["price"], datetime.fromisoformat(document["ts"]), document["source"]
        if not isinstance(amount, str) or not isinstance(source, str):
            return None
        price = to_ticks(Decimal(amount))
    except (ValueError, TypeError, KeyError, InvalidOperation):
        return None
    return LatestView(symbol, price, ts, source) if price > 0 and ts.tzinfo else None
