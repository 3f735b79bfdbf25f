"""What people and BI tools see: amounts with eight decimals, to the tick, and nothing of the database's encoding."""

from __future__ import annotations

import math
from datetime import date, timedelta
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import Engine, Table, insert, select, text

from models.partitions import ensure_day_partitions, ensure_month_partitions
from models.tables import Asset, LeaderboardEntry, PortfolioDay, Run, Simulation, Trade, User
from models.views import (
    VIEWS,
    kept_days,
    leaderboard,
    portfolio_history,
    portfolio_latest,
    simulation_settings,
    trade_history,
    user_days,
)

FIRST = date(2024, 1, 30)
LARGEST = Decimal("92233720368.54775807")
SMALLEST = Decimal("0.00000001")
SIMULATION = {"start_day": FIRST, "initial_cash": Decimal(1000), "asset_ids": [2, 1], "weights_ppm": [600_000, 400_000]}


def portfolio_day(number: int, **changes: Any) -> dict[str, Any]:
    return {
        "day": FIRST + timedelta(days=number), "nights": number + 1, "user_id": 1, "simulation_id": 1,
        "cash": SMALLEST, "equity": Decimal(1100), "peak": LARGEST,
        "return_mean": 0.001, "return_m2": 0.0004 * number, "max_drawdown": 0.25,
        "asset_ids": [2, 1], "quantities": [150_000_000, 0], "cost_basis": [1, 0], "state": [0],
    } | changes  # fmt: skip


def trade(number: int, asset_id: int, quantity: str, realised: str, **changes: Any) -> dict[str, Any]:
    return {
        "day": FIRST + timedelta(days=number), "asset_id": asset_id, "user_id": 1, "simulation_id": 1,
        "quantity": Decimal(quantity), "price": Decimal(100), "notional": abs(Decimal(quantity)) * 100,
        "fee": Decimal("0.25"), "realised": Decimal(realised),
    } | changes  # fmt: skip


@pytest.fixture
def filled(engine: Engine) -> Engine:
    """Two users, three days, the second of them the last done night."""
    with engine.begin() as connection:
        ensure_day_partitions(connection, [FIRST + timedelta(days=n) for n in range(3)])
        ensure_month_partitions(connection, "trades", [FIRST, FIRST + timedelta(days=2)])
        connection.execute(insert(User), [{"name": "Ada"}, {"name": "Bo"}])
        connection.execute(insert(Asset), [{"symbol": "AAA"}, {"symbol": "BBB"}])
        connection.execute(
            insert(Simulation),
            [
                SIMULATION | {"user_id": 1, "strategy": 4, "params": [1, 2, 3, 4, 5, 20, 50]},
                SIMULATION | {"user_id": 2, "strategy": 777, "params": [9], "initial_cash": Decimal(0)},
            ],
        )
        connection.execute(insert(PortfolioDay), [portfolio_day(n) for n in range(3)])
        connection.execute(insert(PortfolioDay), [portfolio_day(1, user_id=2, simulation_id=2, return_m2=0.0)])
        connection.execute(
            insert(Trade),
            [
                trade(0, 1, "1.5", "0"),
                trade(1, 1, "-0.5", "7.00000001"),
                trade(1, 2, "-1", "-8"),
                trade(1, 1, "-1", "0", user_id=2, simulation_id=2, notional=LARGEST),
                *(trade(2, n, "1", "0", user_id=2, simulation_id=2, notional=LARGEST) for n in range(1, 12)),
            ],
        )
        connection.execute(
            insert(LeaderboardEntry),
            [
                {"day": FIRST + timedelta(days=n), "rank": 1, "user_id": 1, "simulation_id": 1}
                | {"equity": Decimal(1100 + n), "return_ppm": 100_000 + n}
                for n in range(2)
            ],
        )
        run = {"first_day": FIRST, "scope": {}, "requested_by": "test", "batch_users": 10}
        connection.execute(
            insert(Run),
            [
                run | {"kind": kind, "status": status, "day": FIRST + timedelta(days=n)}
                for kind, status, n in [
                    ("nightly", "done", 0),
                    ("nightly", "done", 1),
                    ("nightly", "running", 2),
                    ("reprocess", "done", 2),
                ]
            ],
        )
    return engine


def rows(engine: Engine, view: Table, **where: Any) -> list[dict[str, Any]]:
    query = select(view).filter_by(**where).order_by(*list(view.c)[:2])
    with engine.connect() as connection:
        return [dict(row) for row in connection.execute(query).mappings()]


