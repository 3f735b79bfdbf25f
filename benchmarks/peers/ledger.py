"""A night of one simulation on Python integers: the exact ledger of docs/ledger.md, in its order.

It neither checks parameters nor looks for values that do not fit, and quarantines nothing: less than Nightshift does,
to the peers' advantage.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from benchmarks.peers.money import MAX, M, T, afford, rounded
from benchmarks.peers.quotes import Quote, Quotes
from benchmarks.peers.strategies import RULES, Scene

COMMON = 5


class Terms(NamedTuple):
    """What a simulation is; `params` begin with the five that every strategy has."""

    strategy: int
    start_day: int
    initial_cash: int
    params: list[int]
    asset_ids: list[int]
    weights: list[int]


@dataclass(slots=True)
class Portfolio:
    """What a simulation has after a day; `memory` is the integer `S` of its strategy."""

    cash: int
    equity: int
    peak: int
    nights: int
    mean: float
    m2: float
    max_drawdown: float
    quantities: list[int]
    costs: list[int]
    memory: int


class Fill(NamedTuple):
    """One trade; `quantity` is signed."""

    asset_id: int
    quantity: int
    price: int
    notional: int
    fee: int
    realised: int


def begin(terms: Terms) -> Portfolio:
    """The portfolio before the first day."""
    cash, slots = terms.initial_cash, len(terms.asset_ids)
    return Portfolio(cash, cash, cash, 0, 0.0, 0.0, 0.0, [0] * slots, [0] * slots, RULES[terms.strategy].initial_memory)


def advance(terms: Terms, portfolio: Portfolio, quotes: Quotes, day: int) -> list[Fill]:
    """Bring the portfolio, in place, to the close of `day`; its trades.

    Raises:
        KeyError: an asset has no close that is recent enough.
    """
    of_slot = [quotes[asset] for asset in terms.asset_ids]
    rule = RULES[terms.strategy]
    scene = Scene(
        day, terms.start_day, terms.initial_cash, _worth(portfolio, of_slot), portfolio.equity, terms.params[COMMON:],
        terms.params[0], terms.weights, of_slot, portfolio.quantities, portfolio.memory,
    )  # fmt: skip
    orders, portfolio.memory = rule.decide(scene)
    for slot in _stops(terms, portfolio, of_slot):
        orders[slot] = -portfolio.quantities[slot]
        if rule.blocking:
            portfolio.memory |= 1 << slot
    fills = []
    if any(orders):
        fills = _sell(terms, portfolio, of_slot, orders) + _buy(terms, portfolio, of_slot, orders)
    _record(portfolio, _worth(portfolio, of_slot) if fills else scene.equity)
    return fills


def _worth(portfolio: Portfolio, quotes: list[Quote]) -> int:
    total = portfolio.cash
    for quantity, quote in zip(portfolio.quantities, quotes, strict=True):
        if quantity:
            total += rounded(quantity * quote.close, T)
    return total


def _stops(terms: Terms, portfolio: Portfolio, quotes: list[Quote]) -> list[int]:
    stop_loss, take_profit = terms.params[3:COMMON]
    if not stop_loss and not take_profit:
        return []
    stopped = []
    for slot, (held, cost, quote) in enumerate(zip(portfolio.quantities, portfolio.costs, quotes, strict=True)):
        if held and quote.tradable and quote.closes:
            value = rounded(held * quote.closes[-1], T)
            lost = stop_loss and value <= cost * (M - stop_loss) // M
            if lost or (take_profit and value >= min(cost * (M + take_profit) // M, MAX)):
                stopped.append(slot)
    return stopped


def _sell(terms: Terms, portfolio: Portfolio, quotes: list[Quote], orders: list[int]) -> list[Fill]:
    _, fee_ppm, fee_cap, *_ = terms.params
    fills = []
    for slot, order in enumerate(orders):
        if order >= 0:
            continue
        quantity, price, held = -order, quotes[slot].close, portfolio.quantities[slot]
        notional = rounded(quantity * price, T)
        if notional == 0:
            continue
        fee = rounded(notional * fee_ppm, M)
        if fee_cap:
            fee = min(fee, rounded(fee_cap * quantity, T))
        cost = portfolio.costs[slot]
        if quantity != held:
            cost = rounded(cost * quantity, held)
        portfolio.cash += notional - fee
        portfolio.quantities[slot] = held - quantity
        portfolio.costs[slot] -= cost
        fills.append(Fill(terms.asset_ids[slot], -quantity, price, notional, fee, notional - fee - cost))
    return fills


def _buy(terms: Terms, portfolio: Portfolio, quotes: list[Quote], orders: list[int]) -> list[Fill]:
    fee_ppm = terms.params[0]
    fills = []
    for slot, quantity in enumerate(orders):
        if quantity <= 0:
            continue
        price = quotes[slot].close
        notional = rounded(quantity * price, T)
        fee = rounded(notional * fee_ppm, M)
        if notional + fee > portfolio.cash:
            quantity = min(quantity, afford(portfolio.cash, price, fee_ppm))  # noqa: PLW2901 - the order shrinks
            notional = rounded(quantity * price, T)
            fee = rounded(notional * fee_ppm, M)
        if notional == 0:
            continue
        portfolio.cash -= notional + fee
        portfolio.quantities[slot] += quantity
        portfolio.costs[slot] += notional + fee
        fills.append(Fill(terms.asset_ids[slot], quantity, price, notional, fee, 0))
    return fills


def _record(portfolio: Portfolio, equity: int) -> None:
    """The statistics, in float64 and in exactly the steps of the specification."""
    before = portfolio.equity
    # Converted before the division, as specified: Python would round the quotient of two integers only once.
    result = float(equity - before) / float(before) if before else 0.0
    portfolio.nights += 1
    delta = result - portfolio.mean
    portfolio.mean += delta / portfolio.nights
    portfolio.m2 += delta * (result - portfolio.mean)
    portfolio.equity = equity
    portfolio.peak = max(portfolio.peak, equity)
    drawdown = float(portfolio.peak - equity) / float(portfolio.peak) if portfolio.peak else 0.0
    portfolio.max_drawdown = max(portfolio.max_drawdown, drawdown)
