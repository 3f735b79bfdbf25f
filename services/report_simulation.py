"""Everything that a report says of one simulation: its curve beside buy and hold, what it held, traded and came to.

Guarantee: each figure is read from the tables or computed from them in ticks; where the closes have changed since a day
was computed, so that its positions no longer sum to its equity, the report counts such days instead of hiding them.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Any

import numpy as np
from sqlalchemy import text
from sqlalchemy.orm import Session

from core.clock import day_number
from engine.market import NEVER, Market
from models.tables import Simulation
from models.ticks import from_ticks, to_ticks
from services.report_benchmark import Benchmark, buy_and_hold, market_of_assets, position_values
from services.report_statistics import Performance, Running, performance, turnover, win_rate
from services.reports import DayPoint, TradeLine, simulation_report
from services.runs import QuarantineView, quarantine_of


@dataclass(frozen=True, slots=True)
class Holding:
    """A position at the close of the newest day, units; `close` is the asset's last on or before it, from `close_day`.

    `unrealised`: value minus cost.
    """

    symbol: str
    quantity: Decimal
    close: Decimal
    close_day: date
    value: Decimal
    cost: Decimal
    unrealised: Decimal


@dataclass(frozen=True, slots=True)
class Positions:
    """What was held at the close of each day of the report, units: `values[symbol]` and `cash` have a value a day."""

    values: dict[str, list[Decimal]]
    cash: list[Decimal]


@dataclass(frozen=True, slots=True)
class Trading:
    """What it traded in all, units; `win_rate` is of its sales, `turnover` as in report_statistics."""

    purchases: int
    sales: int
    bought: Decimal
    sold: Decimal
    fees: Decimal
    realised: Decimal
    win_rate: float | None
    turnover: float | None


@dataclass(frozen=True, slots=True)
class SimulationFigures:
    """One simulation in full.

    Attributes:
        settings: its row of the view `simulation_settings`.
        performance, benchmark: None before its first night.
        days: in order; `missing_days` of its nights are not kept any more, `revalued_days` of those kept do not sum to
            their equity with the closes of now.
        trades: in order.
        quarantine: what keeps it, or its whole user, out of the nights now; the newest entry.
    """

    settings: dict[str, Any]
    performance: Performance | None
    benchmark: Benchmark | None
    trading: Trading
    holdings: list[Holding]
    quarantine: list[QuarantineView]
    missing_days: int
    revalued_days: int
    positions: Positions
    days: list[DayPoint]
    trades: list[TradeLine]


def simulation_figures(session: Session, simulation_id: int, max_stale_days: int) -> SimulationFigures:
    """The figures of a simulation; UsageError if there is no such simulation."""
    history = simulation_report(session, simulation_id)
    settings, days = history.settings, history.days
    who = {"user": settings["user_id"], "simulation": simulation_id}
    quarantine = [quarantine_of(row) for row in session.execute(_QUARANTINE, who)]
    if not days:
        nothing = Positions({}, [])
        return SimulationFigures(
            settings, None, None, _trading(history.trades, days), [], quarantine, 0, 0, nothing, days, history.trades
        )
    rows = session.execute(_ROWS, {**who, "start": settings["start_day"]}).all()
    simulation = session.get_one(Simulation, simulation_id)
    last = days[-1].day
    assets = {*simulation.asset_ids, *(asset for row in rows for asset in row.asset_ids)}
    market = market_of_assets(session, sorted(assets), (settings["start_day"], last), max_stale_days)
    symbols = {row.id: row.symbol for row in session.execute(_SYMBOLS, {"ids": sorted(assets)})}
    worth = position_values(market, [row.day for row in rows], [(row.asset_ids, row.quantities) for row in rows])
    newest = rows[-1]
    running = Running(newest.nights, newest.return_mean, newest.return_m2, newest.max_drawdown)
    return SimulationFigures(
        settings=settings,
        performance=performance(
            to_ticks(simulation.initial_cash), [row.day for row in rows], [row.equity for row in rows], running
        ),
        benchmark=buy_and_hold(simulation, market, last),
        trading=_trading(history.trades, days),
        holdings=_holdings(market, newest, worth[-1], symbols),
        quarantine=quarantine,
        missing_days=newest.nights - len(rows),
        revalued_days=sum(
            row.cash + sum(values.values()) != row.equity for row, values in zip(rows, worth, strict=True)
        ),
        positions=_positions(worth, [point.cash for point in days], symbols),
        days=days,
        trades=history.trades,
    )


def _trading(trades: list[TradeLine], days: list[DayPoint]) -> Trading:
    bought = sum((trade.notional for trade in trades if trade.side == "buy"), Decimal(0))
    sold = sum((trade.notional for trade in trades if trade.side == "sell"), Decimal(0))
    sales = [trade.realised for trade in trades if trade.side == "sell"]
    return Trading(
        purchases=len(trades) - len(sales),
        sales=len(sales),
        bought=bought,
        sold=sold,
        fees=sum((trade.fee for trade in trades), Decimal(0)),
        realised=sum(sales, Decimal(0)),
        win_rate=win_rate(sales),
        turnover=turnover(bought, sold, [point.equity for point in days]),
    )


def _positions(worth: list[dict[int, int]], cash: list[Decimal], symbols: dict[int, str]) -> Positions:
    """By symbol, those that were worth the most over all days first."""
    total: dict[int, int] = {}
    for values in worth:
        for asset, value in values.items():
            total[asset] = total.get(asset, 0) + value
    order = sorted(total, key=lambda asset: (-total[asset], asset))
    return Positions(
        {symbols.get(asset, str(asset)): [from_ticks(values.get(asset, 0)) for values in worth] for asset in order},
        cash,
    )


def _holdings(market: Market, row: Any, worth: dict[int, int], symbols: dict[int, str]) -> list[Holding]:
    """The positions of the newest day, the most valuable first."""
    at, found = market.row(day_number(row.day)), []
    columns, _ = market.columns_of(np.array(row.asset_ids, dtype=np.int32))
    positions = zip(row.asset_ids, row.quantities, row.cost_basis, columns.tolist(), strict=True)
    for asset, quantity, cost, column in positions:
        age = int(market.age[at, column])
        if asset not in worth or column == market.no_asset or age == NEVER:
            continue
        found.append(
            Holding(
                symbol=symbols[asset],
                quantity=from_ticks(quantity),
                close=from_ticks(int(market.last[at, column])),
                close_day=date.fromordinal(row.day.toordinal() - age),
                value=from_ticks(worth[asset]),
                cost=from_ticks(cost),
                unrealised=from_ticks(worth[asset] - cost),
            )
        )
    return sorted(found, key=lambda holding: -holding.value)


# In ticks, as the engine holds them; with the user, the keys of the partitions find each row.
_ROWS = text(
    """
    SELECT day, nights, cash, equity, return_mean, return_m2, max_drawdown, asset_ids, quantities, cost_basis
    FROM kept_days
    WHERE day >= :start AND user_id = :user AND simulation_id = :simulation
    ORDER BY day
    """
)
_SYMBOLS = text("SELECT id, symbol FROM assets WHERE id = ANY(CAST(:ids AS int[]))")
_QUARANTINE = text(
    """
    SELECT * FROM quarantine
    WHERE cleared_at IS NULL AND user_id = :user AND (simulation_id = :simulation OR simulation_id IS NULL)
    ORDER BY id DESC
    """
)
