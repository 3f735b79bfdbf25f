"""The market matrix: closes of all assets by day, and what signals need of them, without a loop over days or assets.

Every array has one column more than there are assets: the last column is no asset at all. Padded slots point there and
so have price 0, are never tradable and never stale.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.ticks import Bools, Ints, mul_div_floor

NEVER = np.iinfo(np.int32).max
_LIMB = 32
_LOW = (1 << _LIMB) - 1


@dataclass(frozen=True, slots=True)
class Market:
    """Closes from `first_day` on, prepared for lookups.

    Attributes:
        asset_ids: int32 (A,), ascending, all > 0.
        column_of_id: intp (largest id + 1,), the column of each id, A where there is no such asset.
        first_day: day number of row 0; a simulation needs the rows of D-1 and D.
        max_stale_days: a last close older than this values nothing.
        last: int64 (days, A+1), the last close on or before the day in ticks, 0 if there is none.
        age: int32 (days, A+1), days since that close; `NEVER` if there is none.
        count: int32 (days, A+1), closes on or before the day, those before `first_day` included.
        compact: int64 (closes+1, A+1), the k-th close of each asset, without gaps.
        high_sums, low_sums: int64 (closes+2, A+1), sums of the upper and lower 32 bits of the first k closes: a sum of
            250 prices may need more than 63 bits, these never do.
    """

    asset_ids: NDArray[np.int32]
    column_of_id: NDArray[np.intp]
    first_day: int
    max_stale_days: int
    last: Ints
    age: NDArray[np.int32]
    count: NDArray[np.int32]
    compact: Ints
    high_sums: Ints
    low_sums: Ints

    @classmethod
    def build(cls, asset_ids: NDArray[np.int32], first_day: int, closes: Ints, max_stale_days: int = 5) -> Market:
        """Prepare `closes`, int64 (days, A) in ticks, 0 where an asset has none that day."""
        column, row = np.nonzero(closes.T)
        return cls.from_closes(
            asset_ids,
            (first_day, first_day + len(closes) - 1),
            (asset_ids[column], (row + first_day).astype(np.int32), closes[row, column]),
            max_stale_days,
        )

    @classmethod
    def from_closes(
        cls,
        asset_ids: NDArray[np.int32],
        days: tuple[int, int],
        closes: tuple[NDArray[np.int32], NDArray[np.int32], Ints],
        max_stale_days: int = 5,
    ) -> Market:
        """Prepare the rows `days[0]..days[1]` from (asset id, day, close), each (m,), sorted by asset, then day.

        Closes before the first row count for signals and last closes, however old they are; none may be after the last
        row. Every asset id must be in `asset_ids`.
        """
        asset, day, close = closes
        first_day, last_day = days
        rows, width = last_day - first_day + 1, len(asset_ids) + 1
        column_of_id = np.full(int(asset_ids.max(initial=0)) + 1, len(asset_ids), dtype=np.intp)
        column_of_id[asset_ids] = np.arange(len(asset_ids))
        column = column_of_id[asset]
        total = np.bincount(column, minlength=width)
        rank = np.arange(len(column)) - (np.cumsum(total) - total)[column]
        depth = int(total.max(initial=0)) + 1

        compact = np.zeros((depth, width), dtype=np.int64)
        compact[rank, column] = close
        closed_on = np.zeros((depth, width), dtype=np.int32)
        closed_on[rank, column] = day
        sums = np.zeros((2, depth + 1, width), dtype=np.int64)
        for place in range(depth):
            np.add(sums[0, place], compact[place] >> _LIMB, out=sums[0, place + 1])
            np.add(sums[1, place], compact[place] & _LOW, out=sums[1, place + 1])

        count = np.zeros((rows, width), dtype=np.int32)
        later = day > first_day
        count[0] = np.bincount(column[~later], minlength=width)
        count[day[later] - first_day, column[later]] = 1
        np.cumsum(count, axis=0, out=count)
        newest = (np.maximum(count - 1, 0), np.arange(width))
        known = count > 0
        row = np.arange(first_day, last_day + 1, dtype=np.int32)[:, None]
        age = np.where(known, row - closed_on[newest], np.int32(NEVER)).astype(np.int32)
        age[:, -1] = 0
        last = np.where(known, compact[newest], 0)
        return cls(asset_ids, column_of_id, first_day, max_stale_days, last, age, count, compact, sums[0], sums[1])

    @property
    def last_day(self) -> int:
        """Day number of the last row."""
        return self.first_day + len(self.last) - 1

    @property
    def nbytes(self) -> int:
        """Bytes of what grows with days and assets."""
        matrices = (self.last, self.age, self.count, self.compact, self.high_sums, self.low_sums)
        return sum(matrix.nbytes for matrix in matrices)

    @property
    def no_asset(self) -> int:
        """The column that padded slots point to."""
        return len(self.asset_ids)

    def row(self, day: int) -> int:
        """The row of `day`; IndexError if the matrix does not reach there."""
        row = day - self.first_day
        if not 0 <= row < len(self.last):
            raise IndexError(f"day {day} outside the market matrix {self.first_day}..{self.last_day}")
        return row

    def columns_of(self, asset_ids: NDArray[np.int32]) -> tuple[NDArray[np.intp], Bools]:
        """Columns of `asset_ids` of any shape (0 means padding), and a mask of the ids that are unknown."""
        last = len(self.column_of_id) - 1
        inside = (asset_ids >= 0) & (asset_ids <= last)
        columns = self.column_of_id[np.where(inside, asset_ids, 0)]
        return columns, (columns == self.no_asset) & (asset_ids != 0)

    def above_average(self, row: int, columns: NDArray[np.intp], fast: Ints, slow: Ints) -> Bools:
        """`sum of the last fast closes * slow > sum of the last slow closes * fast`, False without `slow` closes.

        Arguments broadcast against each other; `row` is the day whose close is the last one seen.
        """
        count = self.count[row, columns]
        enough = count >= slow
        fast_high, fast_low = self._window(count, columns, np.minimum(fast, count))
        slow_high, slow_low = self._window(count, columns, np.minimum(slow, count))
        return np.asarray(enough & _greater(fast_high, fast_low, slow, slow_high, slow_low, fast))

    def below_average(
        self, row: int, columns: NDArray[np.intp], window: Ints, scale: int, bound: Ints
    ) -> tuple[Bools, Bools]:
        """Whether there are `window` closes, and whether `last close * window * scale < sum of them * bound`."""
        count = self.count[row, columns]
        enough = count >= window
        sum_high, sum_low = self._window(count, columns, np.minimum(window, count))
        close = self.last[row, columns]
        return enough, _greater(sum_high, sum_low, bound, close >> _LIMB, close & _LOW, window * scale)

    def momentum(self, row: int, columns: NDArray[np.intp], lookback: Ints, scale: int = 10**9) -> tuple[Bools, Ints]:
        """Whether there are `lookback + 1` closes, and `floor(last * scale / earlier)`, saturated, 0 if not."""
        count = self.count[row, columns]
        enough = count > lookback
        earlier = self.compact[np.where(enough, count - 1 - lookback, 0), columns]
        score = mul_div_floor(self.last[row, columns], scale, np.maximum(earlier, 1))
        return enough, np.where(enough, score, 0)

    def _window(self, count: NDArray[np.int32], columns: NDArray[np.intp], length: Ints) -> tuple[Ints, Ints]:
        """Upper and lower limb sums of the last `length` closes (length <= count)."""
        start = count - length
        return (
            self.high_sums[count, columns] - self.high_sums[start, columns],
            self.low_sums[count, columns] - self.low_sums[start, columns],
        )


def _greater(a_high: Ints, a_low: Ints, a_scale: Ints, b_high: Ints, b_low: Ints, b_scale: Ints) -> Bools:
    """`(a_high * 2**32 + a_low) * a_scale > (b_high * 2**32 + b_low) * b_scale`.

    Limb sums stay below 2**40 and scales below 2**22 for a sum, 2**32 and 2**28 for a single close: every product is
    below 2**62.
    """
    high = a_high * a_scale - b_high * b_scale
    low = a_low * a_scale - b_low * b_scale
    carried = high + (low >> _LIMB)
    return np.asarray((carried > 0) | ((carried == 0) & ((low & _LOW) > 0)))
