"""What buying and holding the same assets would have come to, and what a simulation's positions were worth.

Guarantee: both are computed by the engine in ticks from the closes of now, as a night would. The benchmark is the
strategy `buy_and_hold` with the simulation's own start day, initial cash, assets, weights and fees, without its stops.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal

import numpy as np
from sqlalchemy import text
from sqlalchemy.orm import Session

from core.clock import day_from_number, day_number
from engine.advance import advance
from engine.frame import Simulations, State
from engine.market import Market
from engine.params import FEE_SELL_CAP
from engine.strategies.buy_and_hold import BuyAndHold
from engine.ticks import TICKS, mul_div_round
from models.tables import Simulation
from models.ticks import from_ticks, to_ticks
from services.report_statistics import Performance, Running, performance


@dataclass(frozen=True, slots=True)
class Benchmark:
    """Buy and hold of the same assets.

    Attributes:
        equity: units, at the close of each of `days`.
        fees: units.
        ended: why it has no day after the last of `days`, if the simulation has; in the words of the quarantine.
    """

    days: list[date]
    equity: list[Decimal]
    fees: Decimal
    performance: Performance | None
    ended: str | None


def market_of_assets(
    session: Session, asset_ids: Sequence[int], days: tuple[date, date], max_stale_days: int
) -> Market:
    """The closes of these assets on `days[0]..days[1]`, and of each the last one before. Unknown ids are left out."""
    values = {"ids": list(asset_ids), "first": days[0], "last": days[1]}
    known = sorted(session.scalars(_KNOWN, values))
    closes = session.execute(_CLOSES, values).all()
    return Market.from_closes(
        np.array(known, dtype=np.int32),
        (day_number(days[0]) - 1, day_number(days[1])),
        (
            np.array([row.asset_id for row in closes], dtype=np.int32),
            np.array([day_number(row.day) for row in closes], dtype=np.int32),
            np.array([row.close for row in closes], dtype=np.int64),
        ),
        max_stale_days,
    )


_KNOWN = text("SELECT id FROM assets WHERE id = ANY(CAST(:ids AS int[]))")
_CLOSES = text(
    """
    SELECT asset_id, day, close FROM closes
    WHERE asset_id = ANY(CAST(:ids AS int[])) AND day BETWEEN :first AND :last
    UNION ALL
    SELECT before.asset_id, before.day, before.close
    FROM assets CROSS JOIN LATERAL (
        SELECT asset_id, day, close FROM closes WHERE asset_id = assets.id AND day < :first ORDER BY day DESC LIMIT 1
    ) AS before
    WHERE assets.id = ANY(CAST(:ids AS int[]))
    ORDER BY asset_id, day
    """
)


def buy_and_hold(simulation: Simulation, market: Market, last: date) -> Benchmark:
    """The benchmark from the simulation's start day through `last`; `market` holds those days and the one before."""
    row, initial = _row(simulation), to_ticks(simulation.initial_cash)
    state = State.initial(row)
    days: list[date] = []
    equity: list[int] = []
    fees, ended = 0, None
    for day in range(day_number(simulation.start_day), day_number(last) + 1):
        result = advance(row, state, market, day)
        if not result.ok[0]:
            ended = f"{result.quarantined[0].reason}: {result.quarantined[0].detail}"
            break
        state = result.state
        days.append(day_from_number(day))
        equity.append(int(state.equity[0]))
        fees += int(result.trades.fee.sum())
    return Benchmark(
        days,
        [from_ticks(value) for value in equity],
        from_ticks(fees),
        performance(initial, days, equity, _running(state)) if days else None,
        ended,
    )


def _row(simulation: Simulation) -> Simulations:
    params = [*simulation.params[: FEE_SELL_CAP + 1], 0, 0]
    return Simulations(
        user_id=np.array([simulation.user_id], dtype=np.int64),
        simulation_id=np.array([simulation.id], dtype=np.int64),
        strategy=np.array([BuyAndHold.code], dtype=np.int16),
        start_day=np.array([day_number(simulation.start_day)], dtype=np.int32),
        initial_cash=np.array([to_ticks(simulation.initial_cash)], dtype=np.int64),
        params=np.array([params], dtype=np.int64),
        param_count=np.array([len(params)], dtype=np.int16),
        asset_ids=np.array([simulation.asset_ids or [0]], dtype=np.int32),
        weights=np.array([simulation.weights_ppm or [0]], dtype=np.int64),
        slots=np.array([len(simulation.asset_ids)], dtype=np.int16),
    )


def _running(state: State) -> Running:
    return Running(
        int(state.nights[0]), float(state.return_mean[0]), float(state.return_m2[0]), float(state.max_drawdown[0])
    )


def position_values(
    market: Market, days: Sequence[date], holdings: Sequence[tuple[Sequence[int], Sequence[int]]]
) -> list[dict[int, int]]:
    """What each position was worth at the close of each day: ticks by asset id, positions of 0 left out.

    Args:
        market: holds `days`.
        days: of the rows.
        holdings: asset ids and quantities (ticks) of each day's row.
    """
    values = []
    for day, (ids, quantities) in zip(days, holdings, strict=True):
        columns, _ = market.columns_of(np.array(ids, dtype=np.int32))
        held = np.array(quantities, dtype=np.int64)
        worth = mul_div_round(held, market.last[market.row(day_number(day)), columns], TICKS)
        values.append({ids[at]: int(worth[at]) for at in np.flatnonzero(held).tolist()})
    return values
