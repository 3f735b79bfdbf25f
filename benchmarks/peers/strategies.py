"""The six strategies of docs/ledger.md for one simulation: what is seen in; orders by slot and the new `S` out."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, timedelta
from functools import lru_cache
from typing import NamedTuple

from benchmarks.peers.money import MAX, M, T, afford, rounded
from benchmarks.peers.quotes import Quote

_EPOCH = date(2000, 1, 1)


class Scene(NamedTuple):
    """What a strategy sees; `own` are its parameters, lists are by slot, money is in ticks."""

    day: int
    start_day: int
    initial_cash: int
    equity: int
    previous_equity: int
    own: list[int]
    fee_ppm: int
    weights: list[int]
    quotes: list[Quote]
    held: list[int]
    memory: int


Decision = tuple[list[int], int]


def buy_and_hold(scene: Scene) -> Decision:
    """Buys each slot once."""
    orders, memory = [0] * len(scene.held), scene.memory
    for slot, quote in enumerate(scene.quotes):
        if quote.tradable and not memory >> slot & 1:
            orders[slot] = afford(scene.initial_cash * scene.weights[slot] // M, quote.close, scene.fee_ppm)
            memory |= 1 << slot
    return orders, memory


def dca(scene: Scene) -> Decision:
    """Buys for the same amount every few days."""
    every_days, amount = scene.own
    orders = [0] * len(scene.held)
    instalment = (scene.day - scene.start_day) // every_days
    if instalment <= scene.memory or not _any_tradable(scene):
        return orders, scene.memory
    for slot, quote in enumerate(scene.quotes):
        if quote.tradable:
            orders[slot] = afford(amount * scene.weights[slot] // M, quote.close, scene.fee_ppm)
    return orders, instalment


def rebalance(scene: Scene) -> Decision:
    """Back to the weights, when the calendar says so or a weight has drifted."""
    calendar, band_ppm = scene.own
    now = _period(scene.day, calendar)
    orders = [0] * len(scene.held)
    due = calendar > 0 and now != scene.memory
    if not (due or _drifted(scene, band_ppm)) or not _any_tradable(scene):
        return orders, scene.memory
    for slot, quote in enumerate(scene.quotes):
        if quote.tradable:
            orders[slot] = scene.equity * scene.weights[slot] // M * T // quote.close - scene.held[slot]
    return orders, now if due else scene.memory


def _drifted(scene: Scene, band_ppm: int) -> bool:
    if band_ppm == 0 or scene.previous_equity <= 0:
        return False
    for quote, held, weight in zip(scene.quotes, scene.held, scene.weights, strict=True):
        value = rounded(held * quote.closes[-1], T) if quote.closes else 0
        if abs(value * M // scene.previous_equity - weight) > band_ppm:
            return True
    return False


def sma_cross(scene: Scene) -> Decision:
    """Holds a slot while its fast average is above its slow one."""
    fast, slow = scene.own
    orders, memory = [0] * len(scene.held), scene.memory
    for slot, quote in enumerate(scene.quotes):
        bit, held = 1 << slot, scene.held[slot]
        if len(quote.closes) >= slow and quote.last_sum(fast) * slow > quote.last_sum(slow) * fast:
            if quote.tradable and not held and not memory & bit:
                orders[slot] = afford(scene.equity * scene.weights[slot] // M, quote.close, scene.fee_ppm)
        else:
            memory &= ~bit
            if quote.tradable:
                orders[slot] = -held
    return orders, memory


def momentum(scene: Scene) -> Decision:
    """Holds those that rose most, equally."""
    lookback, top, calendar = scene.own
    now = _period(scene.day, calendar)
    orders = [0] * len(scene.held)
    if now == scene.memory or not _any_tradable(scene):
        return orders, scene.memory
    scores = sorted(
        (-min(quote.closes[-1] * 10**9 // quote.closes[-1 - lookback], MAX), slot)
        for slot, quote in enumerate(scene.quotes)
        if quote.tradable and len(quote.closes) > lookback
    )
    winners = {slot for _, slot in scores[:top]}
    for slot, quote in enumerate(scene.quotes):
        if quote.tradable:
            value = scene.equity // top if slot in winners else 0
            orders[slot] = value * T // quote.close - scene.held[slot]
    return orders, now


def mean_reversion(scene: Scene) -> Decision:
    """Buys what is far below its average, sells what has come back."""
    window, entry_ppm, exit_ppm = scene.own
    orders, memory = [0] * len(scene.held), scene.memory
    for slot, quote in enumerate(scene.quotes):
        bit, held = 1 << slot, scene.held[slot]
        cheap = recovered = False
        if len(quote.closes) >= window:
            close, total = quote.closes[-1] * window * M, quote.last_sum(window)
            cheap = close < total * (M - entry_ppm)
            recovered = close >= total * (M - exit_ppm)
        if not cheap:
            memory &= ~bit
        if quote.tradable and recovered:
            orders[slot] = -held
        elif quote.tradable and cheap and not held and not memory & bit:
            orders[slot] = afford(scene.equity * scene.weights[slot] // M, quote.close, scene.fee_ppm)
    return orders, memory


def _any_tradable(scene: Scene) -> bool:
    return any(quote.tradable for quote in scene.quotes)


@lru_cache(maxsize=64)
def _period(day: int, calendar: int) -> int:
    at = _EPOCH + timedelta(days=day)
    month = at.year * 12 + at.month - 1
    return (0, day, (day + 5) // 7, month, month // 3)[calendar]


class Rule(NamedTuple):
    """A strategy, its `S` before the first day, and whether a stop blocks the slot."""

    decide: Callable[[Scene], Decision]
    initial_memory: int
    blocking: bool


RULES = {
    1: Rule(buy_and_hold, 0, blocking=False),
    2: Rule(dca, -1, blocking=False),
    3: Rule(rebalance, -1, blocking=False),
    4: Rule(sma_cross, 0, blocking=True),
    5: Rule(momentum, -1, blocking=False),
    6: Rule(mean_reversion, 0, blocking=True),
}
