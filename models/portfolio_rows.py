"""The hot tables as binary rows: which columns a night reads and writes, and the frame that the engine works on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.frame import Simulations, State
from engine.orders import Trades
from engine.slots import codes_in
from models.copy_codec import DATE, FLOAT8, INT2, INT4, INT8, Column, RowFormat, RowGroup

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
STATE_FORMAT = RowFormat(
    (
        Column("day", DATE),
        Column("nights", INT4),
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


@dataclass(slots=True)
class Frame:
    """What a batch starts from, ordered by strategy, so that the engine's groups are views.

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

    def keep(self, where: NDArray[np.bool_]) -> None:
        """Drop the other simulations."""
        if not where.all():
            rows = np.flatnonzero(where)
            self.simulations, self.state = self.simulations.take(rows), self.state.take(rows)
            self.state_day = self.state_day[rows]


def frame_of(groups: Sequence[RowGroup]) -> Frame:
    """The frame of decoded `SIMULATION_FORMAT` rows, all of them at their start."""
    plain = [group for group in groups if _is_plain(group)]
    unreadable = [
        key
        for group in groups
        if not _is_plain(group)
        for key in zip(group.values["user_id"].tolist(), group.values["id"].tolist(), strict=True)
    ]
    # Groups of one layout usually hold one or two strategies: a stable sort of few runs.
    order = np.argsort(_column(plain, "strategy", np.int16), kind="stable")
    simulations = Simulations(
        user_id=_column(plain, "user_id", np.int64)[order],
        simulation_id=_column(plain, "id", np.int64)[order],
        strategy=_column(plain, "strategy", np.int16)[order],
        start_day=_column(plain, "start_day", np.int32)[order],
        initial_cash=_column(plain, "initial_cash", np.int64)[order],
        params=_matrix(plain, "params", np.int64)[order],
        param_count=_lengths(plain, "params")[order],
        asset_ids=_matrix(plain, "asset_ids", np.int32)[order],
        weights=_matrix(plain, "weights_ppm", np.int64)[order],
        slots=_lengths(plain, "asset_ids")[order],
    )
    return Frame(simulations, State.initial(simulations), simulations.start_day - np.int32(1), unreadable)


def place_states(frame: Frame, groups: Sequence[RowGroup]) -> None:
    """Put decoded `STATE_FORMAT` rows, at most one a simulation, at their simulations; others are passed over.

    A simulation whose row does not fit it is moved to `unreadable`.
    """
    ids = frame.simulations.simulation_id
    by_id = np.argsort(ids)
    unfit = np.zeros(len(ids), dtype=np.bool_)
    for group in groups if len(ids) else ():
        found = by_id[np.minimum(np.searchsorted(ids, group.values["simulation_id"], sorter=by_id), len(ids) - 1)]
        ours = ids[found] == group.values["simulation_id"]
        if not ours.all():
            group, found = _select(group, ours), found[ours]  # noqa: PLW2901 - the rest of it is nobody's
        fits = _fits(group, frame.simulations, found)
        unfit[found[~fits]] = True
        if not fits.all():
            group, found = _select(group, fits), found[fits]  # noqa: PLW2901 - the rest of it is unreadable
        if len(found):
            _place(frame, group, found)
    if unfit.any():
        users = frame.simulations.user_id[unfit].tolist()
        frame.unreadable += zip(users, ids[unfit].tolist(), strict=True)
        frame.keep(~unfit)


def _place(frame: Frame, group: RowGroup, rows: NDArray[np.intp]) -> None:
    state, values = frame.state, group.values
    frame.state_day[rows] = values["day"]
    for name in ("nights", "cash", "equity", "peak", "return_mean", "return_m2", "max_drawdown"):
        getattr(state, name)[rows] = values[name]
    for target, name in (
        (state.quantities, "quantities"),
        (state.cost_basis, "cost_basis"),
        (state.strategy_state, "state"),
    ):
        width = min(values[name].shape[1], target.shape[1])
        target[rows, :width] = values[name][:, :width]


def _is_plain(group: RowGroup) -> bool:
    return not group.opaque and group.values["asset_ids"].shape[1] == group.values["weights_ppm"].shape[1]


def _fits(group: RowGroup, simulations: Simulations, rows: NDArray[np.intp]) -> NDArray[np.bool_]:
    """bool (g,), rows of `STATE_FORMAT` whose positions are those of their simulation's assets."""
    if group.opaque:
        return np.zeros(len(rows), dtype=np.bool_)
    held = group.values["asset_ids"]
    slots = held.shape[1]
    if any(group.values[name].shape[1] != slots for name in ("quantities", "cost_basis")):
        return np.zeros(len(rows), dtype=np.bool_)
    if slots > simulations.asset_ids.shape[1]:
        return np.zeros(len(rows), dtype=np.bool_)
    same = (held == simulations.asset_ids[rows, :slots]).all(axis=1)
    return np.asarray(same & (simulations.slots[rows] == slots))


def _select(group: RowGroup, where: NDArray[np.bool_]) -> RowGroup:
    return RowGroup(group.rows[where], {name: column[where] for name, column in group.values.items()}, group.opaque)


def _column(groups: Sequence[RowGroup], name: str, dtype: Any) -> NDArray[Any]:
    parts = [group.values[name] for group in groups]
    return np.concatenate(parts).astype(dtype, copy=False) if parts else np.zeros(0, dtype=dtype)


def _matrix(groups: Sequence[RowGroup], name: str, dtype: Any) -> NDArray[Any]:
    """(n, widest), zero padded."""
    width = max((group.values[name].shape[1] for group in groups), default=1)
    result = np.zeros((sum(len(group.rows) for group in groups), max(width, 1)), dtype=dtype)
    start = 0
    for group in groups:
        values = group.values[name]
        result[start : start + len(values), : values.shape[1]] = values
        start += len(values)
    return result


def _lengths(groups: Sequence[RowGroup], name: str) -> NDArray[np.int16]:
    parts = [np.full(len(group.rows), group.values[name].shape[1], dtype=np.int16) for group in groups]
    return np.concatenate(parts) if parts else np.zeros(0, dtype=np.int16)


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
