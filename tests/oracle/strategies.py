"""The six strategies of docs/ledger.md, one function each: what is seen in, orders by slot and the new `S` out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, timedelta

from tests.oracle.numbers import MAX, M, T, afford, fit, notional

EPOCH = date(2000, 1, 1)
NONE, DAILY, WEEKLY, MONTHLY, QUARTERLY = range(5)


@dataclass(frozen=True, kw_only=True)
class View:
    """What a strategy may see. `history(slot, n)`: the slot's last n closes up to the day before, oldest first."""

    day: int
    start_day: int
    initial_cash: int
    equity: int
    previous_equity: int
    own: tuple[int, ...]
    fee_buy_ppm: int
    weights: tuple[int, ...]
    close: tuple[int, ...]
    previous: tuple[int | None, ...]
    history: Callable[[int, int], list[int]]
    tradable: tuple[bool, ...]
    held: tuple[int, ...]
    memory: int

    def buy(self, slot: int, budget: int) -> int:
        """The order "buy for `budget`"."""
        return fit(afford(budget, self.close[slot], self.fee_buy_ppm))

    def target(self, slot: int, value: int) -> int:
        """The order "to target value `value`"."""
        return fit(value * T // self.close[slot]) - self.held[slot]

    def share(self, amount: int, slot: int) -> int:
        """The slot's part of an amount by its weight."""
        return amount * self.weights[slot] // M


Result = tuple[list[int], int]


def period(day: int, calendar: int) -> int:
    """The number of the calendar's period that a day lies in; weeks begin on Monday."""
    at = EPOCH + timedelta(days=day)
    if calendar == DAILY:
        return day
    if calendar == WEEKLY:
        return (day + 5) // 7
    if calendar == MONTHLY:
        return at.year * 12 + at.month - 1
    if calendar == QUARTERLY:
        return (at.year * 12 + at.month - 1) // 3
    return 0


def slots(view: View) -> range:
    """All slots."""
    return range(len(view.weights))


def buy_and_hold(view: View) -> Result:
    """Buys each slot once."""
    orders, memory = [0] * len(view.weights), view.memory
    for slot in slots(view):
        if view.tradable[slot] and not memory >> slot & 1:
            orders[slot] = view.buy(slot, view.share(view.initial_cash, slot))
            memory |= 1 << slot
    return orders, memory


def dca(view: View) -> Result:
    """Buys for the same amount every few days."""
    every_days, amount = view.own
    orders = [0] * len(view.weights)
    k = (view.day - view.start_day) // every_days
    if k <= view.memory or not any(view.tradable):
        return orders, view.memory
    for slot in slots(view):
        if view.tradable[slot]:
            orders[slot] = view.buy(slot, view.share(amount, slot))
    return orders, k


def rebalance(view: View) -> Result:
    """Back to the weights, when the calendar says so or a weight has drifted."""
    calendar, band_ppm = view.own
    orders = [0] * len(view.weights)
    tradable = any(view.tradable)
    due = calendar > 0 and period(view.day, calendar) != view.memory and tradable
    if due or (tradable and drifted(view, band_ppm)):
        for slot in slots(view):
            if view.tradable[slot]:
                orders[slot] = view.target(slot, view.share(view.equity, slot))
    return orders, period(view.day, calendar) if due else view.memory


def drifted(view: View, band_ppm: int) -> bool:
    """Whether yesterday's weight of some slot was out of its band."""
    if band_ppm == 0 or view.previous_equity <= 0:
        return False
    for slot in slots(view):
        price = view.previous[slot]
        value = 0 if price is None else fit(notional(view.held[slot], price))
        if abs(value * M // view.previous_equity - view.weights[slot]) > band_ppm:
            return True
    return False


def sma_cross(view: View) -> Result:
    """Holds a slot while its fast average is above its slow one."""
    fast, slow = view.own
    orders, memory = [0] * len(view.weights), view.memory
    for slot in slots(view):
        closes = view.history(slot, slow)
        long = len(closes) == slow and sum(closes[-fast:]) * slow > sum(closes) * fast
        blocked = memory >> slot & 1
        held = view.held[slot]
        if not long:
            memory &= ~(1 << slot)
            if view.tradable[slot] and held > 0:
                orders[slot] = -held
        elif view.tradable[slot] and held == 0 and not blocked:
            orders[slot] = view.buy(slot, view.share(view.equity, slot))
    return orders, memory


def momentum(view: View) -> Result:
    """Holds those that rose most, equally."""
    lookback, top, calendar = view.own
    orders = [0] * len(view.weights)
    if period(view.day, calendar) == view.memory or not any(view.tradable):
        return orders, view.memory
    scored = []
    for slot in slots(view):
        closes = view.history(slot, lookback + 1)
        if view.tradable[slot] and len(closes) == lookback + 1:
            scored.append((min(closes[-1] * 10**9 // closes[0], MAX), slot))
    scored.sort(key=lambda item: (-item[0], item[1]))
    winners = {slot for _, slot in scored[:top]}
    for slot in slots(view):
        if view.tradable[slot]:
            orders[slot] = view.target(slot, view.equity // top if slot in winners else 0)
    return orders, period(view.day, calendar)


def mean_reversion(view: View) -> Result:
    """Buys what is far below its average, sells what has come back."""
    window, entry_ppm, exit_ppm = view.own
    orders, memory = [0] * len(view.weights), view.memory
    for slot in slots(view):
        closes = view.history(slot, window)
        enough = len(closes) == window
        cheap = enough and closes[-1] * window * M < sum(closes) * (M - entry_ppm)
        recovered = enough and closes[-1] * window * M >= sum(closes) * (M - exit_ppm)
        blocked = memory >> slot & 1
        held = view.held[slot]
        if not cheap:
            memory &= ~(1 << slot)
        if view.tradable[slot] and recovered and held > 0:
            orders[slot] = -held
        if view.tradable[slot] and cheap and held == 0 and not blocked:
            orders[slot] = view.buy(slot, view.share(view.equity, slot))
    return orders, memory


def none_of_its_own(own: tuple[int, ...]) -> bool:
    """buy_and_hold: no parameters."""
    return own == ()


def check_dca(own: tuple[int, ...]) -> bool:
    """every_days, amount."""
    return len(own) == 2 and 1 <= own[0] <= 3650 and own[1] >= 1


def check_rebalance(own: tuple[int, ...]) -> bool:
    """calendar, band_ppm; one of them."""
    return len(own) == 2 and 0 <= own[0] <= 4 and 0 <= own[1] <= M and own != (0, 0)


def check_sma_cross(own: tuple[int, ...]) -> bool:
    """fast, slow."""
    return len(own) == 2 and 1 <= own[0] < own[1] <= 250


def check_momentum(own: tuple[int, ...]) -> bool:
    """lookback, top, calendar."""
    return len(own) == 3 and 1 <= own[0] <= 250 and 1 <= own[1] <= 32 and 1 <= own[2] <= 4


def check_mean_reversion(own: tuple[int, ...]) -> bool:
    """window, entry_ppm, exit_ppm."""
    return len(own) == 3 and 2 <= own[0] <= 250 and 1 <= own[1] <= M - 1 and 0 <= own[2] < own[1]


RULES: dict[int, Callable[[View], Result]] = {
    1: buy_and_hold,
    2: dca,
    3: rebalance,
    4: sma_cross,
    5: momentum,
    6: mean_reversion,
}
CHECKS: dict[int, Callable[[tuple[int, ...]], bool]] = {
    1: none_of_its_own,
    2: check_dca,
    3: check_rebalance,
    4: check_sma_cross,
    5: check_momentum,
    6: check_mean_reversion,
}
INITIAL_MEMORY = {1: 0, 2: -1, 3: -1, 4: 0, 5: -1, 6: 0}
BLOCKING = {4, 6}
