"""Daily closes: the stronger word wins, a jump needs bearing out, and a provider's candle replaces the last tick."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import pytest
from sqlalchemy import Engine

from core.database import session_scope
from price_sources.source import DayClose, Quote
from services.candle_store import store_closes
from services.decisions import accept_held
from services.following import Wanted, follow
from services.price_store import Followed, Stored, store_quotes
from tests.support.nights import change, rows, settings

DAY = date(2026, 3, 9)
NOW = datetime(2026, 3, 10, 0, 5, tzinfo=UTC)
SETTINGS = settings(price_sources="binance,coingecko")
UNIT = 10**8


@pytest.fixture
def assets(engine: Engine) -> dict[str, Followed]:
    """One asset that both sources follow."""
    with session_scope(engine) as session:
        follow(session, "coingecko", [Wanted("BTC", "btc")], now=NOW)
        return follow(session, "binance", [Wanted("BTC", "btc")], now=NOW)


def close(day: date, units: int, **more: int) -> DayClose:
    return DayClose("btc", day, units * UNIT, **{name: value * UNIT for name, value in more.items()})  # type: ignore[arg-type]


def store(engine: Engine, assets: dict[str, Followed], *closes: DayClose, source: str = "binance") -> Stored:
    with session_scope(engine) as session:
        return store_closes(session, source, assets, closes, now=NOW, settings=SETTINGS)


def closes(engine: Engine) -> list[tuple[object, ...]]:
    return rows(engine, "SELECT day, close / 100000000, kind, source FROM closes ORDER BY day")


def held(engine: Engine) -> list[tuple[object, ...]]:
    return rows(engine, "SELECT ts::date, price / 100000000, status FROM held_prices ORDER BY id")


def test_a_candle_is_kept_with_all_that_it_says(engine: Engine, assets: dict[str, Followed]) -> None:
    said = DayClose("btc", DAY, 100 * UNIT, 98 * UNIT, 105 * UNIT, 97 * UNIT, Decimal("1234.5678901234"))
    assert store(engine, assets, said, close(DAY + timedelta(days=1), 101)).ticks == 2
    found = rows(engine, "SELECT close, open, high, low, volume, as_of FROM closes WHERE day = :day", day=DAY)
    assert found == [(100 * UNIT, 98 * UNIT, 105 * UNIT, 97 * UNIT, Decimal("1234.5678901234"), None)]


def test_a_candle_wins_over_the_last_tick_and_not_the_other_way(engine: Engine, assets: dict[str, Followed]) -> None:
    evening = datetime(2026, 3, 9, 23, 55, tzinfo=UTC)
    with session_scope(engine) as session:
        store_quotes(session, "binance", assets, [Quote("btc", evening, 99 * UNIT)], now=evening, settings=SETTINGS)
    assert closes(engine) == [(DAY, 99, "tick", "binance")]
    store(engine, assets, close(DAY, 100))
    assert closes(engine) == [(DAY, 100, "candle", "binance")]
    late = [Quote("btc", evening + timedelta(minutes=4), 101 * UNIT)]
    with session_scope(engine) as session:
        store_quotes(session, "binance", assets, late, now=NOW, settings=SETTINGS)
    assert closes(engine) == [(DAY, 100, "candle", "binance")]


@pytest.mark.parametrize("kind", ["import", "correction"])
def test_a_candle_leaves_a_stronger_word_alone(engine: Engine, assets: dict[str, Followed], kind: str) -> None:
    store(engine, assets, close(DAY, 100))
    change(engine, "UPDATE closes SET kind = :kind, source = 'ada', close = :close", kind=kind, close=102 * UNIT)
    assert store(engine, assets, close(DAY, 101)).ticks == 0
    assert closes(engine) == [(DAY, 102, kind, "ada")]


def test_among_candles_the_source_that_is_named_first_wins(engine: Engine, assets: dict[str, Followed]) -> None:
    store(engine, assets, close(DAY, 100), source="coingecko")
    store(engine, assets, close(DAY, 101))
    assert closes(engine) == [(DAY, 101, "candle", "binance")]
    store(engine, assets, close(DAY, 102), source="coingecko")
    assert closes(engine) == [(DAY, 101, "candle", "binance")]


def test_the_same_candle_again_writes_nothing(engine: Engine, assets: dict[str, Followed]) -> None:
    store(engine, assets, close(DAY, 100, open=99))
    assert store(engine, assets, close(DAY, 100, open=99)).ticks == 0
    assert store(engine, assets, close(DAY, 100)).ticks == 0


def test_a_jump_is_held_until_the_next_day_bears_it_out(engine: Engine, assets: dict[str, Followed]) -> None:
    store(engine, assets, close(DAY - timedelta(days=2), 100))
    assert store(engine, assets, close(DAY - timedelta(days=1), 600)).held == 1
    assert closes(engine) == [(DAY - timedelta(days=2), 100, "candle", "binance")]
    store(engine, assets, close(DAY, 610))
    assert [(day, price) for day, price, *_ in closes(engine)] == [
        (DAY - timedelta(days=2), 100),
        (DAY - timedelta(days=1), 600),
        (DAY, 610),
    ]
    assert held(engine) == [(DAY - timedelta(days=1), 600, "confirmed")]


def test_within_one_answer_the_next_days_opening_bears_out_a_jump(engine: Engine, assets: dict[str, Followed]) -> None:
    first, second, third = (DAY - timedelta(days=number) for number in (2, 1, 0))
    store(engine, assets, close(first, 100), close(second, 492, open=100), close(third, 300, open=491))
    assert [price for _, price, *_ in closes(engine)] == [100, 492, 300]
    assert held(engine) == []


def test_a_spike_of_one_day_is_never_used(engine: Engine, assets: dict[str, Followed]) -> None:
    first, second, third = (DAY - timedelta(days=number) for number in (2, 1, 0))
    store(engine, assets, close(first, 100), close(second, 1, open=100), close(third, 101, open=100))
    assert [(day, price) for day, price, *_ in closes(engine)] == [(first, 100), (third, 101)]
    assert held(engine) == [(second, 1, "held")]


def test_the_days_own_ticks_bear_out_a_jump(engine: Engine, assets: dict[str, Followed]) -> None:
    store(engine, assets, close(DAY - timedelta(days=1), 100))
    evening = datetime(2026, 3, 9, 23, 50, tzinfo=UTC)
    quotes = [Quote("btc", evening + timedelta(minutes=5 * number), 600 * UNIT) for number in range(2)]
    with session_scope(engine) as session:
        store_quotes(session, "binance", assets, quotes, now=NOW, settings=SETTINGS)
    store(engine, assets, close(DAY, 605))
    assert closes(engine)[-1] == (DAY, 605, "candle", "binance")


def test_a_second_source_bears_out_a_jump(engine: Engine, assets: dict[str, Followed]) -> None:
    store(engine, assets, close(DAY - timedelta(days=1), 100))
    store(engine, assets, close(DAY, 600))
    store(engine, assets, close(DAY, 601), source="coingecko")
    assert closes(engine)[-1] == (DAY, 601, "candle", "coingecko")
    assert held(engine) == [(DAY, 600, "confirmed")]


def test_a_person_may_accept_a_held_close(engine: Engine, assets: dict[str, Followed]) -> None:
    store(engine, assets, close(DAY - timedelta(days=1), 100))
    store(engine, assets, close(DAY, 600))
    with session_scope(engine) as session:
        accept_held(session, 1, by="ada", now=NOW, settings=SETTINGS)
    assert closes(engine)[-1] == (DAY, 600, "candle", "binance")
