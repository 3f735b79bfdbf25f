"""Figures of a market's last day and month: from the tables at most an hour ago, exact where they are money.

One statement computes them for many symbols: each looks by its key into one or two months of ticks and a month of
closes. The cache is read through; without it they are computed.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from sqlalchemy import Engine, Row, text

from core.database import session_scope
from models.ticks import from_ticks
from services.cache_server import Client
from services.live_valuation import change_ppm
from services.price_cache import PriceCache

KEY_PREFIX = "nightshift:stats:"
TTL = timedelta(hours=1)
_DAY = timedelta(days=1)
# A market that is closed for longer has no price of a day ago.
_LONGEST_PAUSE = timedelta(days=7)
_VOLATILITY_DAYS = 30


@dataclass(frozen=True, slots=True)
class MarketStatistics:
    """An asset's figures at `computed_at`; prices in units. None: there are not the prices to tell.

    Attributes:
        last, last_at: the latest price or, if that is newer, the last finished day's close.
        change_24h_ppm: of `last` against the newest tick that is at least a day old, in millionths, rounded down.
        high_24h, low_24h: of the ticks of the last 24 hours.
        volatility_30d: standard deviation of the logarithmic returns between the closes of the last 30 finished days, a
            year's (times the root of 365).
    """

    symbol: str
    last: Decimal
    last_at: datetime
    change_24h_ppm: int | None
    high_24h: Decimal | None
    low_24h: Decimal | None
    volatility_30d: float | None
    computed_at: datetime

    def as_json(self) -> dict[str, Any]:
        """Amounts as text of eight decimals, moments in ISO 8601."""
        return {
            "symbol": self.symbol,
            "last": f"{self.last:f}",
            "last_at": self.last_at.isoformat(),
            "change_24h_ppm": self.change_24h_ppm,
            "high_24h": None if self.high_24h is None else f"{self.high_24h:f}",
            "low_24h": None if self.low_24h is None else f"{self.low_24h:f}",
            "volatility_30d": self.volatility_30d,
            "computed_at": self.computed_at.isoformat(),
        }


def market_statistics(
    engine: Engine, cache: PriceCache, symbols: Iterable[str], *, now: datetime
) -> dict[str, MarketStatistics]:
    """The figures of each symbol, in their order; one that is unknown or has no price yet is left out.

    Raises:
        sqlalchemy.exc.SQLAlchemyError: some are missing in the cache, and the database is away.
    """
    wanted = list(dict.fromkeys(symbol for symbol in symbols if symbol.isprintable()))
    if not wanted:
        return {}
    keys = [KEY_PREFIX + symbol for symbol in wanted]
    values = cache.server.softly("get statistics", lambda client: client.mget(keys))
    found = dict(_decoded(wanted, values or ()))
    missing = [symbol for symbol in wanted if symbol not in found]
    if missing:
        fresh = compute_statistics(engine, missing, now=now)
        if fresh and values is not None:
            cache.server.softly("put statistics back", lambda client: _put(client, fresh))
        found |= fresh
    return {symbol: found[symbol] for symbol in wanted if symbol in found}


def compute_statistics(engine: Engine, symbols: Sequence[str], *, now: datetime) -> dict[str, MarketStatistics]:
    """The figures of each symbol from the tables."""
    today = now.astimezone(UTC).date()
    values = {
        "symbols": list(symbols),
        "now": now,
        "day_ago": now - _DAY,
        "long_ago": now - _DAY - _LONGEST_PAUSE,
        "today": today,
        "first_close": today - timedelta(days=_VOLATILITY_DAYS + 1),
    }
    with session_scope(engine) as session:
        return {row.symbol: _from_row(row, now) for row in session.execute(_STATISTICS, values)}


_STATISTICS = text(
    """
    SELECT a.symbol, newest.price AS last, newest.moment AS last_at,
        hours.high, hours.low, before.price AS before, month.volatility
    FROM assets a
    LEFT JOIN latest_prices l ON l.asset_id = a.id
    LEFT JOIN LATERAL (
        SELECT close, coalesce(as_of, least(recorded_at, CAST(day + 1 AS timestamp) AT TIME ZONE 'UTC')) AS closed_at
        FROM closes WHERE asset_id = a.id AND day < :today ORDER BY day DESC LIMIT 1
    ) AS c ON true
    CROSS JOIN LATERAL (
        SELECT v.price, v.moment FROM (VALUES (1, l.price, l.ts), (2, c.close, c.closed_at)) AS v (i, price, moment)
        WHERE v.price IS NOT NULL ORDER BY v.moment DESC, v.i LIMIT 1
    ) AS newest
    CROSS JOIN LATERAL (
        SELECT max(price) AS high, min(price) AS low FROM price_ticks
        WHERE asset_id = a.id AND ts > :day_ago AND ts <= :now
    ) AS hours
    LEFT JOIN LATERAL (
        SELECT price FROM price_ticks
        WHERE asset_id = a.id AND ts > :long_ago AND ts <= :day_ago ORDER BY ts DESC LIMIT 1
    ) AS before ON true
    CROSS JOIN LATERAL (
        SELECT stddev_samp(step) * sqrt(365) AS volatility FROM (
            SELECT ln(CAST(close AS double precision) / lag(close) OVER (ORDER BY day)) AS step
            FROM closes WHERE asset_id = a.id AND day >= :first_close AND day < :today
        ) AS steps
    ) AS month
    WHERE a.symbol = ANY(:symbols)
    """
)


def _from_row(row: Row[Any], now: datetime) -> MarketStatistics:
    return MarketStatistics(
        symbol=row.symbol,
        last=from_ticks(row.last),
        last_at=row.last_at,
        change_24h_ppm=None if row.before is None else change_ppm(row.before, row.last),
        high_24h=None if row.high is None else from_ticks(row.high),
        low_24h=None if row.low is None else from_ticks(row.low),
        volatility_30d=row.volatility,
        computed_at=now,
    )


def _put(client: Client, fresh: Mapping[str, MarketStatistics]) -> None:
    with client.pipeline(transaction=False) as pipeline:
        for symbol, statistics in fresh.items():
            value = json.dumps(statistics.as_json(), separators=(",", ":"))
            pipeline.set(KEY_PREFIX + symbol, value, ex=TTL)
        pipeline.execute()


def _decoded(symbols: Sequence[str], values: Sequence[bytes | str | None]) -> Iterable[tuple[str, MarketStatistics]]:
    """Those that are there; what we did not write is as if it were not."""
    for symbol, value in zip(symbols, values, strict=False):
        if value is None:
            continue
        try:
            document = json.loads(value)
            high, low = document["high_24h"], document["low_24h"]
            statistics = MarketStatistics(
                symbol=symbol,
                last=Decimal(document["last"]),
                last_at=datetime.fromisoformat(document["last_at"]),
                change_24h_ppm=document["change_24h_ppm"],
                high_24h=None if high is None else Decimal(high),
                low_24h=None if low is None else Decimal(low),
                volatility_30d=document["volatility_30d"],
                computed_at=datetime.fromisoformat(document["computed_at"]),
            )
        except (ValueError, TypeError, KeyError, ArithmeticError):
            continue
        yield symbol, statistics
