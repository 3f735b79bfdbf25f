"""What a strategy sees of one day, and the two ways in which it sizes an order."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.frame import Rows, Simulations, State
from engine.market import Market
from engine.params import COMMON, FEE_BUY
from engine.slots import Places, any_slot
from engine.ticks import PPM, TICKS, Bools, Ints, add_checked, mul_div_add_floor, mul_div_floor, mul_div_round


@dataclass(slots=True)
class Night:
    """n simulations on one day; a strategy sees its own, and changes nothing of it but `state.strategy_state`.

    Attributes:
        day: day number D.
        market: its row `row` is D, `row - 1` is the last that a signal may see (-1: there is none).
        simulations, state: the state is the previous day's.
        columns: intp (n, K), the slots' columns in the market.
        price: int64 (n, K), the last close on or before D.
        tradable: bool (n, K), the asset has a close on D.
        equity: int64 (n,), cash and holdings valued with `price`, before trading.
        overflow: bool (n,), set where a value does not fit int64.
    """

    day: int
    market: Market
    row: int
    simulations: Simulations
    state: State
    columns: NDArray[np.intp]
    price: Ints
    tradable: Bools
    equity: Ints
    overflow: Bools

    def take(self, rows: Rows) -> Night:
        """The night of some of the simulations: views where `rows` is a slice, copies where it is not."""
        return Night(
            day=self.day,
            market=self.market,
            row=self.row,
            simulations=self.simulations.take(rows),
            state=self.state.take(rows),
            columns=self.columns[rows],
            price=self.price[rows],
            tradable=self.tradable[rows],
            equity=self.equity[rows],
            overflow=self.overflow[rows],
        )

    @property
    def params(self) -> Ints:
        """int64 (n, P'), the strategy's own parameters, in the order of its model."""
        return self.simulations.params[:, COMMON:]

    @property
    def any_tradable(self) -> Bools:
        """bool (n,), at least one slot can trade."""
        return any_slot(self.tradable)

    @property
    def previous_row(self) -> int:
        """The market row of D-1, whose closes are the last that a signal may see."""
        return self.row - 1

    def no_orders(self) -> Ints:
        """int64 (n, K) of zeros."""
        return np.zeros(self.columns.shape, dtype=np.int64, order="F")

    def weighted(self, at: Places, amount: Ints) -> Ints:
        """int64 (m,): `floor(amount * weight / PPM)` at the places `at`, for `amount` int64 (n,)."""
        return mul_div_floor(amount[at[0]], self.simulations.weights[at], PPM)

    def buy_for(self, orders: Ints, at: Places, budget: Ints) -> None:
        """Write into `orders`, at the places `at`, the largest quantities that `budget` (m,) pays, fees included."""
        rows, _ = at
        overflow = np.zeros(len(rows), dtype=np.bool_)
        orders[at] = afford(budget, self.price[at], self.simulations.params[rows, FEE_BUY], overflow)
        self.overflow[rows[overflow]] = True

    def to_value(self, orders: Ints, at: Places, value: Ints) -> None:
        """Write into `orders`, at the places `at`, what brings each holding to `value` (m,) at D's close."""
        rows, _ = at
        overflow = np.zeros(len(rows), dtype=np.bool_)
        target = mul_div_floor(value, TICKS, self.price[at], overflow)
        orders[at] = target - self.state.quantities[at]
        self.overflow[rows[overflow]] = True

    def previous_value(self, at: Places | NDArray[np.intp]) -> Ints:
        """int64, the holdings at `at` (places, or whole rows) by the last close on or before D-1; 0 without one."""
        quantities = self.state.quantities[at]
        if self.previous_row < 0:
            return np.zeros_like(quantities)
        return mul_div_round(quantities, self.market.last[self.previous_row, self.columns[at]], TICKS)


def afford(budget: Ints, price: Ints, fee_ppm: Ints, overflow: Bools | None = None) -> Ints:
    """The largest quantity whose notional and fee are at most `budget`; all int64 (m,), prices > 0.

    First the largest such notional `n`: `floor(budget * PPM / (PPM + fee_ppm))` fits, and of the larger ones only the
    next can, since a fee rounds by at most half a tick. Then the largest quantity that rounds to at most `n`: its
    product with the price may reach `n * TICKS + TICKS / 2`, and that exactly only for an even `n`: half rounds to
    even.
    """
    budget = np.maximum(budget, 0)
    notional = mul_div_floor(budget, PPM, PPM + fee_ppm)
    more = np.minimum(notional, budget - 1) + 1
    fee = mul_div_round(more, fee_ppm, PPM)
    notional = np.where((fee <= budget - more) & (budget > 0), more, notional)
    spare = TICKS // 2 - (notional & 1)
    too_much = np.zeros(budget.shape, dtype=np.bool_)
    quantity = mul_div_add_floor(notional, TICKS, spare, price, too_much)
    worthless = (notional == 0) | ~(too_much | (mul_div_round(quantity, price, TICKS) > 0))
    if overflow is not None:
        overflow |= too_much & (notional > 0)
    return np.where(worthless, 0, quantity)


def value_holdings(quantities: Ints, price: Ints, overflow: Bools) -> Ints:
    """int64 (n, K), each holding's worth; marks rows of `overflow` (n,) where one does not fit."""
    too_big = np.zeros(quantities.shape, dtype=np.bool_)
    values = mul_div_round(quantities, price, TICKS, too_big)
    if too_big.any():
        overflow |= any_slot(too_big)
    return values


def equity_of(cash: Ints, values: Ints, overflow: Bools) -> Ints:
    """int64 (n,), cash plus the sum of `values` (n, K); marks `overflow` (n,) where it does not fit."""
    total = cash.copy()
    for slot in range(values.shape[1]):
        total = add_checked(total, values[:, slot], overflow)
    return total
