"""Buys an asset that has fallen far below its moving average, and sells it when it has come back."""

from __future__ import annotations

from functools import partial
from typing import Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from engine import params
from engine.night import Night
from engine.strategies.base import MAX_LOOKBACK, Strategy, enter_and_leave, signals
from engine.ticks import PPM, Bools, Ints


class MeanReversionParameters(params.Parameters):
    """`entry_ppm` and `exit_ppm` are distances below the average of `window` closes."""

    window: int = Field(20, ge=2, le=MAX_LOOKBACK)
    entry_ppm: int = Field(50_000, ge=1, le=PPM - 1)
    exit_ppm: int = Field(0, ge=0, le=PPM - 1)

    @model_validator(mode="after")
    def _exit_above_entry(self) -> Self:
        if self.exit_ppm >= self.entry_ppm:
            raise ValueError("exit_ppm must be below entry_ppm")
        return self


class MeanReversion(Strategy):
    """The state is the mask of blocked slots."""

    name = "mean_reversion"
    code = 6
    Parameters = MeanReversionParameters
    blocking = True

    def inconsistent(self, own: Ints) -> Bools:
        """It would leave before it entered."""
        return np.asarray(own[:, 2] >= own[:, 1])

    def orders(self, night: Night) -> Ints:
        """Enter where the last close is cheap, leave where it has recovered."""
        if night.previous_row < 0:
            nothing = np.zeros(night.columns.shape, dtype=np.bool_)
            return enter_and_leave(night, nothing, nothing, ~nothing)
        below = partial(night.market.below_average, night.previous_row)

        def rule(columns: NDArray[np.intp], window: Ints, entry: Ints, exit_: Ints) -> tuple[Bools, Bools]:
            enough, cheap = below(columns, window, PPM, PPM - entry)
            _, still_below = below(columns, window, PPM, PPM - exit_)
            return enough & cheap, enough & ~still_below

        cheap, recovered = signals(night, [night.params[:, index] for index in range(3)], rule)
        return enter_and_leave(night, cheap, recovered, ~cheap)
