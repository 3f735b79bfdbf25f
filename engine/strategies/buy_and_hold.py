"""Buys each asset once, with its share of the initial cash, on the first day on which it trades; then holds it."""

from __future__ import annotations

from engine.night import Night
from engine.params import Parameters
from engine.slots import pack_bits
from engine.strategies.base import Strategy, slot_bits
from engine.ticks import Ints


class BuyAndHold(Strategy):
    """The state is a mask of the slots that have been bought: what a stop sells is not bought again."""

    name = "buy_and_hold"
    code = 1
    Parameters = Parameters

    def orders(self, night: Night) -> Ints:
        """Buy the tradable slots that were never bought."""
        orders = night.no_orders()
        state, bits = night.state.strategy_state, slot_bits(orders.shape[1])
        buy = night.tradable & ((state[:, :1] & bits) == 0)
        if buy.any():
            night.buy_for(orders, buy, night.weighted(night.simulations.initial_cash))
            state[:, 0] |= pack_bits(buy)
        return orders
