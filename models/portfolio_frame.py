"""What a batch starts from: simulations and their latest state, gathered by the server, as the engine's frame.

A simulation's row changes seldom and is read every night, so the table keeps it as bytes in `simulations.frame`, a
column that PostgreSQL itself generates (`simulation_frame`): one value a simulation instead of eight, three of them
arrays.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine.frame import Simulations, State
from engine.slots import any_slot
from models.column_reader import ColumnGroup, Message, copy_rows, gathered, row_fields
from models.portfolio_rows import PORTFOLIO_FORMAT, SIMULATION_FORMAT

STATE_COLUMNS = tuple(column for column in PORTFOLIO_FORMAT.columns if column.name not in ("day", "user_id"))
"""What a night needs of the day before."""

GATHERED_SIMULATIONS = "cardinality(params), cardinality(asset_ids), string_agg(frame, ''::bytea)"
"""The select list of `frame_of`; grouped by the first two."""


def gathered_states(prefix: str = "") -> str:
    """The select list of `place_states` after the day; to be grouped by the day and by `state_layout`."""
    return gathered(STATE_COLUMNS, prefix)


def state_layout(prefix: str = "") -> str:
    """What rows of a group of states have in common: their arrays' lengths."""
    return f"cardinality({prefix}asset_ids), cardinality({prefix}state)"


@dataclass(slots=True)
class Frame:
    """What a batch starts from, ordered by strategy, so that the engine's groups are views.

    Attributes:
        simulations: n simulations.
        state: their latest state, or the initial one.
        state_day: int32 (n,), the day of that state; `start_day - 1` where there is no row yet.
        unreadable: (user_id, simulation_id) of those whose row's positions are not in the simulation's assets.
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


def frame_of(messages: Sequence[Message]) -> Frame:
    """The frame of a COPY OUT of `GATHERED_SIMULATIONS`, all of them at their start.

    Raises:
        ValueError: it is no such COPY, or a frame is not what `simulation_frame` makes.
    """
    blocks = []
    for row in copy_rows(messages):
        params, slots, frames = row_fields(row)
        dtype = _record(int.from_bytes(params, "big"), int.from_bytes(slots, "big"))
        if len(frames) % dtype.itemsize:
            raise ValueError("column frame: not what simulation_frame makes of the row's other columns")
        blocks.append(np.frombuffer(frames, dtype=dtype))
    # Blocks of one layout hold a few strategies: a stable sort of few runs.
    order = np.argsort(_column(blocks, "strategy", np.int16), kind="stable")
    simulations = Simulations(
        user_id=_column(blocks, "user_id", np.int64)[order],
        simulation_id=_column(blocks, "id", np.int64)[order],
        strategy=_column(blocks, "strategy", np.int16)[order],
        start_day=_column(blocks, "start_day", np.int32)[order],
        initial_cash=_column(blocks, "initial_cash", np.int64)[order],
        params=_matrix(blocks, "params", np.int64, order),
        param_count=_lengths(blocks, "params")[order],
        asset_ids=_matrix(blocks, "asset_ids", np.int32, order),
        weights=_matrix(blocks, "weights_ppm", np.int64, order),
        slots=_lengths(blocks, "asset_ids")[order],
    )
    return Frame(simulations, State.initial(simulations), simulations.start_day - np.int32(1), [])


def place_states(frame: Frame, groups: Sequence[ColumnGroup]) -> None:
    """Put rows of `STATE_COLUMNS`, at most one a simulation, at their simulations; others are passed over.

    A simulation whose row does not fit it is moved to `unreadable`.

    Args:
        groups: their first key is the day of the rows.
    """
    ids = frame.simulations.simulation_id
    by_id = np.argsort(ids)
    unfit = np.zeros(len(ids), dtype=np.bool_)
    for group in groups if len(ids) else ():
        values = group.values
        found = by_id[np.minimum(np.searchsorted(ids, values["simulation_id"], sorter=by_id), len(ids) - 1)]
        ours = ids[found] == values["simulation_id"]
        fits = _fits(values, frame.simulations, found)
        unfit[found[ours & ~fits]] = True
        good = ours & fits
        if not good.all():
            values, found = {name: column[good] for name, column in values.items()}, found[good]
        _place(frame, group.keys[0], values, found)
    if unfit.any():
        users = frame.simulations.user_id[unfit].tolist()
        frame.unreadable += zip(users, ids[unfit].tolist(), strict=True)
        frame.keep(~unfit)


def _place(frame: Frame, day: int, values: dict[str, NDArray[Any]], rows: NDArray[np.intp]) -> None:
    state = frame.state
    frame.state_day[rows] = day
    for name in ("nights", "cash", "equity", "peak", "return_mean", "return_m2", "max_drawdown"):
        getattr(state, name)[rows] = values[name]
    for target, name in (
        (state.quantities, "quantities"),
        (state.cost_basis, "cost_basis"),
        (state.strategy_state, "state"),
    ):
        width = min(values[name].shape[1], target.shape[1])
        target[rows, :width] = values[name][:, :width]


def _fits(values: dict[str, NDArray[Any]], simulations: Simulations, rows: NDArray[np.intp]) -> NDArray[np.bool_]:
    """bool (g,), rows whose positions are those of their simulation's assets."""
    held = values["asset_ids"]
    slots = held.shape[1]
    if any(values[name].shape[1] != slots for name in ("quantities", "cost_basis")):
        return np.zeros(len(rows), dtype=np.bool_)
    if slots > simulations.asset_ids.shape[1]:
        return np.zeros(len(rows), dtype=np.bool_)
    other = any_slot(held != simulations.asset_ids[rows, :slots])
    return np.asarray(~other & (simulations.slots[rows] == slots))


@lru_cache(maxsize=512)
def _record(params: int, slots: int) -> np.dtype[np.void]:
    """A frame of so many parameters and slots."""
    lengths = {"params": params, "asset_ids": slots, "weights_ppm": slots}
    return np.dtype(
        [
            (column.name, column.type.item, (lengths[column.name],)) if column.is_array
            else (column.name, column.type.wire)
            for column in SIMULATION_FORMAT.columns
        ]
    )  # fmt: skip


def _column(blocks: Sequence[NDArray[np.void]], name: str, dtype: Any) -> NDArray[Any]:
    return np.concatenate([np.zeros(0, dtype=dtype), *(block[name] for block in blocks)], dtype=dtype)


def _matrix(blocks: Sequence[NDArray[np.void]], name: str, dtype: Any, order: NDArray[np.intp]) -> NDArray[Any]:
    """(n, widest) in this order of the rows, zero padded, slot after slot in memory."""
    width = max((block[name].shape[1] for block in blocks), default=1)
    result = np.zeros((sum(map(len, blocks)), max(width, 1)), dtype=dtype, order="F")
    start = 0
    for block in blocks:
        values = block[name]["value"]
        result[start : start + len(values), : values.shape[1]] = values
        start += len(values)
    return np.take(result.T, order, axis=1).T


def _lengths(blocks: Sequence[NDArray[np.void]], name: str) -> NDArray[np.int16]:
    return np.repeat(
        np.array([block[name].shape[1] for block in blocks], dtype=np.int16), [len(block) for block in blocks]
    )
