"""What a night sees of each asset, looked up once in each process and night."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import accumulate


@dataclass(frozen=True, slots=True)
class Quote:
    """One asset on day D; all in ticks.

    Attributes:
        close: the last close on or before D.
        tradable: whether that is D's.
        closes: up to D-1, oldest first.
        sums: `sums[k]` is the sum of the first k of them, so that no average is added up twice.
    """

    close: int
    tradable: bool
    closes: list[int]
    sums: list[int]

    def last_sum(self, count: int) -> int:
        """The sum of the last `count` closes up to D-1."""
        return self.sums[-1] - self.sums[-1 - count]


Quotes = Mapping[int, Quote]
"""By asset. Assets whose last close is too old to value anything are missing: whoever holds them fails."""


def quotes_of(rows: Iterable[tuple[int, int, int]], day: int, max_stale_days: int) -> Quotes:
    """The quotes of a day from (asset, day, close) up to that day, days ascending."""
    histories: dict[int, list[tuple[int, int]]] = {}
    for asset, on, close in rows:
        histories.setdefault(asset, []).append((on, close))
    quotes = {}
    for asset, history in histories.items():
        newest, close = history[-1]
        if day - newest <= max_stale_days:
            closes = [value for on, value in history if on < day]
            quotes[asset] = Quote(close, newest == day, closes, list(accumulate(closes, initial=0)))
    return quotes
