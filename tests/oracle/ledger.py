"""One night of one simulation, step by step in the order of docs/ledger.md."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass, replace

from tests.oracle import strategies
from tests.oracle.numbers import (
    M,
    QuarantineError,
    Reason,
    afford,
    fit,
    notional,
    purchase_fee,
    rhe,
    sale_fee,
    saturate,
)

MAX_SLOTS = 32
COMMON_PARAMETERS = 5
MAX_TAKE_PROFIT = 10**9


@dataclass(frozen=True, kw_only=True)
class Simulation:
    """A simulation as the tables keep it: everything an integer, slots in their order."""

    strategy: int
    start_day: int
    initial_cash: int
    params: tuple[int, ...]
    asset_ids: tuple[int, ...]
    weights: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class State:
    """A portfolio after a day. `memory` is the integer `S` of the strategy."""

    cash: int
    equity: int
    peak: int
    nights: int
    mean: float
    m2: float
    max_drawdown: float
    quantities: tuple[int, ...]
    costs: tuple[int, ...]
    memory: int


@dataclass(frozen=True)
class Trade:
    """One filled order: `quantity` is signed, `fee` and `notional` are not."""

    slot: int
    asset_id: int
    quantity: int
    price: int
    notional: int
    fee: int
    realised: int


class Prices:
    """Closes by asset. An asset may be known and have no close at all."""

    def __init__(self, closes: dict[int, dict[int, int]], max_stale_days: int = 5) -> None:
        self.max_stale_days = max_stale_days
        self._days = {asset: sorted(of_day) for asset, of_day in closes.items()}
        self._closes = {asset: [of_day[day] for day in self._days[asset]] for asset, of_day in closes.items()}

    def known(self, asset: int) -> bool:
        """Whether the asset exists."""
        return asset in self._days

    def tradable(self, asset: int, day: int) -> bool:
        """Whether the asset has a close on this very day."""
        days = self._days[asset]
        at = bisect_left(days, day)
        return at < len(days) and days[at] == day

    def history(self, asset: int, day: int, count: int) -> list[int]:
        """The last `count` closes on or before the day, oldest first; fewer where there are fewer."""
        end = bisect_right(self._days[asset], day)
        return self._closes[asset][max(0, end - count) : end]

    def age(self, asset: int, day: int) -> int | None:
        """Days since the last close on or before the day; None without one."""
        days = self._days[asset]
        end = bisect_right(days, day)
        return day - days[end - 1] if end else None


def initial(simulation: Simulation) -> State:
    """The state before the first day."""
    nothing = (0,) * len(simulation.asset_ids)
    cash = simulation.initial_cash
    return State(
        cash=cash, equity=cash, peak=cash, nights=0, mean=0.0, m2=0.0, max_drawdown=0.0,
        quantities=nothing, costs=nothing, memory=strategies.INITIAL_MEMORY.get(simulation.strategy, 0),
    )  # fmt: skip


def check(simulation: Simulation, prices: Prices, day: int) -> None:
    """Raise `QuarantineError` for malformed parameters, an unknown asset, a missing or stale close; in this order."""
    if malformed(simulation):
        raise QuarantineError(Reason.MALFORMED)
    for asset in simulation.asset_ids:
        if not prices.known(asset):
            raise QuarantineError(Reason.UNKNOWN_ASSET, asset)
    for asset in simulation.asset_ids:
        age = prices.age(asset, day)
        if age is None or age > prices.max_stale_days:
            raise QuarantineError(Reason.NO_CLOSE, asset)


def malformed(simulation: Simulation) -> bool:
    """Whether any number of the simulation lies outside the ranges of the specification."""
    slots = len(simulation.asset_ids)
    weights = simulation.weights
    if not 1 <= slots <= MAX_SLOTS or len(set(simulation.asset_ids)) < slots or len(weights) != slots:
        return True
    if simulation.initial_cash < 0 or simulation.start_day < 0 or min(weights) < 0 or sum(weights) > M:
        return True
    if simulation.strategy not in strategies.CHECKS or len(simulation.params) < COMMON_PARAMETERS:
        return True
    fee_buy, fee_sell, cap, stop_loss, take_profit = simulation.params[:COMMON_PARAMETERS]
    common = (
        0 <= fee_buy <= M
        and 0 <= fee_sell <= M
        and cap >= 0
        and 0 <= stop_loss <= M
        and 0 <= take_profit <= MAX_TAKE_PROFIT
    )
    return not common or not strategies.CHECKS[simulation.strategy](simulation.params[COMMON_PARAMETERS:])


def advance(simulation: Simulation, state: State, prices: Prices, day: int) -> tuple[State, list[Trade]]:
    """The state after `day` and its trades in slot order. Raises `QuarantineError`."""
    check(simulation, prices, day)
    close = [prices.history(asset, day, 1)[0] for asset in simulation.asset_ids]
    before = worth(state.cash, state.quantities, close)
    view = strategies.View(
        day=day,
        start_day=simulation.start_day,
        initial_cash=simulation.initial_cash,
        equity=before,
        previous_equity=state.equity,
        own=simulation.params[COMMON_PARAMETERS:],
        fee_buy_ppm=simulation.params[0],
        weights=simulation.weights,
        close=tuple(close),
        previous=tuple(last(prices.history(asset, day - 1, 1)) for asset in simulation.asset_ids),
        history=lambda slot, count: prices.history(simulation.asset_ids[slot], day - 1, count),
        tradable=tuple(prices.tradable(asset, day) for asset in simulation.asset_ids),
        held=state.quantities,
        memory=state.memory,
    )
    orders, memory = strategies.RULES[simulation.strategy](view)
    stopped = stops(simulation, state, view)
    for slot in stopped:
        orders[slot] = -state.quantities[slot]
        if simulation.strategy in strategies.BLOCKING:
            memory |= 1 << slot
    filled, trades = fill(simulation, state, close, orders)
    equity = worth(filled.cash, filled.quantities, close)
    return statistics(replace(filled, memory=memory), equity), trades


def last(closes: list[int]) -> int | None:
    """The last of some closes, None of none."""
    return closes[-1] if closes else None


def worth(cash: int, quantities: tuple[int, ...], close: list[int]) -> int:
    """Steps 1 and 6: cash and holdings at these closes."""
    total = cash
    for quantity, price in zip(quantities, close, strict=True):
        total += fit(notional(quantity, price))
    return fit(total)


def stops(simulation: Simulation, state: State, view: strategies.View) -> list[int]:
    """Step 3: the slots that stop-loss or take-profit sells today."""
    stop_loss, take_profit = simulation.params[3:5]
    stopped = []
    for slot, (held, cost, previous) in enumerate(zip(state.quantities, state.costs, view.previous, strict=True)):
        if not view.tradable[slot] or held == 0 or previous is None:
            continue
        value = fit(notional(held, previous))
        lost = stop_loss > 0 and value <= cost * (M - stop_loss) // M
        gained = take_profit > 0 and value >= saturate(cost * (M + take_profit) // M)
        if lost or gained:
            stopped.append(slot)
    return stopped


def fill(simulation: Simulation, state: State, close: list[int], orders: list[int]) -> tuple[State, list[Trade]]:
    """Steps 4 and 5: all sales, then the purchases in slot order."""
    fee_buy_ppm, fee_sell_ppm, fee_sell_cap = simulation.params[:3]
    cash = state.cash
    quantities, costs = list(state.quantities), list(state.costs)
    trades = []
    for slot, order in enumerate(orders):
        quantity = -order
        if quantity <= 0:
            continue
        amount = fit(notional(quantity, close[slot]))
        if amount == 0:
            continue
        fee = sale_fee(amount, quantity, fee_sell_ppm, fee_sell_cap)
        held = quantities[slot]
        cost = costs[slot] if quantity == held else rhe(costs[slot] * quantity, held)
        cash = fit(cash + amount - fee)
        quantities[slot] -= quantity
        costs[slot] -= cost
        realised = fit(amount - fee - cost)
        trades.append(Trade(slot, simulation.asset_ids[slot], -quantity, close[slot], amount, fee, realised))
    for slot, order in enumerate(orders):
        if order <= 0:
            continue
        quantity = order
        amount = fit(notional(quantity, close[slot]))
        fee = purchase_fee(amount, fee_buy_ppm)
        if amount + fee > cash:
            quantity = min(quantity, afford(cash, close[slot], fee_buy_ppm))
            amount = notional(quantity, close[slot])
            fee = purchase_fee(amount, fee_buy_ppm)
        if amount == 0:
            continue
        cash -= amount + fee
        quantities[slot] = fit(quantities[slot] + quantity)
        costs[slot] = fit(costs[slot] + amount + fee)
        trades.append(Trade(slot, simulation.asset_ids[slot], quantity, close[slot], amount, fee, 0))
    filled = replace(state, cash=cash, quantities=tuple(quantities), costs=tuple(costs))
    return filled, sorted(trades, key=lambda trade: trade.slot)


def statistics(state: State, equity: int) -> State:
    """Step 7, in float64. `state.equity` is still the previous day's."""
    previous = state.equity
    r = float(equity - previous) / float(previous) if previous else 0.0
    nights = state.nights + 1
    d = r - state.mean
    mean = state.mean + d / nights
    m2 = state.m2 + d * (r - mean)
    peak = max(state.peak, equity)
    drawdown = float(peak - equity) / float(peak) if peak else 0.0
    return replace(
        state, equity=equity, peak=peak, nights=nights, mean=mean, m2=m2, max_drawdown=max(state.max_drawdown, drawdown)
    )
