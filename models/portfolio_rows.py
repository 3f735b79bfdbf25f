"""The hot tables as binary rows: which columns a night reads and writes, and the frame that the engine works on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.frame import Simulations, State
from engine.orders import Trades
from models.copy_codec import DATE, FLOAT8, INT2, INT4, INT8, Column, RowFormat, RowGroup

SIMULATION_COLUMNS = (
    Column("user_id", INT8),
    Column("id", INT8),
    Column("strategy", INT2),
    Column("start_day", DATE),
    Column("initial_cash", INT8),
    Column("params", INT8, is_array=True),
    Column("asset_ids", INT4, is_array=True),
    Column("weights_ppm", INT4, is_array=True),
)
STATE_COLUMNS = (
    Column("nights", INT4),
    Column("cash", INT8),
    Column("equity", INT8),
    Column("peak", INT8),
    Column("return_mean", FLOAT8),
    Column("return_m2", FLOAT8),
    Column("max_drawdown", FLOAT8),
    Column("held_asset_ids", INT4, is_array=True),
    Column("quantities", INT8, is_array=True),
    Column("cost_basis", INT8, is_array=True),
    Column("state", INT8, is_array=True),
)
# `state_day` is NULL where the simulation has no earlier row.
READ_FORMAT = RowFormat((*SIMULATION_COLUMNS, Column("state_day", DATE), *STATE_COLUMNS))

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


@dataclass(frozen=True, slots=True)
class Frame:
    """What a batch starts from, in key order.

    Attributes:
        simulations: n simulations.
        state: their latest state, or the initial one.
        state_day: int32 (n,), the day of that state; `start_day - 1` where there is no row yet.
        unreadable: (user_id, simulation_id) of rows whose arrays are no plain arrays or do not fit each other.
    """

    simulations: Simulations
    state: State
    state_day: NDArray[np.int32]
    unreadable: list[tuple[int, int]]


def frame_of(groups: Sequence[RowGroup]) -> Frame:
    """The frame of decoded `READ_FORMAT` rows."""
    readable: list[RowGroup] = []
    unreadable: list[tuple[int, int]] = []
    for group in groups:
        fits = _fits(group)
        if fits.any():
            readable.append(group if fits.all() else _select(group, fits))
        keys = zip(group.values["user_id"][~fits].tolist(), group.values["id"][~fits].tolist(), strict=True)
        unreadable += list(keys)
    rows = np.concatenate([group.rows for group in readable]) if readable else np.zeros(0, dtype=np.intp)
    order = np.argsort(rows, kind="stable")

    def column(name: str, dtype: Any, default: int = 0) -> NDArray[Any]:
        parts = [group.values.get(name, np.full(len(group.rows), default, dtype=dtype)) for group in readable]
        return np.concatenate(parts).astype(dtype, copy=False)[order] if parts else np.zeros(0, dtype=dtype)

    def matrix(name: str, dtype: Any, width: int = 1) -> NDArray[Any]:
        width = max([width, *(group.values[name].shape[1] for group in readable if name in group.values)])
        result = np.zeros((len(rows), width), dtype=dtype)
        start = 0
        for group in readable:
            stop = start + len(group.rows)
            if name in group.values:
                result[start:stop, : group.values[name].shape[1]] = group.values[name]
            start = stop
        return result[order]

    def length(name: str) -> NDArray[np.int16]:
        parts = [np.full(len(group.rows), group.values[name].shape[1], dtype=np.int16) for group in readable]
        return np.concatenate(parts)[order] if parts else np.zeros(0, dtype=np.int16)

    simulations = Simulations(
        user_id=column("user_id", np.int64),
        simulation_id=column("id", np.int64),
        strategy=column("strategy", np.int16),
        start_day=column("start_day", np.int32),
        initial_cash=column("initial_cash", np.int64),
        params=matrix("params", np.int64),
        param_count=length("params"),
        asset_ids=matrix("asset_ids", np.int32),
        weights=matrix("weights_ppm", np.int64),
        slots=length("asset_ids"),
    )
    state = State.initial(simulations)
    state_day = column("state_day", np.int32, default=-1)
    slots, width = simulations.asset_ids.shape[1], state.strategy_state.shape[1]
    stored = State(
        cash=column("cash", np.int64),
        equity=column("equity", np.int64),
        peak=column("peak", np.int64),
        nights=column("nights", np.int32),
        return_mean=column("return_mean", np.float64),
        return_m2=column("return_m2", np.float64),
        max_drawdown=column("max_drawdown", np.float64),
        quantities=matrix("quantities", np.int64, slots)[:, :slots],
        cost_basis=matrix("cost_basis", np.int64, slots)[:, :slots],
        strategy_state=matrix("state", np.int64, width)[:, :width],
    )
    known = state_day >= 0
    if known.all():
        state = stored
    elif known.any():
        state.put(np.flatnonzero(known), stored.take(np.flatnonzero(known)))
    return Frame(simulations, state, np.where(known, state_day, simulations.start_day - 1).astype(np.int32), unreadable)


def _fits(group: RowGroup) -> NDArray[np.bool_]:
    """bool (g,), rows whose arrays are plain and whose positions are those of the simulation's assets."""
    values, count = group.values, len(group.rows)
    if group.opaque or values["asset_ids"].shape[1] != values["weights_ppm"].shape[1]:
        return np.zeros(count, dtype=np.bool_)
    if "state_day" not in values:
        return np.ones(count, dtype=np.bool_)
    slots = values["asset_ids"].shape[1]
    if any(values[name].shape[1] != slots for name in ("held_asset_ids", "quantities", "cost_basis")):
        return np.zeros(count, dtype=np.bool_)
    return np.asarray((values["held_asset_ids"] == values["asset_ids"]).all(axis=1))


