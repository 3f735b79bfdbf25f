"""Stops, and the filling of orders by the rules of the ledger: sales first, then purchases in slot order."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from engine.night import Night, afford
from engine.params import FEE_BUY, FEE_SELL, FEE_SELL_CAP, STOP_LOSS, TAKE_PROFIT
from engine.slots import Places, places
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
    params, held = night.simulations.params, night.state.quantities
    watched = np.flatnonzero((params[:, STOP_LOSS] > 0) | (params[:, TAKE_PROFIT] > 0))
    rows, slots = places(night.tradable[watched] & (held[watched] > 0))
    if len(rows) == 0:
        return
    rows = watched[rows]
    value = night.previous_value((rows, slots))
    cost = night.state.cost_basis[rows, slots]
    loss, profit = params[rows, STOP_LOSS], params[rows, TAKE_PROFIT]
    hit = (loss > 0) & (value <= mul_div_floor(cost, PPM - loss, PPM))
    hit |= (profit > 0) & (value >= mul_div_floor(cost, PPM + profit, PPM))
    rows, slots = rows[hit], slots[hit]
    orders[rows, slots] = -held[rows, slots]
    blocked = blocking[rows]
    bits = np.int64(1) << slots[blocked].astype(np.int64)
    np.bitwise_or.at(night.state.strategy_state[:, 0], rows[blocked], bits)


def fill(night: Night, orders: Ints) -> Trades:
    """The trades; cash, quantities and cost of `night.state` become those after them, in place."""
    fills = [*_sell(night, orders), *_buy(night, orders)]
    if not fills:
        return NO_TRADES
    row, slot, quantity, notional, fee, realised = (np.concatenate(parts) for parts in zip(*fills, strict=True))
    order = np.argsort(row * orders.shape[1] + slot)
    row, slot = row[order], slot[order]
    return Trades(
        row=row,
        slot=slot,
        asset_id=night.simulations.asset_ids[row, slot],
        quantity=quantity[order],
        price=night.price[row, slot],
        notional=notional[order],
        fee=fee[order],
        realised=realised[order],
    )


class _Fills(NamedTuple):
    """int64 (m,) each; quantity signed, one place at most once."""

    row: NDArray[np.intp]
    slot: NDArray[np.intp]
    quantity: Ints
    notional: Ints
    fee: Ints
    realised: Ints


def _sell(night: Night, orders: Ints) -> Iterator[_Fills]:
    at = places(orders < 0)
    too_big = np.zeros(len(at[0]), dtype=np.bool_)
    quantity = -orders[at]
    notional = mul_div_round(quantity, night.price[at], TICKS, too_big)
    worth = (notional > 0) | too_big
    if not worth.any():
        return
    rows, slots = at = at[0][worth], at[1][worth]
    quantity, notional, too_big = quantity[worth], notional[worth], too_big[worth]
    params, state = night.simulations.params[rows], night.state
    fee = mul_div_round(notional, params[:, FEE_SELL], PPM, too_big)
    cap = params[:, FEE_SELL_CAP]
    fee = np.where(cap > 0, np.minimum(fee, mul_div_round(cap, quantity, TICKS)), fee)
    held, cost = state.quantities[at], state.cost_basis[at]
    cost_sold = np.where(quantity == held, cost, mul_div_round(cost, quantity, held))

    state.quantities[at] = held - quantity
    state.cost_basis[at] = cost - cost_sold
    _receive(night, at, notional - fee)
    night.overflow[rows[too_big]] = True
    yield _Fills(rows, slots, -quantity, notional, fee, notional - fee - cost_sold)


def _receive(night: Night, at: Places, proceeds: Ints) -> None:
    """Add the proceeds to the rows' cash; slot by slot, because within a slot each row is there once."""
    rows, slots = at
    bounds = np.searchsorted(slots, np.arange(int(slots[-1]) + 2)).tolist()
    for begin, end in pairwise(bounds):
        owners, overflow = rows[begin:end], np.zeros(end - begin, dtype=np.bool_)
        night.state.cash[owners] = add_checked(night.state.cash[owners], proceeds[begin:end], overflow)
        night.overflow[owners[overflow]] = True


def _buy(night: Night, orders: Ints) -> Iterator[_Fills]:
    buying = orders > 0
    for slot in range(orders.shape[1]):
        rows = np.flatnonzero(buying[:, slot])
        if len(rows):
            yield _buy_slot(night, rows, slot, orders[rows, slot])


def _buy_slot(night: Night, rows: NDArray[np.intp], slot: int, quantity: Ints) -> _Fills:
    """Fill one slot's purchases; the slots are a loop because each sees the cash that the one before left."""
    state, fee_ppm = night.state, night.simulations.params[rows, FEE_BUY]
    too_big = np.zeros(len(rows), dtype=np.bool_)
    price, cash = night.price[rows, slot], state.cash[rows]
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
    return _Fills(*at, quantity, notional, fee, np.zeros_like(fee))


def _cost(quantity: Ints, price: Ints, fee_ppm: Ints, overflow: Bools | None) -> tuple[Ints, Ints]:
    notional = mul_div_round(quantity, price, TICKS, overflow)
    return notional, mul_div_round(notional, fee_ppm, PPM, overflow)
