"""The hot tables' columns, and a night's rows as bytes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from engine.frame import Simulations, State
from engine.orders import Trades
from engine.slots import codes_in
from models.copy_codec import DATE, FLOAT8, INT2, INT4, INT8, Column, RowFormat

SIMULATION_FORMAT = RowFormat(
    (
        Column("user_id", INT8),
        Column("id", INT8),
        Column("strategy", INT2),
        Column("start_day", DATE),
        Column("initial_cash", INT8),
        Column("params", INT8, is_array=True),
        Column("asset_ids", INT4, is_array=True),
        Column("weights_ppm", INT4, is_array=True),
    )
)
PORTFOLIO_FORMAT = RowFormat(
    (
        Column("day", DATE),
        Column("nights", INT4),
        Column("user_id", INT8),
        Column("simulation_id", INT8),
        Column("cash", INT8),
        Column("equity", INT8),
        Column("peak", INT8),
        Column("return_mean", FLOAT8),
        Column("return_m2", FLOAT8),
        Column("max_drawdown", FLOAT8),
        Column("asset_ids", INT4, is_array=True),
        Column("quantities", INT8, is_array=True),
        Column("cost_basis", INT8, is_array=True),
        Column("state", INT8, is_array=True),
    )
)
TRADE_FORMAT = RowFormat(
    (
        Column("day", DATE),
        Column("asset_id", INT4),
        Column("user_id", INT8),
        Column("simulation_id", INT8),
        Column("quantity", INT8),
        Column("price", INT8),
        Column("notional", INT8),
        Column("fee", INT8),
        Column("realised", INT8),
    )
)


def encode_portfolio_days(simulations: Simulations, state: State, day: int) -> bytes:
    """`PORTFOLIO_FORMAT` rows of one day, in the order of the table's key.

    In key order the index grows at its right edge and its pages are full: a third of the time of writing is the key's.
    """
    rows_in_order = np.empty(len(simulations), dtype=object)
    shape = simulations.slots.astype(np.int64) * 256 + state_widths(simulations.strategy)
    for code in np.flatnonzero(np.bincount(shape)).tolist():
        rows = np.flatnonzero(shape == code)
        slots, state_width = divmod(code, 256)
        block = bytes(_encode_uniform(simulations.take(rows), state.take(rows), day, slots, state_width))
        size = len(block) // len(rows)
        rows_in_order[rows] = [block[start : start + size] for start in range(0, len(block), size)]
    order = np.lexsort((simulations.simulation_id, simulations.user_id))
    return b"".join(rows_in_order[order].tolist())


def _encode_uniform(simulations: Simulations, state: State, day: int, slots: int, state_width: int) -> memoryview:
    """Rows that all have so many slots and integers of state."""
    return PORTFOLIO_FORMAT.encode(
        {
            "day": np.full(len(simulations), day, dtype=np.int32),
            "nights": state.nights,
            "user_id": simulations.user_id,
            "simulation_id": simulations.simulation_id,
            "cash": state.cash,
            "equity": state.equity,
            "peak": state.peak,
            "return_mean": state.return_mean,
            "return_m2": state.return_m2,
            "max_drawdown": state.max_drawdown,
            "asset_ids": simulations.asset_ids[:, :slots],
            "quantities": state.quantities[:, :slots],
            "cost_basis": state.cost_basis[:, :slots],
            "state": state.strategy_state[:, :state_width],
        }
    )


def encode_trades(simulations: Simulations, trades: Trades, day: int) -> memoryview:
    """`TRADE_FORMAT` rows of one day, in the order of the table's key."""
    users, owners = simulations.user_id[trades.row], simulations.simulation_id[trades.row]
    order = np.lexsort((trades.asset_id, owners, users))
    return TRADE_FORMAT.encode(
        {
            "day": np.full(len(trades), day, dtype=np.int32),
            "asset_id": trades.asset_id[order],
            "user_id": users[order],
            "simulation_id": owners[order],
            "quantity": trades.quantity[order],
            "price": trades.price[order],
            "notional": trades.notional[order],
            "fee": trades.fee[order],
            "realised": trades.realised[order],
        }
    )


def state_widths(codes: NDArray[np.int16]) -> NDArray[np.int64]:
    """int64 (n,), how many integers of state each strategy keeps."""
    from engine.strategies import strategies  # noqa: PLC0415 (loads entry points, which a migration does not need)

    widths = np.ones(len(codes), dtype=np.int64)
    for code in codes_in(codes):
        if code in strategies():
            widths[codes == code] = len(strategies()[code].initial_state)
    return widths
