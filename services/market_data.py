"""The market matrix from the table of closes: everything that a night of these days can see, and no more.

Guarantee: a batch goes by closes that are at least as new as the moment at which it holds its granules. Whoever changes
a close of a day that a night has come to raises the version of the closes in the same transaction
(services.corrections), and a batch asks for it here, behind its locks. What is kept under a version may hold later
closes than it says, never earlier ones: the version is read first.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import numpy as np
import psycopg
from numpy.typing import NDArray

from core.clock import day_from_number
from engine.market import Market
from engine.strategies.base import MAX_LOOKBACK
from models.column_reader import gathered, read_groups
from models.copy_codec import DATE, INT4, INT8, Column
from services.copying import copy_out

_COLUMNS = (Column("asset_id", INT4), Column("day", DATE), Column("close", INT8))
# Of each asset, so many closes before the first row: whatever the range of days that a batch is asked for, its signals
# see the same closes, so that the result cannot depend on the range.
_WINDOW = MAX_LOOKBACK + 1
# In which an exchange with weekends and holidays has that many. Closes lie in the table by day: to read them so takes
# a fourth of the time of looking them up asset by asset, for fifty assets 3 ms instead of 11 to 19.
_USUAL_DAYS = 380

_Closes = tuple[NDArray[np.int32], NDArray[np.int32], NDArray[np.int64]]

_RECENT = "SELECT {columns} FROM closes WHERE day BETWEEN '{since}' AND '{last}'"
_OLDER = """
SELECT {columns} FROM unnest('{{{assets}}}'::integer[]) AS lacking (id) CROSS JOIN LATERAL (
    SELECT asset_id, day, close FROM closes
    WHERE asset_id = lacking.id AND day < '{since}' ORDER BY day DESC LIMIT {window}
) AS older
"""


def load_market(
    connection: psycopg.Connection[tuple[object, ...]], days: tuple[int, int], max_stale_days: int
) -> Market:
    """The market of the day numbers `days[0]..days[1]`, with the row before them, which signals need."""
    first, last = days[0] - 1, days[1]
    since = day_from_number(first - _USUAL_DAYS)
    recent = _read(connection, _RECENT.format(columns=gathered(_COLUMNS), since=since, last=day_from_number(last)))
    # Behind the closes: of an asset that comes in between, there would be closes and no column.
    ids = connection.execute("SELECT id FROM assets ORDER BY id").fetchall()
    asset_ids = np.array([row[0] for row in ids], dtype=np.int32)
    before = np.bincount(recent[0][recent[1] < first], minlength=int(asset_ids.max(initial=0)) + 1)
    lacking = asset_ids[before[asset_ids] < _WINDOW]
    if not len(lacking):
        return Market.from_closes(asset_ids, (first, last), _newest(recent, first), max_stale_days)
    assets = ",".join(map(str, lacking.tolist()))
    query = _OLDER.format(columns=gathered(_COLUMNS), assets=assets, since=since, window=_WINDOW)
    older = _read(connection, query)
    closes = _sorted([np.concatenate((older[number], recent[number])) for number in range(len(_COLUMNS))])
    return Market.from_closes(asset_ids, (first, last), _newest(closes, first), max_stale_days)


def _read(connection: psycopg.Connection[tuple[object, ...]], query: str) -> _Closes:
    """Asset, day number and close, each (m,), sorted by asset, then day."""
    groups = read_groups(copy_out(connection, query), _COLUMNS)
    if not groups:
        nothing = np.zeros(0, dtype=np.int32)
        return nothing, nothing, nothing.astype(np.int64)
    return _sorted([groups[0].values[column.name] for column in _COLUMNS])


def _sorted(columns: Sequence[NDArray[Any]]) -> _Closes:
    asset, day, close = columns
    order = np.lexsort((day, asset))
    return asset[order], day[order], close[order]


def _newest(closes: _Closes, first: int) -> _Closes:
    """Of each asset the newest `_WINDOW` closes before the day number `first`, and all from then on."""
    asset, day, _ = closes
    total, before = np.bincount(asset), np.bincount(asset[day < first], minlength=int(asset.max(initial=-1)) + 1)
    number = np.arange(len(asset)) - (np.cumsum(total) - total)[asset]
    seen = number >= before[asset] - _WINDOW
    return asset[seen], day[seen], closes[2][seen]


_VERSION = "SELECT version FROM closes_version"


def closes_version(connection: psycopg.Connection[tuple[object, ...]]) -> int:
    """How often closes have changed of days that a night has come to. One round trip."""
    row = connection.execute(_VERSION).fetchone()
    assert row is not None  # noqa: S101 - the migration made the row
    return int(str(row[0]))


class MarketCache:
    """The markets of the last runs of this process: all batches of a run share one, and no run sees another's."""

    def __init__(self, max_stale_days: int, size: int = 3) -> None:
        self._max_stale_days = max_stale_days
        self._size = size
        self._markets: OrderedDict[tuple[int, int, int, int], Market] = OrderedDict()

    def get(self, connection: psycopg.Connection[tuple[object, ...]], run_id: int, days: tuple[int, int]) -> Market:
        """The market of these day numbers for a run, with the closes of now.

        The connection is in the batch's transaction, and holds the granules of its users.
        """
        key = (run_id, *days, closes_version(connection))
        if key not in self._markets:
            # Nobody asks for the closes of an earlier version again.
            for old in [old for old in self._markets if old[:3] == key[:3]]:
                del self._markets[old]
            self._markets[key] = load_market(connection, days, self._max_stale_days)
            while len(self._markets) > self._size:
                self._markets.popitem(last=False)
        self._markets.move_to_end(key)
        return self._markets[key]
