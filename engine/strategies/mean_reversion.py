"""Buys an asset that has fallen far below its moving average, and sells it when it has come back."""

from __future__ import annotations

from typing import Self

import numpy as np
from pydantic import Field, model_validator

from engine import params
from engine.night import Night
from engine.strategies.base import MAX_LOOKBACK, Strategy, enter_and_leave
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
        window, entry, exit_ = (night.params[:, index : index + 1] for index in range(3))
        below = night.market.below_average
        enough, cheap = below(night.previous_row, night.columns, window, PPM, PPM - entry)
        _, still_below = below(night.previous_row, night.columns, window, PPM, PPM - exit_)
        cheap &= enough
        return enter_and_leave(night, cheap, enough & ~still_below, ~cheap)
