"""The reconciler: whatever was lost between Redis and a worker is published again.

- A batch that is `running` while nobody holds its lease was abandoned: its worker died. It goes back to `planned` at
  once.
- A batch that is `queued`, but of whose queue no batch was claimed for `overdue_seconds`, lost its message. While
  claims go on, the backlog is moving and nothing is republished, however long it is: a queue of an hour makes no storm.
  The queue of ad-hoc work stands still while a night's moves: workers take from it when none of a night waits.
  Each further publication of the same batch waits twice as long as the one before.

A clock that was set back leaves moments in the future. They count as long ago: waiting for them could take an hour.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Engine, text
from sqlalchemy.orm import Session

from core.database import session_scope
from core.log import get_logger
from core.settings import Settings
from services.locks import HELD_BATCHES

log = get_logger(__name__)

# A claim sets `started_at` while the lease is held; this only covers the instant between a read of pg_locks and of the
# row, and clocks of two machines that differ a little.
_GRACE = timedelta(seconds=2)

_ABANDONED = text(
    f"""
    UPDATE batches SET status = 'planned', not_before = NULL
    WHERE status = 'running' AND started_at NOT BETWEEN :now - :grace AND :now + :grace AND id NOT IN ({HELD_BATCHES})
    RETURNING id
    """  # noqa: S608 (a constant)
)
_LOST = text(
    """
    WITH moving AS MATERIALIZED (
        SELECT m.kind FROM runs m
        WHERE (m.status = 'running'
              OR m.kind = 'nightly' AND m.finished_at > :now - make_interval(secs => :overdue))
          AND EXISTS (
              SELECT 1 FROM batches
              WHERE run_id = m.id
                AND started_at > :now - make_interval(secs => :overdue)
                AND started_at < :now + make_interval(secs => :overdue)
          )
    )
    UPDATE batches b SET status = 'planned'
    FROM runs r
    WHERE r.id = b.run_id AND r.status = 'running' AND b.status = 'queued'
      AND (b.queued_at < :now - make_interval(secs => :overdue * power(2, least(b.publications, 4) - 1))
          OR b.queued_at > :now + make_interval(secs => :overdue))
      AND NOT EXISTS (SELECT 1 FROM moving WHERE kind IN (r.kind, 'nightly'))
    RETURNING b.id
    """
)
# Beside the heartbeats of the schedules, and in the transaction that puts back: so the count is exact.
_COUNT = text(
    "INSERT INTO beat_ticks (name, last_run_at, runs) VALUES (:name, :now, :batches)"
    " ON CONFLICT (name) DO UPDATE SET last_run_at = :now, runs = beat_ticks.runs + :batches"
)
_COUNTED = text("SELECT name, runs FROM beat_ticks WHERE name = ANY(:names)")
_PUT_BACK = {"abandoned": "put_back:abandoned", "lost": "put_back:lost"}


@dataclass(frozen=True, slots=True)
class ReconcileResult:
    """How many batches went back to `planned`, by cause."""

    abandoned: int
    lost: int


def reconcile(engine: Engine, *, now: datetime, settings: Settings) -> ReconcileResult:
    """Put back what was abandoned or lost; the relay publishes it again."""
    with session_scope(engine) as session:
        abandoned = list(session.execute(_ABANDONED, {"now": now, "grace": _GRACE}).scalars())
        lost = list(session.execute(_LOST, {"now": now, "overdue": settings.overdue_seconds}).scalars())
        for cause, batches in (("abandoned", abandoned), ("lost", lost)):
            if batches:
                session.execute(_COUNT, {"name": _PUT_BACK[cause], "now": now, "batches": len(batches)})
    if abandoned or lost:
        log.warning("batches put back", abandoned=abandoned[:20], lost=len(lost))
    return ReconcileResult(len(abandoned), len(lost))


def put_back(session: Session) -> dict[str, int]:
    """How many batches were ever put back, by cause: `abandoned`, `lost`."""
    counted = {row.name: row.runs for row in session.execute(_COUNTED, {"names": list(_PUT_BACK.values())})}
    return {cause: counted.get(name, 0) for cause, name in _PUT_BACK.items()}