def test_each_view_is_as_declared_and_amounts_are_numeric_20_8(engine: Engine) -> None:
    query = text(
        "SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute"
        " WHERE attrelid = CAST(:view AS regclass) AND attnum > 0 ORDER BY attnum"
    )
    with engine.connect() as connection:
        names = connection.execute(text("SELECT viewname FROM pg_views WHERE schemaname = 'public'")).scalars()
        assert set(names) == set(VIEWS.tables)
        for view in VIEWS.tables.values():
            declared = [(c.name, str(c.type.compile(engine.dialect)).lower().replace(", ", ",")) for c in view.c]
            assert [tuple(row) for row in connection.execute(query, {"view": view.name})] == declared
            # What the others are made of is in ticks.
            assert any(kind == "numeric(20,8)" for _, kind in declared) is (view is not kept_days)


def test_the_history_of_a_portfolio(filled: Engine) -> None:
    first, second, _ = rows(filled, portfolio_history, simulation_id=1)
    assert (first["user_name"], first["strategy"], first["nights"]) == ("Ada", "sma_cross", 1)
    assert [f"{second[name]:f}" for name in ("initial_cash", "cash", "equity", "peak")] == [
        "1000.00000000",
        "0.00000001",
        "1100.00000000",
        "92233720368.54775807",
    ]
    assert second["positions"] == {"BBB": 1.5}
    assert second["total_return"] == pytest.approx(0.1)
    assert second["volatility"] == pytest.approx(math.sqrt(0.0004 * 365))
    assert second["sharpe"] == pytest.approx(0.001 / math.sqrt(0.0004) * math.sqrt(365))
    assert (first["volatility"], first["sharpe"], first["max_drawdown"]) == (None, None, 0.25)


def test_what_is_not_defined_is_null(filled: Engine) -> None:
    (only,) = rows(filled, portfolio_history, simulation_id=2)
    assert (only["strategy"], only["total_return"], only["sharpe"], only["volatility"]) == ("777", None, None, 0.0)


def test_the_latest_portfolios_are_those_of_the_last_done_night(filled: Engine) -> None:
    latest = rows(filled, portfolio_latest)
    assert [(row["day"], row["simulation_id"]) for row in latest] == [(FIRST + timedelta(days=1), n) for n in (1, 2)]
    with filled.connect() as connection:
        query = text("EXPLAIN (ANALYZE, COSTS OFF) SELECT equity FROM portfolio_latest WHERE user_id = 1")
        plan = "\n".join(connection.execute(query).scalars())
    scans = [line for line in plan.splitlines() if " on portfolio_days_" in line]
    assert ["never executed" in line for line in scans] == ["20240131" not in line for line in scans]
    assert len(scans) == 3
    assert "simulations" not in plan


def test_trades_have_a_side_and_a_symbol(filled: Engine) -> None:
    sold = rows(filled, trade_history, user_id=1, side="sell")
    assert [(row["symbol"], str(row["quantity"]), str(row["realised"])) for row in sold] == [
        ("AAA", "0.50000000", "7.00000001"),
        ("BBB", "1.00000000", "-8.00000000"),
    ]
    (bought,) = rows(filled, trade_history, user_id=1, side="buy")
    assert (str(bought["notional"]), str(bought["fee"])) == ("150.00000000", "0.25000000")


def test_the_days_of_a_user(filled: Engine) -> None:
    def shown(row: dict[str, Any]) -> list[Any]:
        assert isinstance(row["trades"], int)
        amounts = ("volume", "fees", "realised", "win_rate")
        return [f"{row['trades']} {row['sales']}", *(row[name] and f"{row[name]:.8f}" for name in amounts)]

    bought, sold = rows(filled, user_days, user_id=1)
    assert shown(bought) == ["1 0", "150.00000000", "0.25000000", Decimal(0), None]
    assert shown(sold) == ["2 2", "150.00000000", "0.50000000", "-0.99999999", "0.50000000"]
    breaking_even, beyond_numeric = rows(filled, user_days, user_id=2)
    assert breaking_even["win_rate"] == 0
    assert (beyond_numeric["trades"], beyond_numeric["volume"]) == (11, None)


def test_the_leaderboard_is_that_of_the_last_day(filled: Engine) -> None:
    (best,) = rows(filled, leaderboard)
    assert (best["day"], best["user_name"], best["strategy"]) == (FIRST + timedelta(days=1), "Ada", "sma_cross")
    assert (str(best["equity"]), best["total_return"]) == ("1101.00000000", pytest.approx(0.100001))


def test_settings_are_json_with_the_names_of_the_strategy(filled: Engine) -> None:
    known, unknown = rows(filled, simulation_settings)
    assert known["parameters"] == {
        "fee_buy_ppm": 1, "fee_sell_ppm": 2, "fee_sell_cap": 3, "stop_loss_ppm": 4, "take_profit_ppm": 5,
        "fast": 20, "slow": 50,
    }  # fmt: skip
    assert [(slot["symbol"], slot["weight_ppm"]) for slot in known["slots"]] == [("BBB", 600_000), ("AAA", 400_000)]
    assert (unknown["strategy"], unknown["parameters"]) == ("777", {"param_1": 9})
