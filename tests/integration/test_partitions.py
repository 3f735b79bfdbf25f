"""Partitions appear once, on time, without blocking anybody, and guarantee one row a key."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from threading import Barrier

import pytest
from sqlalchemy import Engine, insert, text
from sqlalchemy.exc import IntegrityError

from core.errors import NightshiftError
from models.partitions import ensure_day_partitions, ensure_month_partitions
from models.tables import PortfolioDay, PriceTick, Trade

LEAP_DAY = date(2024, 2, 29)
TRADE = {"asset_id": 1, "user_id": 1, "simulation_id": 1} | dict.fromkeys(
    ("quantity", "price", "notional", "fee", "realised"), Decimal(1)
)
PORTFOLIO = (
    {"nights": 1, "user_id": 1, "simulation_id": 1}
    | dict.fromkeys(("cash", "equity", "peak"), Decimal(1))
    | dict.fromkeys(("return_mean", "return_m2", "max_drawdown"), 0.0)
    | {name: [1] for name in ("asset_ids", "quantities", "cost_basis", "state")}
)


def partitions(engine: Engine, parent: str) -> set[str]:
    query = text("SELECT inhrelid::regclass::text FROM pg_inherits WHERE inhparent = CAST(:parent AS regclass)")
    with engine.connect() as connection:
        return set(connection.execute(query, {"parent": parent}).scalars())


def test_making_them_again_makes_nothing(engine: Engine) -> None:
    days = [LEAP_DAY, LEAP_DAY + timedelta(days=1), LEAP_DAY]
    for expected in (["portfolio_days_20240229", "portfolio_days_20240301"], []):
        with engine.begin() as connection:
            assert ensure_day_partitions(connection, days) == expected
    with engine.begin() as connection:
        assert ensure_day_partitions(connection, []) == []
        assert ensure_month_partitions(connection, "trades", days) == ["trades_202402", "trades_202403"]
        assert ensure_month_partitions(connection, "price_ticks", [date(2023, 12, 31)]) == ["price_ticks_202312"]
        with pytest.raises(ValueError, match="users is not partitioned by month"):
            ensure_month_partitions(connection, "users", days)
    assert partitions(engine, "portfolio_days") == {"portfolio_days_20240229", "portfolio_days_20240301"}


def test_two_processes_may_make_the_same_at_once(engine: Engine) -> None:
    days = [LEAP_DAY + timedelta(days=n) for n in range(20)]
    together = Barrier(2)

    def make(wanted: list[date]) -> list[str]:
        with engine.begin() as connection:
            together.wait(timeout=30)
            return ensure_day_partitions(connection, wanted)

    with ThreadPoolExecutor(2) as pool:
        made = list(pool.map(make, [days, days[::-1]]))
    assert sorted(map(len, made)) == [0, 20]
    assert len(partitions(engine, "portfolio_days")) == 20


def test_readers_and_writers_of_other_partitions_do_not_wait(engine: Engine) -> None:
    with engine.begin() as connection:
        ensure_day_partitions(connection, [LEAP_DAY])
    with engine.begin() as busy, engine.begin() as maker, engine.begin() as late:
        busy.execute(text("SELECT count(*) FROM portfolio_days"))
        busy.execute(insert(PortfolioDay).values(**PORTFOLIO, day=LEAP_DAY))
        maker.execute(text("SET LOCAL lock_timeout = '5s'"))
        ensure_day_partitions(maker, [LEAP_DAY + timedelta(days=1)])
        late.execute(text("SET LOCAL lock_timeout = '5s'"))
        late.execute(insert(PortfolioDay).values(**PORTFOLIO | {"user_id": 2}, day=LEAP_DAY))
        late.execute(text("SELECT count(*) FROM portfolio_days"))


def test_a_day_holds_each_simulation_once(engine: Engine) -> None:
    with engine.begin() as connection:
        ensure_day_partitions(connection, [LEAP_DAY, LEAP_DAY + timedelta(days=1)])
        ensure_month_partitions(connection, "trades", [LEAP_DAY])
        for day in (LEAP_DAY, LEAP_DAY + timedelta(days=1)):
            connection.execute(insert(PortfolioDay).values(**PORTFOLIO, day=day))
        for day in (LEAP_DAY, date(2024, 2, 1)):
            connection.execute(insert(Trade).values(**TRADE, day=day))
    for again in (
        insert(PortfolioDay).values(**PORTFOLIO, day=LEAP_DAY),
        insert(Trade).values(**TRADE, day=LEAP_DAY),
    ):
        with pytest.raises(IntegrityError, match="duplicate key"), engine.begin() as connection:
            connection.execute(again)
    with pytest.raises(IntegrityError, match="no partition"), engine.begin() as connection:
        connection.execute(insert(Trade).values(**TRADE, day=date(2024, 3, 1)))


def test_months_of_price_ticks_are_those_of_utc_whatever_the_session_says(engine: Engine) -> None:
    first = datetime(2024, 3, 1, tzinfo=UTC)
    with engine.begin() as connection:
        connection.execute(text("SET LOCAL TimeZone = 'Pacific/Kiritimati'"))
        ensure_month_partitions(connection, "price_ticks", [LEAP_DAY, date(2024, 3, 1)])
        moments = (first - timedelta(microseconds=1), first)
        tick = {"asset_id": 1, "price": Decimal(1), "source": "test"}
        connection.execute(insert(PriceTick), [{"ts": moment} | tick for moment in moments])
        held = connection.execute(text("SELECT tableoid::regclass::text FROM price_ticks ORDER BY ts")).scalars().all()
    assert held == ["price_ticks_202402", "price_ticks_202403"]
    with pytest.raises(IntegrityError, match="duplicate key"), engine.begin() as connection:
        connection.execute(insert(PriceTick), {"ts": first} | tick)


def test_a_detached_table_of_that_name_is_not_taken_for_a_partition(engine: Engine) -> None:
    with engine.begin() as connection:
        ensure_day_partitions(connection, [LEAP_DAY])
        connection.execute(text("ALTER TABLE portfolio_days DETACH PARTITION portfolio_days_20240229"))
    with (
        pytest.raises(NightshiftError, match=r"^table portfolio_days_20240229 exists but is no partition"),
        engine.begin() as connection,
    ):
        ensure_day_partitions(connection, [LEAP_DAY])
