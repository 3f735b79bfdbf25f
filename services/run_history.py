"""One run and its batches, for people who drill down: by key, so that page 900 costs what page 1 costs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import text
from sqlalchemy.orm import Session

from core.errors import UsageError
from services.runs import BatchView, QuarantineView, RunView, batch_of, quarantine_of, run_view

MOST_SPANS = 2_000


@dataclass(frozen=True, slots=True)
class Span:
    """When a worker worked on a batch that has ended; seconds since the first of them began."""

    batch_id: int
    seq: int
    worker: str
    status: str
    start: float
    seconds: float


@dataclass(frozen=True, slots=True)
class RunHistory:
    """A run.

    Attributes:
        scope: what was asked for; empty for a night.
        states: batches by status.
        attempts: those of all its batches; `retried`: batches that took more than one.
        spans: of the first MOST_SPANS batches.
    """

    run: RunView
    scope: Mapping[str, Any]
    states: dict[str, int]
    attempts: int
    retried: int
    spans: list[Span]


@dataclass(frozen=True, slots=True)
class BatchHistory:
    """A batch, the two it was divided into, and what it left in quarantine."""

    batch: BatchView
    run: RunView
    children: list[BatchView]
    quarantined: list[QuarantineView]


def run_history(session: Session, run_id: int, now: datetime) -> RunHistory:
    """Everything about a run but its batches; UsageError if there is no such run."""
    run = run_view(session, run_id, now)
    scope = session.execute(_SCOPE, {"run": run_id}).scalar_one()
    states = session.execute(_STATES, {"run": run_id}).all()
    rows = session.execute(_SPANS, {"run": run_id, "limit": MOST_SPANS}).all()
    origin: datetime = min((row.started_at for row in rows), default=now)
    return RunHistory(
        run=run,
        scope=scope or {},
        states={row.status: row.batches for row in states},
        attempts=sum(row.attempts for row in states),
        retried=sum(row.retried for row in states),
        spans=[
            Span(row.id, row.seq, row.worker or "?", row.status, (row.started_at - origin).total_seconds(),
                 max((row.finished_at - row.started_at).total_seconds(), 0.0))
            for row in rows
        ],
    )  # fmt: skip


def batches_after(
    session: Session, run_id: int, *, after: int = -1, status: str | None = None, limit: int = 50
) -> list[BatchView]:
    """The batches of a run in their order, those after the number `after`; of one status, or of all."""
    values = {"run": run_id, "after": after, "status": status, "limit": limit}
    return [batch_of(row) for row in session.execute(_AFTER if status is None else _AFTER_OF, values)]


def batch_history(session: Session, batch_id: int, now: datetime) -> BatchHistory:
    """Everything about a batch; UsageError if there is no such batch."""
    row = session.execute(_BATCH, {"id": batch_id}).one_or_none()
    if row is None:
        raise UsageError(f"there is no batch {batch_id}")
    values = {"run": row.run_id, "id": batch_id, "lo": row.user_lo, "hi": row.user_hi}
    return BatchHistory(
        batch=batch_of(row),
        run=run_view(session, row.run_id, now),
        children=[batch_of(child) for child in session.execute(_CHILDREN, values)],
        quarantined=[quarantine_of(entry) for entry in session.execute(_QUARANTINED, values)],
    )


_SCOPE = text("SELECT scope FROM runs WHERE id = :run")
_STATES = text(
    """
    SELECT status, count(*) AS batches, sum(attempts)::bigint AS attempts,
        count(*) FILTER (WHERE attempts > 1) AS retried
    FROM batches WHERE run_id = :run GROUP BY status ORDER BY status
    """
)
_SPANS = text(
    """
    SELECT id, seq, worker, status, started_at, finished_at FROM batches
    WHERE run_id = :run AND started_at IS NOT NULL AND finished_at IS NOT NULL ORDER BY seq LIMIT :limit
    """
)
_AFTER = text("SELECT * FROM batches WHERE run_id = :run AND seq > :after ORDER BY seq LIMIT :limit")
_AFTER_OF = text(
    "SELECT * FROM batches WHERE run_id = :run AND seq > :after AND status = :status ORDER BY seq LIMIT :limit"
)
_BATCH = text("SELECT * FROM batches WHERE id = :id")
_CHILDREN = text("SELECT * FROM batches WHERE run_id = :run AND parent_id = :id ORDER BY seq")
# By the batch's users, for whom there is an index.
_QUARANTINED = text(
    """
    SELECT * FROM quarantine
    WHERE cleared_at IS NULL AND user_id >= :lo AND user_id < :hi AND batch_id = :id ORDER BY user_id LIMIT 100
    """
)
