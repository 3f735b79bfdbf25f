"""The hot tables' columns, and a night's rows as bytes."""

from __future__ import annotations

from collections.abc import Sequence

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


# Rows become Python objects for a moment; so few of them fit into memory that the interpreter has and keeps.
_BLOCK_ROWS = 1000


def encode_portfolio_days(simulations: Simulations, state: State, day: int) -> list[bytes]:
    """`PORTFOLIO_FORMAT` rows of one day in blocks, in the order of the table's key.

    In key order the index grows at its right edge and its pages are full: a third of the time of writing is the key's.
    """
    order = np.lexsort((simulations.simulation_id, simulations.user_id))
    shape = (simulations.slots.astype(np.int64) * 256 + state_widths(simulations.strategy))[order]
    groups = []
    for code in np.flatnonzero(np.bincount(shape)).tolist():
        slots, state_width = divmod(code, 256)
        where = np.flatnonzero(shape == code)
        groups.append((where, _encode_uniform(simulations, state, order[where], day, (slots, state_width))))
    return [
        _interleave(groups, begin, min(begin + _BLOCK_ROWS, len(order))) for begin in range(0, len(order), _BLOCK_ROWS)
    ]


def _interleave(groups: Sequence[tuple[NDArray[np.intp], NDArray[np.void]]], begin: int, end: int) -> bytes:
    """The rows `[begin, end)` of all groups, each (positions in the whole, rows), in the order of their positions."""
    rows = np.empty(end - begin, dtype=object)
    for where, encoded in groups:
        first, last = np.searchsorted(where, (begin, end))
        rows[where[first:last] - begin] = encoded[first:last].tolist()
    return b"".join(rows.tolist())


def _encode_uniform(
    simulations: Simulations, state: State, rows: NDArray[np.intp], day: int, layout: tuple[int, int]
) -> NDArray[np.void]:
    """Rows that all have so many slots and integers of state, one element each."""
    slots, state_width = layout
    encoded = PORTFOLIO_FORMAT.encode(
        {
            "day": np.full(len(rows), day, dtype=np.int32),
            "nights": state.nights[rows],
            "user_id": simulations.user_id[rows],
            "simulation_id": simulations.simulation_id[rows],
            "cash": state.cash[rows],
            "equity": state.equity[rows],
            "peak": state.peak[rows],
            "return_mean": state.return_mean[rows],
            "return_m2": state.return_m2[rows],
            "max_drawdown": state.max_drawdown[rows],
            "asset_ids": simulations.asset_ids[rows, :slots],
            "quantities": state.quantities[rows, :slots],
            "cost_basis": state.cost_basis[rows, :slots],
            "state": state.strategy_state[rows, :state_width],
        }
    )
    return np.frombuffer(encoded, dtype=np.dtype((np.void, len(encoded) // len(rows))))


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
