"""The cache of prices on a real server: what it holds is what the database accepted, and losing it costs time only."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import redis
from sqlalchemy import Engine, event

from core.errors import UsageError
from core.settings import Settings
from services.cache_server import cache_url
from services.price_cache import CacheCounts, LatestView, PriceCache, price_key
from tests.support.nights import change
from workers.embedded import EmbeddedServers

NOON = datetime(2024, 3, 5, 12, tzinfo=UTC)
EARLIER, LATER = NOON - timedelta(minutes=5), NOON + timedelta(minutes=5)
Client = redis.Redis


def view(symbol: str, price: int, ts: datetime = NOON) -> LatestView:
    return LatestView(symbol, price, ts, "test")


@pytest.fixture
def priced(engine: Engine) -> Engine:
    """Three assets, of which A and B have a price; B's is one tick."""
    change(engine, "INSERT INTO assets (symbol) VALUES ('A'), ('B'), ('C')")
    change(
        engine,
        "INSERT INTO latest_prices (asset_id, ts, price, source)"
        " SELECT id, :noon, CASE symbol WHEN 'A' THEN 12345000000 ELSE 1 END, 'test'"
        " FROM assets WHERE symbol IN ('A', 'B')",
        noon=NOON,
    )
    return engine


A, B = view("A", 12_345_000_000), view("B", 1)


@pytest.fixture
def cache(redis_url: str) -> Iterator[PriceCache]:
    cache = PriceCache(redis_url)
    yield cache
    cache.close()


@pytest.fixture
def client(redis_url: str) -> Iterator[Client]:
    with redis.Redis.from_url(redis_url) as client:
        yield client


def stored(client: Client, symbol: str) -> Any:
    value = client.get(price_key(symbol))
    assert isinstance(value, bytes)
    return json.loads(value)


@contextmanager
def statements(engine: Engine) -> Iterator[list[str]]:
    """What the database is asked in the block."""
    asked: list[str] = []

    def note(_connection: object, _cursor: object, statement: str, *_rest: object) -> None:
        asked.append(statement)

    event.listen(engine, "before_cursor_execute", note)
    yield asked
    event.remove(engine, "before_cursor_execute", note)


def test_a_price_is_read_from_the_database_once_and_then_from_the_cache(priced: Engine, cache: PriceCache) -> None:
    with statements(priced) as asked:
        assert cache.get(priced, ["B", "A"]) == {"B": B, "A": A}
    assert len(asked) == 1
    with statements(priced) as asked:
        assert list(cache.get(priced, ["B", "A", "B"])) == ["B", "A"]
    assert asked == []
    assert cache.counts() == CacheCounts(hits=2, misses=2)
    assert cache.get(priced, ["A", "C", "unknown", "nul\0", "\udc80"]) == {"A": A}
    assert cache.counts() == CacheCounts(hits=3, misses=4)
    assert cache.get(priced, []) == {}


def test_a_price_is_kept_as_exact_text_for_five_minutes(cache: PriceCache, client: Client) -> None:
    largest = view("largest", 2**63 - 1)
    cache.put([A, B, largest])
    assert stored(client, "A") == {"ts": "2024-03-05T12:00:00.000000+00:00", "price": "123.45000000", "source": "test"}
    assert stored(client, "B")["price"] == "0.00000001"
    assert stored(client, "largest")["price"] == "92233720368.54775807"
    assert client.get("nightshift:price:A") is not None
    assert all(290 < int(client.ttl(price_key(symbol))) <= 300 for symbol in ("A", "B", "largest"))


@pytest.mark.parametrize("order", [(EARLIER, NOON), (NOON, EARLIER)])
def test_of_two_prices_the_newer_stays_whatever_their_order(
    cache: PriceCache, client: Client, order: tuple[datetime, datetime]
) -> None:
    for ts in order:
        cache.put([view("A", 100 if ts == NOON else 99, ts), view("B", 7, ts)])
    assert stored(client, "A")["price"] == "0.00000100"
    # The same moment again, corrected.
    cache.put([view("A", 101)])
    assert stored(client, "A")["price"] == "0.00000101"


def test_moments_compare_as_moments_in_any_zone_and_fraction(cache: PriceCache, client: Client) -> None:
    tokyo = NOON.astimezone(tz=datetime.fromisoformat("2000-01-01T00:00:00+09:00").tzinfo)
    cache.put([view("A", 1, NOON + timedelta(microseconds=500_000))])
    cache.put([view("A", 2, tokyo)])
    assert stored(client, "A")["price"] == "0.00000001"
    cache.put([view("A", 3, tokyo + timedelta(seconds=1))])
    assert stored(client, "A")["price"] == "0.00000003"


