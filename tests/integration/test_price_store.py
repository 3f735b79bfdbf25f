"""Quotes become ticks, newest prices and closes of their days; what jumped is held, shown, and decided in the open."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from decimal import Decimal

import pytest
from sqlalchemy import Engine

from core.database import session_scope
from core.errors import UsageError
from price_sources.source import Quote
from services.decisions import accept_held, reject_held
from services.following import Wanted, follow
from services.held_prices import list_held
from services.price_store import Followed, Stored, store_quotes
from tests.support.nights import change, rows, scalar, settings

NOW = datetime(2026, 3, 10, 12, 0, tzinfo=UTC)
WINDOW = timedelta(minutes=5)
SETTINGS = settings(price_sources="binance,coingecko")
UNIT = 10**8


@pytest.fixture
def assets(engine: Engine) -> dict[str, Followed]:
    """Two assets that both sources follow, by their codes at either."""
    with session_scope(engine) as session:
        wanted = [Wanted("BTC", "btc"), Wanted("ETH", "eth")]
        follow(session, "coingecko", wanted, now=NOW)
        return follow(session, "binance", wanted, now=NOW)


def store(
    engine: Engine, assets: dict[str, Followed], *quotes: tuple[str, datetime, int], source: str = "binance"
) -> Stored:
    with session_scope(engine) as session:
        given = [Quote(code, ts, units * UNIT) for code, ts, units in quotes]
        return store_quotes(session, source, assets, given, now=NOW, settings=SETTINGS)


def ticks(engine: Engine) -> list[tuple[object, ...]]:
    return rows(
        engine,
        "SELECT a.symbol, t.ts, t.price / 100000000, t.source FROM price_ticks t JOIN assets a ON a.id = t.asset_id"
        " ORDER BY a.symbol, t.ts",
    )


def held(engine: Engine) -> list[tuple[object, ...]]:
    return rows(engine, "SELECT ts, price / 100000000, status, decided_by FROM held_prices ORDER BY id")


def test_quotes_are_ticks_newest_prices_and_closes(engine: Engine, assets: dict[str, Followed]) -> None:
    stored = store(engine, assets, ("btc", NOW, 100), ("eth", NOW, 10), ("doge", NOW, 1))
    assert (stored.ticks, stored.held, stored.run) == (2, 0, None)
    assert {(one.symbol, one.price, one.source) for one in stored.latest} == {
        ("BTC", 100 * UNIT, "binance"),
        ("ETH", 10 * UNIT, "binance"),
    }
    assert ticks(engine) == [("BTC", NOW, 100, "binance"), ("ETH", NOW, 10, "binance")]
    assert rows(engine, "SELECT day, close, kind, as_of FROM closes ORDER BY asset_id") == [
        (date(2026, 3, 10), 100 * UNIT, "tick", NOW),
        (date(2026, 3, 10), 10 * UNIT, "tick", NOW),
    ]
    assert rows(engine, "SELECT ts, price, source FROM latest_prices ORDER BY asset_id") == [
        (NOW, 100 * UNIT, "binance"),
        (NOW, 10 * UNIT, "binance"),
    ]


def test_the_same_answer_twice_changes_nothing(engine: Engine, assets: dict[str, Followed]) -> None:
    store(engine, assets, ("btc", NOW, 100))
    before = rows(engine, "SELECT ctid::text, xmin::text FROM price_ticks")
    assert store(engine, assets, ("btc", NOW, 100)).ticks == 0
    assert rows(engine, "SELECT ctid::text, xmin::text FROM price_ticks") == before


def test_a_source_may_correct_its_own_tick_and_not_that_of_another(engine: Engine, assets: dict[str, Followed]) -> None:
    store(engine, assets, ("btc", NOW, 100))
    store(engine, assets, ("btc", NOW, 101), source="coingecko")
    assert ticks(engine) == [("BTC", NOW, 100, "binance")]
    store(engine, assets, ("btc", NOW, 102))
    assert ticks(engine) == [("BTC", NOW, 102, "binance")]


def test_prices_of_earlier_windows_do_not_replace_newer_ones(engine: Engine, assets: dict[str, Followed]) -> None:
    store(engine, assets, ("btc", NOW, 100))
    stored = store(engine, assets, ("btc", NOW - WINDOW, 99), ("btc", NOW - 2 * WINDOW, 98))
    assert (stored.ticks, stored.latest) == (2, [])
    assert len(ticks(engine)) == 3
    assert scalar(engine, "SELECT price FROM latest_prices") == 100 * UNIT
    assert scalar(engine, "SELECT close FROM closes") == 100 * UNIT


def test_the_first_source_speaks_unless_it_is_silent(engine: Engine, assets: dict[str, Followed]) -> None:
    store(engine, assets, ("btc", NOW, 100))
    store(engine, assets, ("btc", NOW + WINDOW, 101), source="coingecko")
    newest = "SELECT l.price / 100000000, c.close / 100000000, c.source FROM latest_prices l, closes c"
    assert rows(engine, newest) == [(100, 100, "binance")]
    store(engine, assets, ("btc", NOW + 3 * WINDOW, 102), source="coingecko")
    assert rows(engine, newest) == [(102, 102, "coingecko")]
    store(engine, assets, ("btc", NOW + 3 * WINDOW + timedelta(seconds=1), 103))
    assert rows(engine, newest) == [(103, 103, "binance")]


def test_each_day_gets_its_own_last_tick_and_months_their_partitions(
    engine: Engine, assets: dict[str, Followed]
) -> None:
    midnight = datetime(2026, 3, 1, tzinfo=UTC)
    store(engine, assets, ("btc", midnight - WINDOW, 100), ("btc", midnight, 101), ("btc", midnight + WINDOW, 102))
    assert rows(engine, "SELECT day, close / 100000000 FROM closes ORDER BY day") == [
        (date(2026, 2, 28), 100),
        (date(2026, 3, 1), 102),
    ]
    names = rows(engine, "SELECT DISTINCT tableoid::regclass::text FROM price_ticks ORDER BY 1")
    assert names == [("price_ticks_202602",), ("price_ticks_202603",)]


def test_a_jump_is_held_and_used_with_its_own_time_once_it_is_confirmed(
    engine: Engine, assets: dict[str, Followed]
) -> None:
    store(engine, assets, ("btc", NOW, 100))
    assert store(engine, assets, ("btc", NOW + WINDOW, 150)).held == 1
    assert len(ticks(engine)) == 1
    assert scalar(engine, "SELECT price FROM latest_prices") == 100 * UNIT
    with session_scope(engine) as session:
        (view,) = list_held(session)
    assert (view.symbol, view.price, view.expected, view.jump_percent, view.status) == (
        *("BTC", Decimal("150.00000000"), Decimal("100.00000000")),
        *(50.0, "held"),
    )
    store(engine, assets, ("btc", NOW + 2 * WINDOW, 151))
    assert ticks(engine)[1:] == [("BTC", NOW + WINDOW, 150, "binance"), ("BTC", NOW + 2 * WINDOW, 151, "binance")]
    assert held(engine) == [(NOW + WINDOW, 150, "confirmed", "binance")]
    assert scalar(engine, "SELECT close FROM closes") == 151 * UNIT


def test_a_jump_that_came_back_is_never_used_and_never_forgotten(engine: Engine, assets: dict[str, Followed]) -> None:
    store(engine, assets, ("btc", NOW, 100))
    store(engine, assets, ("btc", NOW + WINDOW, 1))
    store(engine, assets, ("btc", NOW + 2 * WINDOW, 101))
    assert [row[2] for row in ticks(engine)] == [100, 101]
    assert held(engine) == [(NOW + WINDOW, 1, "reverted", "binance")]


def test_a_jump_in_a_second_source_confirms_the_first(engine: Engine, assets: dict[str, Followed]) -> None:
    store(engine, assets, ("btc", NOW, 100))
    store(engine, assets, ("btc", NOW + WINDOW, 150))
    store(engine, assets, ("btc", NOW + WINDOW + timedelta(seconds=9), 149), source="coingecko")
    assert [row[2:] for row in ticks(engine)] == [(100, "binance"), (150, "binance"), (149, "coingecko")]
    assert held(engine) == [(NOW + WINDOW, 150, "confirmed", "coingecko")]


def test_within_one_answer_a_later_price_confirms_or_refutes_an_earlier_one(
    engine: Engine, assets: dict[str, Followed]
) -> None:
    moments = [NOW + number * WINDOW for number in range(1, 4)]
    store(engine, assets, ("btc", NOW, 100), ("eth", NOW, 100))
    store(engine, assets, *(("btc", ts, units) for ts, units in zip(moments, (150, 151, 152), strict=True)),
          *(("eth", ts, units) for ts, units in zip(moments, (150, 101, 102), strict=True)))  # fmt: skip
    assert [row[2] for row in ticks(engine)] == [100, 150, 151, 152, 100, 101, 102]
    assert [row[2] for row in held(engine)] == ["confirmed", "reverted"]


def test_a_held_price_fetched_again_is_the_same_one(engine: Engine, assets: dict[str, Followed]) -> None:
    store(engine, assets, ("btc", NOW, 100))
    store(engine, assets, ("btc", NOW + WINDOW, 150))
    assert store(engine, assets, ("btc", NOW + WINDOW, 150)).held == 0
    assert held(engine) == [(NOW + WINDOW, 150, "held", None)]


def test_the_first_price_of_an_asset_is_judged_by_its_closes(engine: Engine, assets: dict[str, Followed]) -> None:
    for number in range(1, 6):
        change(
            engine,
            "INSERT INTO closes (day, asset_id, close, source) VALUES (:day, :asset, :close, 'file')",
            day=NOW.date() - timedelta(days=number), asset=assets["btc"].id, close=(100 + number) * UNIT,
        )  # fmt: skip
    assert store(engine, assets, ("btc", NOW, 900)).held == 1
    assert store(engine, assets, ("btc", NOW + WINDOW, 99)).ticks == 1
    assert scalar(engine, "SELECT variance < 0.005 FROM latest_prices")


def test_a_person_may_accept_a_held_price(engine: Engine, assets: dict[str, Followed]) -> None:
    store(engine, assets, ("btc", NOW, 100))
    store(engine, assets, ("btc", NOW + WINDOW, 150))
    with session_scope(engine) as session:
        accept_held(session, 1, by="ada", now=NOW, settings=SETTINGS)
    assert [row[2] for row in ticks(engine)] == [100, 150]
    assert scalar(engine, "SELECT price FROM latest_prices") == 150 * UNIT
    assert scalar(engine, "SELECT close FROM closes") == 150 * UNIT
    assert held(engine) == [(NOW + WINDOW, 150, "accepted", "ada")]
    with (
        pytest.raises(UsageError, match="the price 1 of BTC is accepted already, by ada"),
        session_scope(engine) as session,
    ):
        reject_held(session, 1, by="bob", now=NOW)


def test_a_person_may_reject_a_held_price(engine: Engine, assets: dict[str, Followed]) -> None:
    store(engine, assets, ("btc", NOW, 100))
    store(engine, assets, ("btc", NOW + WINDOW, 150))
    with session_scope(engine) as session:
        reject_held(session, 1, by="ada", now=NOW)
    assert len(ticks(engine)) == 1
    assert held(engine) == [(NOW + WINDOW, 150, "rejected", "ada")]
    with pytest.raises(UsageError, match="no held price 2: nightshift prices held"), session_scope(engine) as session:
        accept_held(session, 2, by="ada", now=NOW, settings=SETTINGS)
