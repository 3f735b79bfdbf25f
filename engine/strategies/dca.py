"""Dollar-cost averaging: invests a fixed amount every so many days, split by weight, whatever the price."""

from __future__ import annotations

from pydantic import Field

from engine import params
from engine.night import Night
from engine.slots import places
from engine.strategies.base import Strategy
from engine.ticks import MAX, Ints


class DcaParameters(params.Parameters):
    """`amount` in ticks of money."""

    every_days: int = Field(ge=1, le=3650)
    amount: int = Field(ge=1, le=MAX)


class Dca(Strategy):
    """The state is the number of the last instalment: one that falls on a holiday is made up for, two are one."""

    name = "dca"
    code = 2
    Parameters = DcaParameters
    initial_state = (-1,)

    def orders(self, night: Night) -> Ints:
        """Buy all tradable slots on the days on which an instalment is due."""
        orders = night.no_orders()
        every, amount = night.params[:, 0], night.params[:, 1]
        instalment = (night.day - night.simulations.start_day) // every
        due = (instalment > night.state.strategy_state[:, 0]) & night.any_tradable
        if due.any():
            at = places(night.tradable & due[:, None])
            night.buy_for(orders, at, night.weighted(at, amount))
            night.state.strategy_state[due, 0] = instalment[due]
        return orders
