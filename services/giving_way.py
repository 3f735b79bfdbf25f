"""Ad-hoc work gives way to nights: not only before a batch, but in the middle of one.

A batch over a month takes half a second for its many days, however few its users are, and holds their granules as long.
So it asks between two days whether a night's batch waits in a queue. If one does, the batch is rolled back and comes
again later; what that costs is at most one batch of each worker.
"""

from __future__ import annotations

import time

from core.errors import NightFirstError
from services.locks import Connection

# Asked more often it would be felt; a night does not feel that much.
_EVERY_SECONDS = 0.03

_NIGHT_WAITS = """
SELECT EXISTS (
    SELECT FROM runs r JOIN batches b ON b.run_id = r.id
    WHERE r.kind = 'nightly' AND r.status = 'running' AND NOT r.cancel_requested AND b.status = 'queued'
)
"""


class GiveWay:
    """For the days of one batch, in its transaction."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._asked = time.perf_counter()

    def __call__(self) -> None:
        """Ask, if the last time is long enough ago.

        Raises:
            NightFirstError: a batch of a night waits.
        """
        if time.perf_counter() - self._asked < _EVERY_SECONDS:
            return
        row = self._connection.execute(_NIGHT_WAITS).fetchone()
        if row is not None and row[0] is True:
            raise NightFirstError("a night is waiting: this batch comes after it")
        self._asked = time.perf_counter()
