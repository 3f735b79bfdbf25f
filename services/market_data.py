"""The market matrix from the table of closes: everything that a night of these days can see, and no more."""

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


class MarketCache:
    """The markets of the last runs of this process: all batches of a run share one, and no run sees another's."""

    def __init__(self, max_stale_days: int, size: int = 2) -> None:
        self._max_stale_days = max_stale_days
        self._size = size
        self._markets: OrderedDict[tuple[int, int, int], Market] = OrderedDict()

    def get(self, connection: psycopg.Connection[tuple[object, ...]], run_id: int, days: tuple[int, int]) -> Market:
        """The market of these day numbers as this run first saw it."""
        key = (run_id, *days)
        if key not in self._markets:
            self._markets[key] = load_market(connection, days, self._max_stale_days)
            while len(self._markets) > self._size:
                self._markets.popitem(last=False)
        self._markets.move_to_end(key)
        return self._markets[key]