def test_what_a_reader_puts_back_gives_way_to_a_writer_who_was_faster(
    priced: Engine, cache: PriceCache, client: Client
) -> None:
    # While the reader looks into the database, a writer corrects the price of the same moment and caches it.
    corrected = view("A", 12_346_000_000)

    def write(*_: object) -> None:
        cache.put([corrected])

    event.listen(priced, "after_cursor_execute", write)
    assert cache.get(priced, ["A", "B"]) == {"A": A, "B": B}
    event.remove(priced, "after_cursor_execute", write)
    assert stored(client, "A")["price"] == "123.46000000"
    assert cache.get(priced, ["A", "B"]) == {"A": corrected, "B": B}


@pytest.mark.parametrize(
    "rubbish",
    [
        b"\xff\xfe",
        b"no json",
        b"[]",
        b"null",
        b'{"price":"NaN","ts":"2024-03-05T12:00:00+00:00","source":"test"}',
        b'{"price":"-1.00000000","ts":"2024-03-05T12:00:00+00:00","source":"test"}',
        b'{"price":1.5,"ts":"2024-03-05T12:00:00+00:00","source":"test"}',
        b'{"price":"1.00000000","ts":"2024-03-05T12:00:00","source":"test"}',
        b'{"price":"1.00000000","ts":"yesterday","source":"test"}',
        b'{"price":"1.00000000"}',
    ],
)
def test_what_we_did_not_write_is_no_price(priced: Engine, cache: PriceCache, client: Client, rubbish: bytes) -> None:
    client.set(price_key("A"), rubbish)
    assert cache.get(priced, ["A"]) == {"A": A}
    assert stored(client, "A")["price"] == "123.45000000"
    client.delete(price_key("A"))
    client.hset(price_key("A"), "a", "hash")
    assert cache.get(priced, ["A"]) == {"A": A}
    assert stored(client, "A")["price"] == "123.45000000"


def test_an_emptied_cache_is_filled_again(priced: Engine, cache: PriceCache, client: Client) -> None:
    cache.put([A, B])
    client.flushdb()
    assert cache.get(priced, ["A", "B"]) == {"A": A, "B": B}
    assert stored(client, "A")["price"] == "123.45000000"


def test_a_server_that_stops_and_comes_back_is_no_error(priced: Engine, tmp_path: Path) -> None:
    with EmbeddedServers(tmp_path / "cache", serve_postgres=False) as servers:
        url = servers.start().redis_url
        cache = PriceCache(url)
        cache.put([A])
        assert cache.get(priced, ["A"]) == {"A": A}
        servers.stop()
        cache.put([view("A", 1, LATER)])
        assert cache.get(priced, ["A", "B"]) == {"A": A, "B": B}
        assert cache.counts() is None
        assert servers.start().redis_url == url
        # At once, through a pool whose connections are dead.
        assert cache.get(priced, ["B"]) == {"B": B}
        cache.put([view("A", 2, LATER)])
        assert cache.get(priced, ["A"]) == {"A": view("A", 2, LATER)}
        cache.close()


def test_a_full_server_is_no_error(priced: Engine, tmp_path: Path) -> None:
    with EmbeddedServers(tmp_path / "cache", serve_postgres=False) as servers:
        cache = PriceCache(servers.start().redis_url)
        with redis.Redis.from_url(servers.start().redis_url) as client:
            client.config_set("maxmemory", "1")
            with pytest.raises(redis.ResponseError):
                client.set("any", 1)
        cache.put([A])
        assert cache.get(priced, ["A", "B"]) == {"A": A, "B": B}
        cache.close()


def test_ten_thousand_prices_take_one_trip_each_way(engine: Engine, cache: PriceCache, client: Client) -> None:
    prices = [view(f"S{number:05}", number + 1) for number in range(10_000)]
    before = commands(client)
    cache.put(prices)
    assert commands(client)["eval"] - before.get("eval", 0) == 10
    before = commands(client)
    with statements(engine) as asked:
        assert cache.get(engine, [price.symbol for price in prices]) == {price.symbol: price for price in prices}
    assert asked == []
    assert commands(client)["mget"] - before["mget"] == 1
    assert cache.counts() == CacheCounts(hits=10_000, misses=0)


def commands(client: Client) -> dict[str, int]:
    """How often the server has run each command."""
    counts: Any = client.info("commandstats")
    return {name.removeprefix("cmdstat_"): figures["calls"] for name, figures in counts.items()}


def test_the_url_is_the_brokers_unless_the_cache_has_one() -> None:
    broker = "redis://broker/0"
    assert cache_url(Settings(_env_file=None), broker) == broker
    assert cache_url(Settings(_env_file=None, cache_url="redis://cache/1"), broker) == "redis://cache/1"
    with pytest.raises(UsageError, match="NIGHTSHIFT_CACHE_URL"):
        PriceCache("http://:hush@cache")
