"""Trend following: holds an asset while its fast simple moving average is above its slow one."""

from __future__ import annotations

from functools import partial
from typing import Self

import numpy as np
from pydantic import Field, model_validator

from engine import params
from engine.night import Night
from engine.strategies.base import MAX_LOOKBACK, Strategy, enter_and_leave, signals
from engine.ticks import Bools, Ints


class SmaCrossParameters(params.Parameters):
    """Window lengths in closes."""

    fast: int = Field(20, ge=1, le=MAX_LOOKBACK)
    slow: int = Field(50, ge=1, le=MAX_LOOKBACK)

    @model_validator(mode="after")
    def _fast_below_slow(self) -> Self:
        if self.fast >= self.slow:
            raise ValueError("fast must be below slow")
        return self


class SmaCross(Strategy):
    """The state is the mask of blocked slots."""

    name = "sma_cross"
    code = 4
    Parameters = SmaCrossParameters
    blocking = True

    def inconsistent(self, own: Ints) -> Bools:
        """The fast window is not the shorter one."""
        return np.asarray(own[:, 0] >= own[:, 1])

    def orders(self, night: Night) -> Ints:
        """Enter where the fast average is above, leave where it is not."""
        if night.previous_row < 0:
            long = np.zeros(night.columns.shape, dtype=np.bool_)
        else:
            above = partial(night.market.above_average, night.previous_row)
            (long,) = signals(night, (night.params[:, 0], night.params[:, 1]), lambda *at: (above(*at),))
        return enter_and_leave(night, long, ~long, ~long)
