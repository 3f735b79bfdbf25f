"""What a strategy is: a code, a parameter model, a state of a few integers, and one function from a night to orders."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from enum import IntEnum
from functools import cached_property
from typing import Annotated, Any, ClassVar

import numpy as np
from annotated_types import Ge, Le
from numpy.typing import NDArray
from pydantic import BeforeValidator

from engine.night import Night
from engine.params import COMMON, Parameters
from engine.slots import any_slot, pack_bits, places, unpack_bits
from engine.ticks import MAX, Bools, Ints

MAX_LOOKBACK = 250
"""The most closes that a window may span; a market matrix always holds one more than this before its first day."""


class Period(IntEnum):
    """How often a calendar comes round."""

    NONE = 0
    DAILY = 1
    WEEKLY = 2
    MONTHLY = 3
    QUARTERLY = 4


def _period_by_name(value: Any) -> Any:
    return Period[value.upper()] if isinstance(value, str) and value.upper() in Period.__members__ else value


Calendar = Annotated[Period, BeforeValidator(_period_by_name)]


def period_numbers(day: int) -> Ints:
    """int64 (5,), the number of the period that `day` lies in, by `Period`."""
    date = np.datetime64("2000-01-01") + np.timedelta64(day, "D")
    month = int(date.astype("datetime64[M]").astype(np.int64)) + 1970 * 12
    return np.array([0, day, (day + 5) // 7, month, month // 3], dtype=np.int64)


class Strategy(ABC):
    """A new strategy is one file with one subclass, listed in `engine.strategies` or as an entry point.

    Attributes:
        name: what people write.
        code: what the `strategy` column holds; built-in ones stay below 1000.
        Parameters: the model; every field an integer or IntEnum whose `ge` and `le` bounds also check the columns.
        initial_state: the state before the first day, at least one integer.
        blocking: a stop sets the slot's bit in the first integer of the state.
    """

    name: ClassVar[str]
    code: ClassVar[int]
    Parameters: ClassVar[type[Parameters]]
    initial_state: ClassVar[tuple[int, ...]] = (0,)
    blocking: ClassVar[bool] = False

    @abstractmethod
    def orders(self, night: Night) -> Ints:
        """int64 (n, K) ticks of quantity, > 0 buys, < 0 sells, 0 wherever `night.tradable` is False.

        May update `night.state.strategy_state` in place, and nothing else.
        """

    def inconsistent(self, own: Ints) -> Bools:
        """bool (n,), parameters that are each within bounds but contradict each other; `own` is int64 (n, P')."""
        return np.zeros(len(own), dtype=np.bool_)

    def malformed(self, params: Ints, param_count: NDArray[np.int16]) -> Bools:
        """bool (n,), `params` int64 (n, P) that the model would refuse."""
        lower, upper = self._bounds
        width = len(lower)
        wrong = np.asarray(param_count != width)
        if params.shape[1] < width:
            return np.ones(len(params), dtype=np.bool_)
        used = params[:, :width]
        wrong |= any_slot((used < lower) | (used > upper))
        return np.asarray(wrong | self.inconsistent(used[:, COMMON:]))

    @cached_property
    def _bounds(self) -> tuple[Ints, Ints]:
        lower, upper = [], []
        for field in self.Parameters.model_fields.values():
            if isinstance(field.annotation, type) and issubclass(field.annotation, IntEnum):
                low, high = int(min(field.annotation)), int(max(field.annotation))
            else:
                low, high = -MAX, MAX
            for bound in field.metadata:
                if isinstance(bound, Ge):
                    low = max(low, int(bound.ge))  # type: ignore[call-overload]
                elif isinstance(bound, Le):
                    high = min(high, int(bound.le))  # type: ignore[call-overload]
            lower.append(int(low))
            upper.append(int(high))
        return np.array(lower, dtype=np.int64), np.array(upper, dtype=np.int64)


def signals(night: Night, params: Sequence[Ints], rule: Callable[..., tuple[Bools, ...]]) -> tuple[Bools, ...]:
    """`rule(columns, *params)` for every slot, bool (n, K) each; `params` are int64 (n,), values >= 0.

    A signal depends on an asset and on parameters that many simulations share. Where there are fewer different ones
    times assets than slots, each is computed once and looked up; that gives the same as computing it slot by slot.
    """
    code = params[0]
    for column in params[1:]:
        code = code * (column.max(initial=0) + 1) + column
    _, first, member = np.unique(code, return_index=True, return_inverse=True)
    width = night.market.no_asset + 1
    if len(first) * width > night.columns.size:
        return rule(night.columns, *(column[:, None] for column in params))
    tables = rule(np.arange(width)[None, :], *(column[first, None] for column in params))
    return tuple(table[member[:, None], night.columns] for table in tables)


def enter_and_leave(night: Night, enter: Bools, leave: Bools, unblock: Bools) -> Ints:
    """Orders of the strategies that are either in an asset or out of it; all masks bool (n, K).

    A slot that a stop has closed stays blocked until its signal has been off once: `unblock` clears its bit. Slots that
    `leave` sell all they hold; slots that `enter`, hold nothing and are not blocked buy for their weight of the equity.
    """
    orders = night.no_orders()
    state, held = night.state.strategy_state, night.state.quantities
    blocked = unpack_bits(state[:, 0], enter.shape[1])
    blocked &= ~unblock
    state[:, 0] = pack_bits(blocked)
    sell = leave & night.tradable & (held > 0)
    orders[sell] = -held[sell]
    buy = enter & night.tradable & (held == 0) & ~blocked
    if buy.any():
        at = places(buy)
        night.buy_for(orders, at, night.weighted(at, night.equity))
    return orders