def _select(group: RowGroup, where: NDArray[np.bool_]) -> RowGroup:
    return RowGroup(group.rows[where], {name: column[where] for name, column in group.values.items()}, group.opaque)


def encode_portfolio_days(simulations: Simulations, state: State, day: int) -> list[memoryview]:
    """`PORTFOLIO_FORMAT` rows of one day, one block for each number of slots and state integers."""
    blocks = []
    width = state_widths(simulations.strategy)
    shape = simulations.slots.astype(np.int64) * 256 + width
    for code in np.unique(shape).tolist():
        rows = np.flatnonzero(shape == code)
        slots, state_width = divmod(code, 256)
        one, now = simulations.take(rows), state.take(rows)
        blocks.append(
            PORTFOLIO_FORMAT.encode(
                {
                    "day": np.full(len(rows), day, dtype=np.int32),
                    "nights": now.nights,
                    "user_id": one.user_id,
                    "simulation_id": one.simulation_id,
                    "cash": now.cash,
                    "equity": now.equity,
                    "peak": now.peak,
                    "return_mean": now.return_mean,
                    "return_m2": now.return_m2,
                    "max_drawdown": now.max_drawdown,
                    "asset_ids": one.asset_ids[:, :slots],
                    "quantities": now.quantities[:, :slots],
                    "cost_basis": now.cost_basis[:, :slots],
                    "state": now.strategy_state[:, :state_width],
                }
            )
        )
    return blocks


def encode_trades(simulations: Simulations, trades: Trades, day: int) -> memoryview:
    """`TRADE_FORMAT` rows of one day."""
    return TRADE_FORMAT.encode(
        {
            "day": np.full(len(trades), day, dtype=np.int32),
            "asset_id": trades.asset_id,
            "user_id": simulations.user_id[trades.row],
            "simulation_id": simulations.simulation_id[trades.row],
            "quantity": trades.quantity,
            "price": trades.price,
            "notional": trades.notional,
            "fee": trades.fee,
            "realised": trades.realised,
        }
    )


def state_widths(codes: NDArray[np.int16]) -> NDArray[np.int64]:
    """int64 (n,), how many integers of state each strategy keeps."""
    from engine.strategies import strategies  # noqa: PLC0415 (loads entry points, which a migration does not need)

    widths = np.ones(len(codes), dtype=np.int64)
    for code in np.unique(codes).tolist():
        if code in strategies():
            widths[codes == code] = len(strategies()[code].initial_state)
    return widths
