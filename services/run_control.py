"""Orders to a run of ad-hoc work: to pause, to go on; and what a cancelled one has replaced.

Guarantees: of a paused run nothing is published and nothing begun; batches in work end as always, so that whole batches
hold the new days and whole batches the old ones, never a part of one. Nights cannot be paused: every later day waits
for them. They can be cancelled (services.runs).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import text
from sqlalchemy.orm import Session

from core.errors import UsageError
from models.tables_runs import RUN_UNFINISHED
from services.runs import RunView, run_view

_LOCK = text("SELECT 1 FROM runs WHERE id = :id FOR UPDATE")
_PAUSE = text("UPDATE runs SET paused = :paused WHERE id = :id")
# Their messages are spent or will find them planned; which batches are published is the relay's to decide.
_CALL_BACK = text("UPDATE batches SET status = 'planned' WHERE run_id = :id AND status = 'queued'")
_REPLACED = text(
    """
    SELECT count(*) FILTER (WHERE status = 'done') AS batches,
        coalesce(sum(users) FILTER (WHERE status = 'done'), 0)::bigint AS users,
        count(*) FILTER (WHERE status = 'running') AS batches_in_work,
        coalesce(sum(users) FILTER (WHERE status = 'running'), 0)::bigint AS users_in_work,
        count(*) FILTER (WHERE status <> 'done' AND status <> 'running') AS batches_left,
        coalesce(sum(users) FILTER (WHERE status <> 'done' AND status <> 'running'), 0)::bigint AS users_left
    FROM batches WHERE run_id = :id AND status <> 'split'
    """
)


@dataclass(frozen=True, slots=True)
class Replaced:
    """How far a run came, in whole batches: committed, in work, and those that left everything as it was."""

    batches: int
    users: int
    batches_in_work: int
    users_in_work: int
    batches_left: int
    users_left: int


def pause_run(session: Session, run_id: int, now: datetime) -> RunView:
    """Publish and begin no batch of the run any more until it is resumed.

    Raises:
        UsageError: there is no such run, it is a night, it is over or being cancelled, or it is paused already.
    """
    run = _unfinished(session, run_id, now, "pause")
    if run.paused:
        raise UsageError(f"run {run_id} is paused already: nightshift resume {run_id} lets it go on")
    return _set(session, run_id, now, paused=True)


def resume_run(session: Session, run_id: int, now: datetime) -> RunView:
    """Let a paused run go on; the relay publishes its batches.

    Raises:
        UsageError: there is no such run, it is a night, it is over or being cancelled, or it is not paused.
    """
    run = _unfinished(session, run_id, now, "resume")
    if not run.paused:
        raise UsageError(f"run {run_id} is not paused: there is nothing to resume")
    return _set(session, run_id, now, paused=False)


def replaced_by(session: Session, run_id: int) -> Replaced:
    """What a run has replaced so far, and what it has not; a batch that was divided is its parts."""
    return Replaced(**session.execute(_REPLACED, {"id": run_id}).one()._asdict())


def _unfinished(session: Session, run_id: int, now: datetime, order: str) -> RunView:
    # Locked, so that of two orders the second sees the first.
    session.execute(_LOCK, {"id": run_id})
    run = run_view(session, run_id, now)
    if run.kind == "nightly":
        raise UsageError(f"run {run_id} is a night: only ad-hoc work can be paused (nightshift cancel ends a night)")
    if run.status not in RUN_UNFINISHED:
        raise UsageError(f"run {run_id} is over ({run.status}): there is nothing to {order}")
    if run.cancel_requested:
        raise UsageError(f"run {run_id} is being cancelled: there is nothing to {order}")
    return run


def _set(session: Session, run_id: int, now: datetime, *, paused: bool) -> RunView:
    session.execute(_PAUSE, {"id": run_id, "paused": paused})
    session.execute(_CALL_BACK, {"id": run_id})
    return run_view(session, run_id, now)
