"""Buys each asset once, with its share of the initial cash, on the first day on which it trades; then holds it."""

from __future__ import annotations

from engine.night import Night
from engine.params import Parameters
from engine.slots import pack_bits, places, unpack_bits
from engine.strategies.base import Strategy
from engine.ticks import Ints


class BuyAndHold(Strategy):
    """The state is a mask of the slots that have been bought: what a stop sells is not bought again."""

    name = "buy_and_hold"
    code = 1
    Parameters = Parameters

    def orders(self, night: Night) -> Ints:
        """Buy the tradable slots that were never bought."""
        orders = night.no_orders()
        state = night.state.strategy_state
        buy = night.tradable & ~unpack_bits(state[:, 0], orders.shape[1])
        if buy.any():
            at = places(buy)
            night.buy_for(orders, at, night.weighted(at, night.simulations.initial_cash))
            state[:, 0] |= pack_bits(buy)
        return orders
