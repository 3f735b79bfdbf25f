"""Figures of a market's last day and month, against a slow oracle; through the cache and without it."""

from __future__ import annotations

import itertools
import math
import random
import statistics
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
import redis
from sqlalchemy import Engine, text

from models.partitions import ensure_month_partitions
from services.market_statistics import KEY_PREFIX, MarketStatistics, compute_statistics, market_statistics
from services.price_cache import PriceCache
from tests.support.nights import change

# The last day reaches back into another month's partition.
NOW = datetime(2024, 3, 1, 9, 30, tzinfo=UTC)
MINUTES = timedelta(minutes=5)


@pytest.fixture
def cache(redis_url: str) -> Iterator[PriceCache]:
    cache = PriceCache(redis_url)
    yield cache
    cache.close()


def ticks_of(number: int) -> dict[datetime, int]:
    """Three days of windows up to NOW; the highest is exactly a day old."""
    draw = random.Random(number)
    ticks = {NOW - MINUTES * back: draw.randrange(10**8, 10**10) for back in range(3 * 288)}
    return ticks | {NOW - timedelta(days=1): 10**11 + number}


def closes_of(number: int) -> dict[int, int]:
    """Forty closes by how many days before NOW's; that of NOW's own day is the first."""
    draw = random.Random(100 + number)
    return {back: draw.randrange(10**8, 10**10) for back in range(40)}


@pytest.fixture
def priced(engine: Engine) -> Engine:
    """A and B with ticks and closes, `closed` with closes only, `new` with nothing."""
    with engine.begin() as connection:
        ensure_month_partitions(connection, "price_ticks", [NOW.date(), NOW.date() - timedelta(days=7)])
        connection.execute(text("INSERT INTO assets (symbol) VALUES ('A'), ('B'), ('closed'), ('new')"))
        connection.execute(
            text("INSERT INTO price_ticks (asset_id, ts, price, source) VALUES (:asset, :ts, :price, 'test')"),
            [{"asset": asset, "ts": ts, "price": p} for asset in (1, 2) for ts, p in ticks_of(asset).items()],
        )
        connection.execute(
            text("INSERT INTO closes (day, asset_id, close, source) VALUES (:day, :asset, :close, 'test')"),
            [
                {"day": NOW.date() - timedelta(days=back), "asset": asset, "close": close}
                for asset in (1, 2, 3)
                for back, close in closes_of(asset).items()
            ],
        )
        connection.execute(
            text("INSERT INTO latest_prices (asset_id, ts, price, source) VALUES (:asset, :ts, :price, 'test')"),
            [{"asset": asset, "ts": NOW, "price": ticks_of(asset)[NOW]} for asset in (1, 2)],
        )
    return engine


def units(ticks: int) -> Decimal:
    return Decimal(ticks) / 10**8


def volatility(number: int) -> float:
    closes = [close for back, close in sorted(closes_of(number).items(), reverse=True) if 1 <= back <= 31]
    steps = [math.log(after / before) for before, after in itertools.pairwise(closes)]
    assert len(steps) == 30
    return statistics.stdev(steps) * math.sqrt(365)


def test_figures_are_those_of_the_ticks_and_closes(priced: Engine, cache: PriceCache) -> None:
    found = market_statistics(priced, cache, ["B", "A", "unknown", "new", "closed"], now=NOW)
    assert list(found) == ["B", "A", "closed"]
    for number, symbol in enumerate("AB", 1):
        ticks, shown = ticks_of(number), found[symbol]
        last_day = [price for ts, price in ticks.items() if ts > NOW - timedelta(days=1)]
        assert len(last_day) == 288
        before = ticks[NOW - timedelta(days=1)]
        assert (shown.last, shown.last_at) == (units(ticks[NOW]), NOW)
        assert (shown.high_24h, shown.low_24h) == (units(max(last_day)), units(min(last_day)))
        assert shown.change_24h_ppm == ticks[NOW] * 10**6 // before - 10**6
        assert shown.volatility_30d == pytest.approx(volatility(number), rel=1e-12)
    closed = found["closed"]
    assert (closed.last, closed.last_at) == (units(closes_of(3)[1]), datetime(2024, 3, 1, tzinfo=UTC))
    assert (closed.change_24h_ppm, closed.high_24h, closed.low_24h) == (None, None, None)
    assert closed.volatility_30d == pytest.approx(volatility(3), rel=1e-12)


def test_after_a_weekend_the_change_is_against_the_last_tick_before_it(priced: Engine) -> None:
    change(priced, "DELETE FROM price_ticks WHERE asset_id = 1 AND ts > :ts", ts=NOW - timedelta(hours=60))
    (shown,) = compute_statistics(priced, ["A"], now=NOW).values()
    before = ticks_of(1)[NOW - timedelta(hours=60)]
    assert shown.change_24h_ppm == ticks_of(1)[NOW] * 10**6 // before - 10**6
    assert (shown.high_24h, shown.low_24h) == (None, None)


def test_figures_are_computed_once_an_hour(priced: Engine, cache: PriceCache, redis_url: str) -> None:
    symbols = ["A", "closed"]
    first = market_statistics(priced, cache, symbols, now=NOW)
    change(priced, "UPDATE latest_prices SET price = 1")
    later = NOW + timedelta(minutes=10)
    assert market_statistics(priced, cache, symbols, now=later) == first
    with redis.Redis.from_url(redis_url) as client:
        assert 3590 < int(client.ttl(KEY_PREFIX + "A")) <= 3600
        client.set(KEY_PREFIX + "A", b"rubbish")
        anew = market_statistics(priced, cache, symbols, now=later)
        assert (anew["A"].last, anew["A"].computed_at) == (units(1), later)
        assert anew["closed"] == first["closed"]
        client.flushdb()
    assert market_statistics(priced, cache, ["closed"], now=later)["closed"].computed_at == later


def test_without_a_cache_figures_take_longer(priced: Engine) -> None:
    away = PriceCache("redis://127.0.0.1:1/0")
    found = market_statistics(priced, away, ["A"], now=NOW)
    assert found == compute_statistics(priced, ["A"], now=NOW)
    assert isinstance(found["A"], MarketStatistics)
    away.close()
