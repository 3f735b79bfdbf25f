"""From a provider's answer to ticks, closes and cache: windows, an hour of outage, refusals, and what is counted."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta

import pytest
from sqlalchemy import Engine, text

from services import ingestion
from services.ingestion import night_is_running
from services.locks import PRICES_LOCK
from tests.support.nights import change, rows, scalar
from tests.support.polling import wait_until
from tests.support.price_world import UNIT, WINDOW, Exchange, PriceWorld, price_world, wave
from tests.support.provider import Provider

START = datetime(2026, 3, 10, 12, 0, tzinfo=UTC)
SECOND = timedelta(seconds=1)
SYMBOLS = {"BTC": "BTCUSDT", "ETH": "ETHUSDT"}


@pytest.fixture
def server() -> Iterator[Provider]:
    with Provider() as server:
        yield server


@pytest.fixture
def exchange(server: Provider) -> Exchange:
    return Exchange(server, list(SYMBOLS.values()), wave, START)


@pytest.fixture
def world(engine: Engine, redis_url: str, server: Provider) -> Iterator[PriceWorld]:
    with price_world(engine, redis_url, START, symbols=SYMBOLS, binance_url=server.url) as world:
        yield world


def step(world: PriceWorld, exchange: Exchange, now: datetime) -> None:
    exchange.now = now
    world.step(now)


def windows(engine: Engine) -> list[tuple[datetime, str]]:
    return [(row[0], row[1]) for row in rows(engine, "SELECT starts_at, status FROM price_windows ORDER BY 1")]


def test_a_window_from_the_provider_to_the_cache(world: PriceWorld, exchange: Exchange) -> None:
    step(world, exchange, START)
    assert windows(world.engine) == [(START, "done")]
    prices = {symbol: wave(code, START) for symbol, code in SYMBOLS.items()}
    found = rows(world.engine, "SELECT a.symbol, t.price FROM price_ticks t JOIN assets a ON a.id = t.asset_id")
    assert dict(found) == prices
    closes = rows(world.engine, "SELECT a.symbol, c.close FROM closes c JOIN assets a ON a.id = c.asset_id"
                  " WHERE day = :day", day=START.date())  # fmt: skip
    assert dict(closes) == prices
    cached = world.cache.get(world.engine, list(SYMBOLS))
    assert {symbol: view.price for symbol, view in cached.items()} == prices
    assert world.marks() == [START]


def test_a_window_is_fetched_once_by_two_beats_and_messages_that_come_twice(
    world: PriceWorld, exchange: Exchange, server: Provider
) -> None:
    exchange.now = world.now = START
    for _ in range(2):
        world.look()
    world.queue.prices *= 2
    world.work()
    assert len(server.asked("/api/v3/ticker/price")) == 1


def test_the_closes_of_the_day_before_come_with_the_first_look_of_the_day(
    world: PriceWorld, exchange: Exchange
) -> None:
    step(world, exchange, START)
    midnight = datetime(2026, 3, 11, tzinfo=UTC)
    step(world, exchange, midnight + timedelta(minutes=10))
    found = rows(world.engine, "SELECT day, kind, close FROM closes WHERE asset_id = 1 ORDER BY day")
    assert found == [
        (date(2026, 3, 9), "candle", wave("BTCUSDT", midnight - timedelta(days=1))),
        (date(2026, 3, 10), "candle", wave("BTCUSDT", midnight)),
        (date(2026, 3, 11), "tick", wave("BTCUSDT", midnight + timedelta(minutes=10))),
    ]


def test_a_price_that_waits_past_midnight_to_be_stored_is_one_of_a_day_that_is_over(
    world: PriceWorld, exchange: Exchange
) -> None:
    """A night may have gone by the close that it replaces, and workers know that one."""
    night, midnight = date(2026, 3, 10), datetime(2026, 3, 11, tzinfo=UTC)
    step(world, exchange, midnight - WINDOW - 20 * SECOND)
    exchange.now = world.now = midnight - 20 * SECOND
    world.look()
    waits = "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
    with world.engine.connect() as other, ThreadPoolExecutor(1) as thread:
        other.execute(text("SELECT pg_advisory_lock(:key)"), {"key": PRICES_LOCK})
        work = thread.submit(world.work)
        wait_until(lambda: rows(world.engine, waits), what="the worker waits for another writer of prices")
        world.now = midnight + timedelta(minutes=2)
        insert = "INSERT INTO runs (kind, first_day, day, requested_by, status, scope, batch_users)"
        change(world.engine, f"{insert} VALUES ('nightly', :day, :day, 'test', 'done', '{{}}', 1)", day=night)
        other.rollback()
        other.execute(text("SELECT pg_advisory_unlock_all()"))
        work.result()
    assert scalar(world.engine, "SELECT count(*) FROM closes WHERE day = :day AND kind = 'tick'", day=night) == 2
    assert scalar(world.engine, "SELECT version FROM closes_version") == 1


def test_an_hour_without_the_provider_leaves_no_gap(world: PriceWorld, exchange: Exchange) -> None:
    step(world, exchange, START)
    exchange.down = True
    for number in range(1, 13):
        step(world, exchange, START + number * WINDOW)
    assert [status for _, status in windows(world.engine)] == ["done", *["failed"] * 11, "planned"]
    (alert,) = rows(world.engine, "SELECT key, detail FROM alerts WHERE cleared_at IS NULL")
    assert alert[0] == "prices:binance"
    assert "503" in str(alert[1])
    exchange.down = False
    back = START + 13 * WINDOW
    for seconds in (0, 5, 10):
        step(world, exchange, back + seconds * SECOND)
    assert {status for _, status in windows(world.engine)} == {"done", "filled"}
    assert scalar(world.engine, "SELECT count(*) FROM alerts WHERE cleared_at IS NULL") == 0
    for asset_id, code in enumerate(SYMBOLS.values(), start=1):
        found = rows(world.engine, "SELECT ts, price FROM price_ticks WHERE asset_id = :id ORDER BY ts", id=asset_id)
        expected = [(START + number * WINDOW, wave(code, START + number * WINDOW)) for number in range(14)]
        assert found == expected, "as if it had never been away"


def test_a_beat_that_was_away_leaves_no_gap(world: PriceWorld, exchange: Exchange) -> None:
    step(world, exchange, START)
    back = START + 30 * WINDOW
    for seconds in (0, 5, 10, 15):
        step(world, exchange, back + seconds * SECOND)
    assert scalar(world.engine, "SELECT count(*) FROM price_ticks") == 31 * len(SYMBOLS)
    assert {status for _, status in windows(world.engine)} == {"done", "filled"}


def test_a_failure_within_the_window_is_tried_again(world: PriceWorld, exchange: Exchange, server: Provider) -> None:
    server.fault("/api/v3/ticker/price", "500", times=50)
    step(world, exchange, START)
    assert windows(world.engine) == [(START, "planned")]
    server._faults.clear()
    step(world, exchange, START + 3 * SECOND)
    assert windows(world.engine) == [(START, "done")]
    assert scalar(world.engine, "SELECT count(*) FROM alerts") == 0


def test_an_answer_without_any_price_that_was_asked_for_is_a_failure(world: PriceWorld, server: Provider) -> None:
    server.serve("/api/v3/ticker/price", b'[{"symbol": "DOGEUSDT", "price": "1.0"}]')
    world.step(START)
    (error,) = rows(world.engine, "SELECT error FROM price_chunks WHERE kind = 'live'")
    assert error == ("no price in the answer: 2 missing",)
    assert windows(world.engine) == [(START, "planned")]


def test_what_is_missing_is_counted_and_the_rest_is_used(world: PriceWorld, server: Provider) -> None:
    server.serve("/api/v3/ticker/price", b'[{"symbol": "BTCUSDT", "price": "0.00000000"},'
                 b' {"symbol": "ETHUSDT", "price": "12.5"}]')  # fmt: skip
    world.step(START)
    assert rows(world.engine, "SELECT status, ticks, counts FROM price_windows") == [("done", 1, {"zero": 1})]
    assert scalar(world.engine, "SELECT price FROM latest_prices") == 125 * UNIT // 10


def test_a_refusal_fails_the_window_and_is_not_repeated(world: PriceWorld, server: Provider) -> None:
    server.serve("/api/v3/ticker/price", (403, b'{"msg":"this country is not served"}'))
    world.step(START)
    world.step(START + 60 * SECOND)
    assert len(server.asked("/api/v3/ticker/price")) == 1
    world.step(START + WINDOW)
    (alert,) = rows(world.engine, "SELECT detail FROM alerts")
    assert "403" in str(alert[0])
    assert "this country is not served" in str(alert[0])


def test_of_a_fill_that_breaks_off_only_the_rest_is_asked_again(
    world: PriceWorld, exchange: Exchange, server: Provider
) -> None:
    step(world, exchange, START)
    step(world, exchange, START + 3 * WINDOW)
    assert world.look().fills == 1
    before = len(server.asked("/api/v3/klines"))
    broken = [{"symbol": "BTCUSDT"}, {"symbol": "ETHUSDT"}]
    serve = exchange._klines

    def breaks_at_the_second(query: dict[str, str]) -> bytes | tuple[int, bytes]:
        return (503, b"{}") if query["symbol"] == "ETHUSDT" and broken else serve(query)

    server.serve("/api/v3/klines", breaks_at_the_second)
    world.work()
    assert rows(world.engine, "SELECT status, asset_ids FROM price_chunks WHERE kind = 'fill'") == [("planned", [2])]
    assert scalar(world.engine, "SELECT count(*) FROM price_ticks WHERE asset_id = 1") == 4
    broken.clear()
    step(world, exchange, START + 3 * WINDOW + 10 * SECOND)
    asked = [request.query["symbol"] for request in server.asked("/api/v3/klines")[before:]]
    assert asked[0] == "BTCUSDT"
    assert asked.count("BTCUSDT") == 1
    assert scalar(world.engine, "SELECT count(*) FROM price_ticks WHERE asset_id = 2") == 4
    assert {status for _, status in windows(world.engine)} == {"done", "filled"}


def test_a_symbol_that_never_answers_costs_no_other_its_history_and_is_given_up(
    world: PriceWorld, exchange: Exchange, server: Provider
) -> None:
    serve = exchange._klines

    def never_bitcoin(query: dict[str, str]) -> bytes | tuple[int, bytes]:
        return (500, b"{}") if query["symbol"] == "BTCUSDT" else serve(query)

    step(world, exchange, START)
    step(world, exchange, START + 2 * WINDOW)
    server.serve("/api/v3/klines", never_bitcoin)
    moment = START + 2 * WINDOW + SECOND
    for _ in range(12):
        step(world, exchange, moment)
        due = scalar(world.engine, "SELECT max(not_before) FROM price_chunks WHERE kind = 'fill'")
        moment = max(moment, due or moment) + SECOND
    assert scalar(world.engine, "SELECT count(*) FROM price_ticks WHERE asset_id = 2") >= 3, "ether was filled"
    assert rows(world.engine, "SELECT status, asset_ids FROM price_chunks WHERE kind = 'fill' AND first = :first",
                first=START + WINDOW) == [("failed", [1])]  # fmt: skip
    window = rows(
        world.engine, "SELECT status, error FROM price_windows WHERE starts_at = :start", start=START + WINDOW
    )
    assert window[0][0] == "failed"
    assert window[0][1].startswith("not filled: binance gave no usable answer")
    world.look()
    again = "SELECT count(*) FROM price_chunks WHERE kind = 'fill' AND first = :first AND status <> 'failed'"
    assert scalar(world.engine, again, first=START + WINDOW) == 0, "others have their turn first"
    server.serve("/api/v3/klines", serve)
    world.now = exchange.now = moment + timedelta(hours=1, minutes=1)
    world.look()
    world.work()
    # How many windows the waiting between two attempts went over is left to chance.
    left = "SELECT count(*) FROM price_windows WHERE status IN ('failed', 'filling')"
    for seconds in range(1, 13):
        if scalar(world.engine, left):
            step(world, exchange, world.now + seconds * SECOND)
    assert scalar(world.engine, left) == 0


def test_an_unknown_symbol_harms_no_other(world: PriceWorld, exchange: Exchange, server: Provider) -> None:
    serve = exchange._klines

    def knows_only_ether(query: dict[str, str]) -> bytes | tuple[int, bytes]:
        return (400, b'{"code":-1121,"msg":"Invalid symbol."}') if query["symbol"] == "BTCUSDT" else serve(query)

    server.serve("/api/v3/klines", knows_only_ether)
    step(world, exchange, START)
    assert rows(world.engine, "SELECT asset_id, kind FROM closes WHERE day < :day", day=START.date()) == [(2, "candle")]
    assert scalar(world.engine, "SELECT status FROM price_chunks WHERE kind = 'closes'") == "done"


def test_a_source_that_is_no_longer_enabled_leaves_its_chunks_failed(world: PriceWorld, exchange: Exchange) -> None:
    exchange.now = world.now = START
    world.look()
    world.fetchers.pop("binance").close()
    world.work()
    error = "the source is not enabled: NIGHTSHIFT_PRICE_SOURCES"
    assert set(rows(world.engine, "SELECT status, error FROM price_chunks")) == {("failed", error)}


def test_a_night_that_is_running_goes_first_and_the_window_is_stored_behind_it(
    world: PriceWorld, exchange: Exchange, monkeypatch: pytest.MonkeyPatch
) -> None:
    change(world.engine, "INSERT INTO runs (kind, first_day, day, status, scope, requested_by, batch_users)"
           " VALUES ('nightly', '2026-03-09', '2026-03-09', 'running', '{}', 'test', 1)")  # fmt: skip
    looks: list[int] = []

    def ends_the_night_at_the_third_look(engine: Engine) -> bool:
        looks.append(scalar(engine, "SELECT count(*) FROM price_ticks"))
        if len(looks) == 3:
            change(engine, "UPDATE runs SET status = 'done'")
        return night_is_running(engine)

    monkeypatch.setattr(ingestion, "night_is_running", ends_the_night_at_the_third_look)
    step(world, exchange, START)
    assert looks[:3] == [0, 0, 0]
    assert windows(world.engine) == [(START, "done")]


def test_redis_away_means_no_request_without_its_limit(world: PriceWorld, exchange: Exchange, server: Provider) -> None:
    # The limit lies in a Redis that is not there: a port that nobody listens on.
    from price_sources.fetching import Fetcher, Timeouts
    from price_sources.rate_limit import SharedLimit

    exchange.now = world.now = START
    world.look()
    working = world.fetchers["binance"]
    with SharedLimit("redis://:secret@127.0.0.1:1/0") as limit:
        world.fetchers["binance"] = Fetcher(working.source, limit, timeouts=Timeouts(backoff=0.05))
        world.work()
        world.fetchers.pop("binance").close()
    world.fetchers["binance"] = working
    assert server.requests == []
    (error,) = rows(world.engine, "SELECT error FROM price_chunks WHERE kind = 'live'")
    assert "Redis" in str(error[0])
    assert "secret" not in str(error[0])
