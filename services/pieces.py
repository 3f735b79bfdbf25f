"""The commits of a batch: its only one, or one for each piece of very many days.

Guarantee: the rows of a piece, its trades, what it quarantined, and their counts in the batch appear in one commit,
which succeeds only while the claim is the newest. So a batch that is given back, divided or loses its worker goes on
behind its last piece, and in the end its counts and digest are those of all of its rows.

A piece that is kept takes back the attempt: only those count that came to nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from core.errors import StaleClaimError
from engine.digest import combine_digests
from services.advance import Totals
from services.locks import Connection


@dataclass(frozen=True, slots=True)
class Fence:
    """A batch as whoever works on it has left it.

    Attributes:
        digest: of its earlier pieces, signed.
        timings: seconds by stage that they took.
    """

    id: int
    attempts: int
    digest: int
    timings: Mapping[str, float]


_COUNTS = """
    simulations = coalesce(simulations, 0) + %(simulations)s, rows = coalesce(rows, 0) + %(rows)s,
    trades = coalesce(trades, 0) + %(trades)s, quarantined = coalesce(quarantined, 0) + %(quarantined)s,
    total_fees = coalesce(total_fees, 0) + %(fees)s, digest = %(digest)s,
    timings = %(timings)s, error = NULL
"""
# After a piece two who have claimed the batch may count the same attempts, but only one of them its newest digest.
_OURS = "WHERE id = %(id)s AND status = 'running' AND attempts = %(attempts)s AND coalesce(digest, 0) = %(before)s"
_KEEP = f"UPDATE batches SET {_COUNTS}, came_to = %(came_to)s, attempts = 0 {_OURS}"  # noqa: S608 (constants)
_COMPLETE = f"""
UPDATE batches
SET {_COUNTS}, status = 'done', finished_at = %(now)s, total_equity = %(equity)s, top = %(top)s,
    attempts = greatest(attempts, 1)
{_OURS}
"""  # noqa: S608 (constants)


def commit_piece(connection: Connection, fence: Fence, totals: Totals, now: datetime) -> Fence:
    """Add what was done to the batch, in the transaction that wrote its rows, and mark it done if that was all.

    Returns: the batch as the next piece finds it.

    Raises:
        StaleClaimError: the claim is not the newest any more.
    """
    digest = signed(combine_digests(fence.digest % 2**64, totals.digest))
    stages = fence.timings.keys() | totals.seconds.keys()
    timings = {stage: round(fence.timings.get(stage, 0) + totals.seconds.get(stage, 0), 6) for stage in stages}
    values = {
        "id": fence.id,
        "attempts": fence.attempts,
        "now": now,
        "simulations": totals.simulations,
        "rows": totals.rows,
        "trades": totals.trades,
        "quarantined": len(totals.faults),
        "equity": totals.equity,
        "fees": totals.fees,
        "came_to": totals.came_to,
        "before": fence.digest,
        "digest": digest,
        "top": json.dumps(totals.top),
        "timings": json.dumps(timings),
    }
    statement = _COMPLETE if totals.came_to is None else _KEEP
    if connection.execute(statement, values).rowcount != 1:
        raise StaleClaimError(f"batch {fence.id} was claimed, split or cancelled by somebody else meanwhile")
    return Fence(fence.id, 0, digest, timings)


def signed(digest: int) -> int:
    """A digest as PostgreSQL's signed bigint."""
    return digest - 2**64 if digest >= 2**63 else digest
