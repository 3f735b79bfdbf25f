"""The market matrix from the table of closes: everything that a night of these days can see, and no more.

Guarantee: a batch goes by closes that are at least as new as the moment at which it holds its granules. Whoever changes
a close of a day that a night has come to raises the version of the closes in the same transaction
(services.corrections), and a batch asks for it here, behind its locks. What is kept under a version may hold later
closes than it says, never earlier ones: the version is read first.
"""

from __future__ import annotations

from collections import OrderedDict

import numpy as np
import psycopg

from core.clock import day_from_number
from engine.market import Market
from engine.strategies.base import MAX_LOOKBACK
from models.column_reader import gathered, read_groups
from models.copy_codec import DATE, INT4, INT8, Column
from services.copying import copy_out

_COLUMNS = (Column("asset_id", INT4), Column("day", DATE), Column("close", INT8))

# The closes of the days themselves, and of each asset the newest before them that a window can reach: whatever the
# range of days that a batch is asked for, it sees the same closes, so that the result cannot depend on the range.
_CLOSES = """
SELECT {columns} FROM (
    SELECT asset_id, day, close FROM closes WHERE day BETWEEN '{first}' AND '{last}'
    UNION ALL
    SELECT before.asset_id, before.day, before.close
    FROM assets CROSS JOIN LATERAL (
        SELECT asset_id, day, close FROM closes
        WHERE asset_id = assets.id AND day < '{first}' ORDER BY day DESC LIMIT {window}
    ) AS before
) AS seen
"""


def load_market(
    connection: psycopg.Connection[tuple[object, ...]], days: tuple[int, int], max_stale_days: int
) -> Market:
    """The market of the day numbers `days[0]..days[1]`, with the row before them, which signals need."""
    first, last = days[0] - 1, days[1]
    ids = connection.execute("SELECT id FROM assets ORDER BY id").fetchall()
    asset_ids = np.array([row[0] for row in ids], dtype=np.int32)
    query = _CLOSES.format(
        columns=gathered(_COLUMNS), first=day_from_number(first), last=day_from_number(last), window=MAX_LOOKBACK + 1
    )
    groups = read_groups(copy_out(connection, query), _COLUMNS)
    if not groups:
        nothing = np.zeros(0, dtype=np.int32)
        return Market.from_closes(
            asset_ids, (first, last), (nothing, nothing, nothing.astype(np.int64)), max_stale_days
        )
    asset, day, close = (groups[0].values[column.name] for column in _COLUMNS)
    order = np.lexsort((day, asset))
    return Market.from_closes(asset_ids, (first, last), (asset[order], day[order], close[order]), max_stale_days)


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
