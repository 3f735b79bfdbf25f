"""The closes that nights of certain days can see, out of the table, and from one night to the next.

Guarantee: whatever the range of days, and whatever was known before, an asset has the same closes here: those of the
days themselves, and of the ones before them the newest that a window of signals can reach. So no result depends on what
a worker has done before.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date

import numpy as np
from numpy.typing import NDArray

from core.clock import day_from_number
from engine.strategies.base import MAX_LOOKBACK
from models.column_reader import gathered, read_groups
from models.copy_codec import DATE, INT4, INT8, Column
from services.copying import copy_out
from services.locks import Connection

_COLUMNS = (Column("asset_id", INT4), Column("day", DATE), Column("close", INT8))
_WINDOW = MAX_LOOKBACK + 1
# In which an exchange with weekends and holidays has that many. Closes lie in the table by day: to read them so takes
# a fourth of the time of looking them up asset by asset, for fifty assets 3 ms instead of 11 to 19.
_USUAL_DAYS = 380
# Of these last days, what is known counts nothing: a close that was sent before midnight may be committed after a night
# has looked, and raises no version (services.corrections).
_UNSETTLED_DAYS = 7
# What comes at once, 16 bytes a close: the server puts together, and libpq holds, the whole of it.
_MOST_AT_ONCE = 500_000
_HALF = 32
_LOWER = (1 << _HALF) - 1
# Added to day numbers in keys: those of days before 2000 are negative.
_ZERO_DAY = 1 << (_HALF - 1)

_RECENT = "SELECT {columns} FROM closes WHERE day BETWEEN '{since}' AND '{through}'"
_OLDER = """
SELECT {columns} FROM unnest('{{{assets}}}'::integer[]) AS lacking (id) CROSS JOIN LATERAL (
    SELECT asset_id, day, close FROM closes
    WHERE asset_id = lacking.id AND day < '{since}' ORDER BY day DESC LIMIT {window}
) AS older
"""


@dataclass(frozen=True, slots=True)
class ClosesSeen:
    """What the days `first..last` see of the assets that there are.

    Attributes:
        first, last: day numbers.
        asset_ids: int32 (A,), ascending.
        key, close: int64 (m,), sorted by key: the asset's id in the upper half, the day in the lower; ticks.
    """

    first: int
    last: int
    asset_ids: NDArray[np.int32]
    key: NDArray[np.int64]
    close: NDArray[np.int64]

    @property
    def settled(self) -> int:
        """The last day number whose closes stay as they are, as long as the version of the closes does."""
        return self.last - _UNSETTLED_DAYS

    @property
    def columns(self) -> tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int64]]:
        """Asset, day number and close, each (m,), sorted by asset, then day."""
        return _asset(self.key), _day(self.key), self.close

    def reaches(self, first: int) -> bool:
        """Whether days from `first` on see nothing of the settled days that is not here."""
        return self.first <= first and self.settled < first <= self.settled + _USUAL_DAYS


def read_closes_seen(connection: Connection, days: tuple[int, int], known: ClosesSeen | None = None) -> ClosesSeen:
    """The closes that the day numbers `days[0]..days[1]` see; a few round trips, in a transaction of the caller's.

    Args:
        known: what was read when the closes had the version that they have now. Of what it has, only the last days are
            read again.
    """
    first, last = days
    ids = connection.execute("SELECT id FROM assets ORDER BY id").fetchall()
    asset_ids = np.array([row[0] for row in ids], dtype=np.int32)
    if known is not None and known.reaches(first):
        old = _day(known.key) <= known.settled
        parts = [(known.key[old], known.close[old])]
        parts += _read_days(connection, (known.settled + 1, last), asset_ids)
    else:
        parts = _read_window(connection, days, asset_ids)
    return ClosesSeen(first, last, asset_ids, *_newest(_only(_sorted(parts), asset_ids), first))


_Closes = tuple[NDArray[np.int64], NDArray[np.int64]]
"""Keys and closes, as in ClosesSeen."""


def _read_window(connection: Connection, days: tuple[int, int], asset_ids: NDArray[np.int32]) -> list[_Closes]:
    """All closes of the days, and of each asset at least so many before them as a window takes, if it has them."""
    first, last = days
    before, lacking = np.zeros(int(asset_ids.max(initial=0)) + 1, dtype=np.intp), asset_ids
    parts = []
    for part in _read_days(connection, (first - _USUAL_DAYS, last), asset_ids):
        parts.append(part)
        key, _ = part
        before += np.bincount(_asset(key[_day(key) < first]), minlength=len(before))[: len(before)]
        lacking = asset_ids[before[asset_ids] < _WINDOW]
        if not len(lacking):
            return parts
    return [*parts, _read_older(connection, lacking, day_from_number(first - _USUAL_DAYS))]


def _read_days(connection: Connection, days: tuple[int, int], asset_ids: NDArray[np.int32]) -> Iterator[_Closes]:
    """The closes of the days, the newest first, so many days at once as are read well."""
    columns, step = gathered(_COLUMNS), max(1, _MOST_AT_ONCE // max(1, len(asset_ids)))
    for through in range(days[1], days[0] - 1, -step):
        since = day_from_number(max(days[0], through - step + 1))
        yield _read(connection, _RECENT.format(columns=columns, since=since, through=day_from_number(through)))


def _read_older(connection: Connection, assets: NDArray[np.int32], since: date) -> _Closes:
    """Of each of the assets the newest closes before `since`."""
    listed = ",".join(map(str, assets.tolist()))
    return _read(connection, _OLDER.format(columns=gathered(_COLUMNS), assets=listed, since=since, window=_WINDOW))


def _read(connection: Connection, query: str) -> _Closes:
    groups = read_groups(copy_out(connection, query), _COLUMNS)
    if not groups:
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
    asset, day, close = (groups[0].values[column.name] for column in _COLUMNS)
    return (asset.astype(np.int64) << _HALF) + (day.astype(np.int64) + _ZERO_DAY), close


def _asset(key: NDArray[np.int64]) -> NDArray[np.int32]:
    return (key >> _HALF).astype(np.int32)


def _day(key: NDArray[np.int64]) -> NDArray[np.int32]:
    return ((key & _LOWER) - _ZERO_DAY).astype(np.int32)


def _sorted(parts: list[_Closes]) -> _Closes:
    """The closes of all parts by key. Empties `parts`: of a market of many assets there is room for one copy more."""
    key, close = (np.concatenate([part[number] for part in parts]) for number in range(2))
    parts.clear()
    # Stable, so that what comes in order is merged.
    order = np.argsort(key, kind="stable")
    return key[order], close[order]


def _only(closes: _Closes, asset_ids: NDArray[np.int32]) -> _Closes:
    """Without those of assets that came after `asset_ids` was read: nobody whom this is for has them."""
    key, close = closes
    asset = _asset(key)
    there = np.zeros(max(int(asset_ids.max(initial=0)), int(asset.max(initial=0))) + 1, dtype=np.bool_)
    there[asset_ids] = True
    mine = there[asset]
    return closes if mine.all() else (key[mine], close[mine])


def _newest(closes: _Closes, first: int) -> _Closes:
    """Of each asset the newest `_WINDOW` closes before the day number `first`, and all from then on."""
    key, close = closes
    asset = _asset(key)
    total = np.bincount(asset)
    before = np.bincount(asset[_day(key) < first], minlength=len(total))
    unseen = np.maximum(before - _WINDOW, 0)
    if not unseen.any():
        return closes
    seen = np.arange(len(key)) >= (np.cumsum(total) - total + unseen)[asset]
    return key[seen], close[seen]
