"""Brings every asset back to its weight of the equity when the calendar says so, or when one has drifted too far."""

from __future__ import annotations

from typing import Self

import numpy as np
from pydantic import Field, model_validator

from engine import params
from engine.night import Night
from engine.slots import any_slot, places
from engine.strategies.base import Calendar, Period, Strategy, period_numbers
from engine.ticks import PPM, Bools, Ints, mul_div_floor


class RebalanceParameters(params.Parameters):
    """At least one of `calendar` and `band_ppm` is set."""

    calendar: Calendar = Period.MONTHLY
    band_ppm: int = Field(0, ge=0, le=PPM, description="0: off")

    @model_validator(mode="after")
    def _has_a_trigger(self) -> Self:
        if self.calendar is Period.NONE and self.band_ppm == 0:
            raise ValueError("set calendar, band_ppm or both")
        return self


class Rebalance(Strategy):
    """The state is the period of the last calendar rebalance; drift is judged by the previous day's closes."""

    name = "rebalance"
    code = 3
    Parameters = RebalanceParameters
    initial_state = (-1,)

    def inconsistent(self, own: Ints) -> Bools:
        """Neither trigger is set."""
        return np.asarray((own[:, 0] == Period.NONE) & (own[:, 1] == 0))

    def orders(self, night: Night) -> Ints:
        """Orders to the target weights, of the simulations that are due or have drifted."""
        orders = night.no_orders()
        calendar = night.params[:, 0]
        period = period_numbers(night.day)[calendar]
        due = (calendar != Period.NONE) & (period != night.state.strategy_state[:, 0])
        act = (due | _drifted(night, ~due)) & night.any_tradable
        if act.any():
            at = places(night.tradable & act[:, None])
            night.to_value(orders, at, night.weighted(at, night.equity))
            due &= act
            night.state.strategy_state[due, 0] = period[due]
        return orders


def _drifted(night: Night, candidates: Bools) -> Bools:
    """bool (n,), a slot's share of the previous equity is more than the band away from its weight."""
    drifted = np.zeros(len(candidates), dtype=np.bool_)
    band, previous = night.params[:, 1], night.state.equity
    rows = np.flatnonzero(candidates & (band > 0) & (previous > 0))
    if len(rows):
        share = mul_div_floor(night.previous_value(rows), PPM, previous[rows, None])
        drifted[rows] = any_slot(np.abs(share - night.simulations.weights[rows]) > band[rows, None])
    return drifted
