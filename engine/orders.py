"""Stops, and the filling of orders by the rules of the ledger: sales first, then purchases in slot order."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from engine.night import Night, afford
from engine.params import FEE_BUY, FEE_SELL, FEE_SELL_CAP, STOP_LOSS, TAKE_PROFIT
from engine.strategies.base import slot_bits
from engine.ticks import PPM, TICKS, Bools, Ints, add_checked, mul_div_floor, mul_div_round


@dataclass(slots=True)
class Trades:
    """Fills as columns, ordered by row, then slot; all int64 (t,).

    Attributes:
        row, slot: where in the frame.
        asset_id: int32.
        quantity: ticks, > 0 bought, < 0 sold.
        price, notional, fee: ticks, >= 0.
        realised: ticks, profit of a sale after its fee and its part of the cost; 0 for a purchase.
    """

    row: NDArray[np.intp]
    slot: NDArray[np.intp]
    asset_id: NDArray[np.int32]
    quantity: Ints
    price: Ints
    notional: Ints
    fee: Ints
    realised: Ints

    def __len__(self) -> int:
        return len(self.row)

    def of_rows(self, ok: Bools) -> Trades:
        """The trades of the rows of the mask `ok`."""
        kept = ok[self.row]
        return Trades(**{field.name: getattr(self, field.name)[kept] for field in fields(self)})


_NONE = np.zeros(0, dtype=np.int64)
NO_TRADES = Trades(_NONE, _NONE, _NONE.astype(np.int32), _NONE, _NONE, _NONE, _NONE, _NONE)


def apply_stops(night: Night, orders: Ints, blocking: Bools) -> None:
    """Turn the orders of slots that hit their stop-loss or take-profit into the sale of all they hold.

    Where `blocking` (n,), the slot's bit in the strategy's state is set as well.
    """
    params = night.simulations.params
    watched = (params[:, STOP_LOSS] > 0) | (params[:, TAKE_PROFIT] > 0)
    if not watched.any():
        return
    held = night.state.quantities
    rows, slots = np.nonzero(night.tradable & (held > 0) & watched[:, None])
    if len(rows) == 0:
        return
    value = night.previous_value(rows, slots)
    cost = night.state.cost_basis[rows, slots]
    loss, profit = params[rows, STOP_LOSS], params[rows, TAKE_PROFIT]
    hit = (loss > 0) & (value <= mul_div_floor(cost, PPM - loss, PPM))
    hit |= (profit > 0) & (value >= mul_div_floor(cost, PPM + profit, PPM))
    rows, slots = rows[hit], slots[hit]
    orders[rows, slots] = -held[rows, slots]
    blocked = blocking[rows]
    bits = slot_bits(orders.shape[1])[0, slots[blocked]]
    np.bitwise_or.at(night.state.strategy_state[:, 0], rows[blocked], bits)


def fill(night: Night, orders: Ints) -> Trades:
    """The trades; cash, quantities and cost of `night.state` become those after them, in place."""
    if not orders.any():
        return NO_TRADES
    fills = _Fills(np.zeros_like(orders), np.zeros_like(orders), np.zeros_like(orders), np.zeros_like(orders))
    _sell(night, orders, fills)
    _buy(night, orders, fills)
    row, slot = np.nonzero(fills.quantity)
    return Trades(
        row=row,
        slot=slot,
        asset_id=night.simulations.asset_ids[row, slot],
        quantity=fills.quantity[row, slot],
        price=night.price[row, slot],
        notional=fills.notional[row, slot],
        fee=fills.fee[row, slot],
        realised=fills.realised[row, slot],
    )


@dataclass(slots=True)
class _Fills:
    """int64 (n, K) each; quantity signed."""

    quantity: Ints
    notional: Ints
    fee: Ints
    realised: Ints

    def put(self, at: tuple[NDArray[np.intp], NDArray[np.intp]], quantity: Ints, notional: Ints, fee: Ints) -> None:
        self.quantity[at] = quantity
        self.notional[at] = notional
        self.fee[at] = fee


def _sell(night: Night, orders: Ints, fills: _Fills) -> None:
    at = np.nonzero(orders < 0)
    if len(at[0]) == 0:
        return
    rows = at[0]
    too_big = np.zeros(len(rows), dtype=np.bool_)
    quantity = -orders[at]
    notional = mul_div_round(quantity, night.price[at], TICKS, too_big)
    worth = (notional > 0) | too_big
    at, rows, quantity, notional, too_big = (
        (at[0][worth], at[1][worth]), rows[worth], quantity[worth], notional[worth], too_big[worth]
    )  # fmt: skip
    params, state = night.simulations.params[rows], night.state
    fee = mul_div_round(notional, params[:, FEE_SELL], PPM, too_big)
    cap = params[:, FEE_SELL_CAP]
    fee = np.where(cap > 0, np.minimum(fee, mul_div_round(cap, quantity, TICKS)), fee)
    held, cost = state.quantities[at], state.cost_basis[at]
    cost_sold = np.where(quantity == held, cost, mul_div_round(cost, quantity, held))

    fills.put(at, -quantity, notional, fee)
    fills.realised[at] = notional - fee - cost_sold
    state.quantities[at] = held - quantity
    state.cost_basis[at] = cost - cost_sold
    proceeds = np.zeros_like(orders)
    proceeds[at] = notional - fee
    for slot in np.unique(at[1]).tolist():
        state.cash[:] = add_checked(state.cash, proceeds[:, slot], night.overflow)
    night.overflow[rows[too_big]] = True


def _buy(night: Night, orders: Ints, fills: _Fills) -> None:
    buying = orders > 0
    for slot in np.flatnonzero(buying.any(axis=0)).tolist():
        _buy_slot(night, np.flatnonzero(buying[:, slot]), slot, orders, fills)


def _buy_slot(night: Night, rows: NDArray[np.intp], slot: int, orders: Ints, fills: _Fills) -> None:
    """Fill one slot's purchases; the slots are a loop because each sees the cash that the one before left."""
    state, fee_ppm = night.state, night.simulations.params[rows, FEE_BUY]
    too_big = np.zeros(len(rows), dtype=np.bool_)
    quantity, price, cash = orders[rows, slot], night.price[rows, slot], state.cash[rows]
    notional, fee = _cost(quantity, price, fee_ppm, too_big)
    # cash - notional cannot overflow where notional + fee might: both are >= 0.
    short = (fee > cash - notional) & ~too_big
    if short.any():
        quantity[short] = np.minimum(quantity[short], afford(cash[short], price[short], fee_ppm[short]))
        notional[short], fee[short] = _cost(quantity[short], price[short], fee_ppm[short], None)
    night.overflow[rows[too_big]] = True
    filled = (notional > 0) & ~too_big
    rows, quantity, notional, fee = rows[filled], quantity[filled], notional[filled], fee[filled]
    at = (rows, np.full(len(rows), slot))
    too_much = np.zeros(len(rows), dtype=np.bool_)
    state.cash[rows] -= notional + fee
    state.quantities[at] = add_checked(state.quantities[at], quantity, too_much)
    state.cost_basis[at] = add_checked(state.cost_basis[at], notional + fee, too_much)
    night.overflow[rows[too_much]] = True
    fills.put(at, quantity, notional, fee)


def _cost(quantity: Ints, price: Ints, fee_ppm: Ints, overflow: Bools | None) -> tuple[Ints, Ints]:
    notional = mul_div_round(quantity, price, TICKS, overflow)
    return notional, mul_div_round(notional, fee_ppm, PPM, overflow)
