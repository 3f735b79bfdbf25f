"""The registry: the built-in strategies, and those that installed packages offer as `nightshift.strategies`."""

from __future__ import annotations

from functools import lru_cache
from importlib.metadata import entry_points

import numpy as np
from numpy.typing import NDArray

from engine.slots import codes_in
from engine.strategies.base import Strategy
from engine.strategies.buy_and_hold import BuyAndHold
from engine.strategies.dca import Dca
from engine.strategies.mean_reversion import MeanReversion
from engine.strategies.momentum import Momentum
from engine.strategies.rebalance import Rebalance
from engine.strategies.sma_cross import SmaCross
from engine.ticks import Ints

BUILT_IN: tuple[type[Strategy], ...] = (BuyAndHold, Dca, Rebalance, SmaCross, Momentum, MeanReversion)
ENTRY_POINTS = "nightshift.strategies"
_FIRST_FOREIGN_CODE = 1000


@lru_cache(maxsize=1)
def strategies() -> dict[int, Strategy]:
    """All strategies by code.

    Raises:
        TypeError: an entry point is no strategy.
        ValueError: it takes a code or name that is taken or reserved, or keeps no state at all.
    """
    found: dict[int, Strategy] = {kind.code: kind() for kind in BUILT_IN}
    names = {strategy.name for strategy in found.values()}
    for point in sorted(entry_points(group=ENTRY_POINTS), key=lambda point: point.name):
        kind = point.load()
        if not (isinstance(kind, type) and issubclass(kind, Strategy)):
            raise TypeError(f"entry point {point.value!r} is not a subclass of engine.strategies.base.Strategy")
        if kind.code in found or kind.name in names or kind.code < _FIRST_FOREIGN_CODE:
            raise ValueError(f"strategy {kind.name!r} of {point.value!r}: its code {kind.code} or name is taken")
        if not kind.initial_state:
            # A portfolio day holds it as an array, and PostgreSQL gathers no empty ones.
            raise ValueError(f"strategy {kind.name!r} of {point.value!r}: its initial state needs an integer at least")
        found[kind.code] = kind()
        names.add(kind.name)
    return found


def strategy_by_name(name: str) -> Strategy:
    """The strategy called `name`; KeyError with the known names if there is none."""
    for strategy in strategies().values():
        if strategy.name == name:
            return strategy
    raise KeyError(f"unknown strategy {name!r}: choose from {', '.join(s.name for s in strategies().values())}")


def initial_states(codes: NDArray[np.int16]) -> Ints:
    """int64 (n, S), the state before the first day of simulations with these strategy codes, zero padded."""
    present = [strategies()[code] for code in codes_in(codes) if code in strategies()]
    states = np.zeros((len(codes), max((len(s.initial_state) for s in present), default=1)), dtype=np.int64)
    for strategy in present:
        states[codes == strategy.code, : len(strategy.initial_state)] = strategy.initial_state
    return states
