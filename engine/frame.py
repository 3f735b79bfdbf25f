"""The portfolio frame: many simulations as columns, padded to the widest one's number of slots."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from engine.ticks import Floats, Ints

MAX_SLOTS = 32

Rows = NDArray[np.intp] | slice
_F = TypeVar("_F", "Simulations", "State")


@dataclass(kw_only=True, slots=True)
class Simulations:
    """What does not change from day to day; n simulations, at most K slots, at most P parameters.

    Attributes:
        user_id, simulation_id: int64 (n,).
        strategy: int16 (n,), the strategy's code.
        start_day: int32 (n,), day number.
        initial_cash: int64 (n,), ticks.
        params: int64 (n, P), zero padded.
        param_count: int16 (n,).
        asset_ids: int32 (n, K), 0 padded.
        weights: int64 (n, K), ppm, zero padded.
        slots: int16 (n,), how many of the K are used.
    """

    user_id: Ints
    simulation_id: Ints
    strategy: NDArray[np.int16]
    start_day: NDArray[np.int32]
    initial_cash: Ints
    params: Ints
    param_count: NDArray[np.int16]
    asset_ids: NDArray[np.int32]
    weights: Ints
    slots: NDArray[np.int16]

    def __len__(self) -> int:
        return len(self.user_id)

    def take(self, rows: Rows) -> Simulations:
        """The simulations at `rows`; a view where `rows` is a slice."""
        return _take(self, rows)


@dataclass(kw_only=True, slots=True)
class State:
    """What a day leaves behind; money and quantities in ticks.

    Attributes:
        cash, equity, peak: int64 (n,).
        nights: int32 (n,), returns in the statistics.
        return_mean, return_m2, max_drawdown: float64 (n,); Welford's running mean and sum of squared deviations.
        quantities, cost_basis: int64 (n, K).
        strategy_state: int64 (n, S).
    """

    cash: Ints
    equity: Ints
    peak: Ints
    nights: NDArray[np.int32]
    return_mean: Floats
    return_m2: Floats
    max_drawdown: Floats
    quantities: Ints
    cost_basis: Ints
    strategy_state: Ints

    def __len__(self) -> int:
        return len(self.cash)

    def take(self, rows: Rows) -> State:
        """The states at `rows`; a view where `rows` is a slice."""
        return _take(self, rows)

    def copy(self) -> State:
        """A state that shares nothing with this one."""
        return State(**{field.name: getattr(self, field.name).copy() for field in fields(self)})

    def put(self, rows: Rows, other: State) -> None:
        """Store `other` at `rows`."""
        for field in fields(self):
            getattr(self, field.name)[rows] = getattr(other, field.name)

    @classmethod
    def initial(cls, simulations: Simulations) -> State:
        """The state before the first day: all cash, no position, the strategy's initial state."""
        from engine.strategies import initial_states  # noqa: PLC0415 (strategies are written in terms of the frame)

        count, slots = simulations.asset_ids.shape
        cash = simulations.initial_cash
        return cls(
            cash=cash.copy(),
            equity=cash.copy(),
            peak=cash.copy(),
            nights=np.zeros(count, dtype=np.int32),
            return_mean=np.zeros(count),
            return_m2=np.zeros(count),
            max_drawdown=np.zeros(count),
            quantities=np.zeros((count, slots), dtype=np.int64, order="F"),
            cost_basis=np.zeros((count, slots), dtype=np.int64, order="F"),
            strategy_state=initial_states(simulations.strategy),
        )


def _take(frame: _F, rows: Rows) -> _F:
    return type(frame)(**{field.name: getattr(frame, field.name)[rows] for field in fields(frame)})
