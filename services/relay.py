"""The relay: planned batches become messages.

A batch is published only when its run may start. Nights run in order, so a night waits for the one before it to end.
Work that is done again waits for the nights through its day and for whatever run is under way: its workers keep the
market that they have loaded, and may write by a close that was corrected meanwhile. No moment is compared: of a run
that is not running yet in the picture in which another run may start, the workers load what was committed by then.
Rows are marked in the transaction in which they are locked and published; if it is lost the messages are sent once
more, and a message too many costs a look at a row.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Engine, Row, text

from core.database import session_scope
from core.queues import Queue
from services.publishing import BatchMessage, Publisher

PUBLISH_LIMIT = 5000
# No retry waits longer; what seems to has a clock that was set back.
_LONGEST_WAIT = timedelta(minutes=2)

_START_RUNS = text(
    """
    UPDATE runs SET status = 'running', started_at = :now
    WHERE status = 'planned' AND NOT cancel_requested
      AND (kind <> 'nightly' OR NOT EXISTS (
          SELECT 1 FROM runs earlier
          WHERE earlier.kind = 'nightly' AND earlier.status IN ('planned', 'running') AND earlier.day < runs.day
      ))
      AND (kind = 'nightly' OR NOT EXISTS (
          SELECT 1 FROM runs other
          WHERE other.status = 'running'
             OR (other.kind = 'nightly' AND other.status = 'planned' AND other.day <= runs.day)
      ))
    """
)
_TAKE_PLANNED = text(
    """
    SELECT b.id, b.run_id, b.user_lo, b.user_hi, r.kind, r.first_day, r.day
    FROM batches b JOIN runs r ON r.id = b.run_id
    WHERE b.status = 'planned' AND r.status = 'running' AND NOT r.cancel_requested
      AND (b.not_before IS NULL OR b.not_before NOT BETWEEN :now AND :now + :longest)
    ORDER BY r.kind, b.run_id, b.seq LIMIT :limit
    FOR UPDATE OF b SKIP LOCKED
    """
)
_MARK_QUEUED = text(
    "UPDATE batches SET status = 'queued', queued_at = :now, publications = publications + 1 WHERE id = ANY(:ids)"
)


def publish_planned(engine: Engine, publish: Publisher, *, now: datetime) -> int:
    """Start the runs that may start, and publish every planned batch of the running ones; how many were published.

    Raises:
        PublishError: Redis did not take them; they stay planned.
    """
    with session_scope(engine) as session:
        session.execute(_START_RUNS, {"now": now})
    published = 0
    while True:
        with session_scope(engine) as session:
            rows = session.execute(_TAKE_PLANNED, {"now": now, "limit": PUBLISH_LIMIT, "longest": _LONGEST_WAIT}).all()
            if not rows:
                return published
            publish([message_for(row) for row in rows])
            session.execute(_MARK_QUEUED, {"now": now, "ids": [row.id for row in rows]})
        published += len(rows)


def message_for(row: Row[Any]) -> BatchMessage:
    """The message of a row with the columns id, run_id, user_lo, user_hi, kind, first_day, day."""
    days = f"{row.day}" if row.first_day == row.day else f"{row.first_day} to {row.day}"
    queue = Queue.SIMULATIONS if row.kind == "nightly" else Queue.REPROCESS
    return BatchMessage(row.id, queue, f"run {row.run_id} · {days} · users {row.user_lo}–{row.user_hi - 1}")
