"""The market matrix from the table of closes: everything that a night of these days can see, and no more.

Guarantee: a batch goes by closes that are at least as new as the moment at which it holds its granules. Whoever changes
a close of a day that a night has come to raises the version of the closes in the same transaction
(services.corrections, and a trigger for whoever else does), and a batch asks for it here, behind its locks. What is
kept under a version may hold later closes than it says, never earlier ones: the version is read first.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import NamedTuple

from psycopg.rows import args_row

from engine.market import Market
from services.closes_seen import ClosesSeen, read_closes_seen
from services.locks import Connection

# Of markets that no run asks for any more, no more than this is kept: that of 10,000 assets has 60 MiB.
_KEPT_BYTES = 16 * 2**20


# What is brought back from a backup counts on from the version that it had then: as another database, as another server
# that has recovered to a moment, or as the same one, where other transactions raise it.
_VERSION = """
SELECT version, xmin::text, pg_postmaster_start_time()::text,
    (SELECT oid FROM pg_database WHERE datname = current_database())
FROM closes_version
"""


class ClosesVersion(NamedTuple):
    """`number` is raised whenever closes change of days that a night has come to; the rest is whose number it is."""

    number: int
    raised_by: str
    server_start: str
    database: int


def closes_version(connection: Connection) -> ClosesVersion:
    """The version of the closes of now. One round trip."""
    with connection.cursor(row_factory=args_row(ClosesVersion)) as cursor:
        row = cursor.execute(_VERSION).fetchone()
    assert row is not None  # noqa: S101 - the migration made the row
    return row


class MarketCache:
    """The markets of the last runs of this process: all batches of a run share one, and no run sees another's.

    From run to run it keeps what nights have seen, so that the next one reads the last days only: of 10,000 assets
    these are 90,000 closes instead of 2.5 million.
    """

    def __init__(
        self, max_stale_days: int, size: int = 3, *, on_assets: Callable[[int], object] = lambda _: None
    ) -> None:
        """`on_assets`: told how many assets there are, whenever a market is read."""
        self._max_stale_days = max_stale_days
        self._size = size
        self._on_assets = on_assets
        self._markets: OrderedDict[tuple[int, int, int, ClosesVersion], Market] = OrderedDict()
        self._seen: tuple[ClosesVersion, ClosesSeen] | None = None

    def get(self, connection: Connection, run_id: int, days: tuple[int, int]) -> Market:
        """The market of these day numbers for a run, with the closes of now and the row before, which signals need.

        The connection is in the batch's transaction, and holds the granules of its users.
        """
        version = closes_version(connection)
        key = (run_id, *days, version)
        if key not in self._markets:
            # Nobody asks for the closes of an earlier version again.
            for old in [old for old in self._markets if old[:3] == key[:3]]:
                del self._markets[old]
            self._make_room()
            self._markets[key] = self._load(connection, version, (days[0] - 1, days[1]))
        self._markets.move_to_end(key)
        return self._markets[key]

    def _make_room(self) -> None:
        while self._markets and (len(self._markets) >= self._size or self._bytes() > _KEPT_BYTES):
            self._markets.popitem(last=False)

    def _bytes(self) -> int:
        return sum(market.nbytes for market in self._markets.values())

    def _known(self, version: ClosesVersion) -> ClosesSeen | None:
        return self._seen[1] if self._seen is not None and self._seen[0] == version else None

    def _load(self, connection: Connection, version: ClosesVersion, rows: tuple[int, int]) -> Market:
        seen = read_closes_seen(connection, rows, self._known(version))
        self._on_assets(len(seen.asset_ids))
        # What is not kept is gone before the matrices are made.
        if (known := self._known(version)) is None or seen.last >= known.last:
            self._seen = (version, seen)
        del known
        return Market.from_closes(seen.asset_ids, rows, seen.columns, self._max_stale_days)
