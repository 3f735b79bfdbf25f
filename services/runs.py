"""What the runs are doing: read-only views of runs, batches and the quarantine, and the one change, to cancel a run.

A run's progress is counted from its batches, so it is true at any moment and after any crash. A batch that was split is
left out: its children stand for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any

from sqlalchemy import Row, bindparam, text
from sqlalchemy.orm import Session

from core.errors import UsageError
from models.tables_runs import RUN_UNFINISHED
from models.ticks import from_ticks


@dataclass(frozen=True, slots=True)
class RunView:
    """A run and how far it is. Totals are None until it is done; `seconds` and `users_per_second` until it has started.

    Attributes:
        users: users of the run; of a run of several days each counts once.
        total_equity, total_fees: units.
        digest: 16 hexadecimal digits; of what the run wrote, whatever was done again since.
        day: the last one; of ad-hoc work at first that of the newest night, and later ones as they are taken along.
        estimated_end: None unless it is running, neither paused nor being cancelled, and some of it is done.
    """

    id: int
    kind: str
    first_day: date
    day: date
    status: str
    requested_by: str
    reason: str | None
    cancel_requested: bool
    paused: bool
    created_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    batch_users: int
    users: int
    users_done: int
    batches: int
    batches_done: int
    batches_failed: int
    simulations: int | None
    rows: int | None
    trades: int | None
    quarantined: int | None
    total_equity: Decimal | None
    total_fees: Decimal | None
    digest: str | None
    seconds: float | None
    users_per_second: float | None
    estimated_end: datetime | None
    error: str | None


@dataclass(frozen=True, slots=True)
class BatchView:
    """A batch: users `[user_lo, user_hi)`; `timings` are seconds by stage."""

    id: int
    run_id: int
    seq: int
    parent_id: int | None
    user_lo: int
    user_hi: int
    users: int
    status: str
    attempts: int
    publications: int
    not_before: datetime | None
    queued_at: datetime | None
    started_at: datetime | None
    finished_at: datetime | None
    seconds: float | None
    worker: str | None
    simulations: int | None
    rows: int | None
    trades: int | None
    quarantined: int | None
    timings: dict[str, float] | None
    error: str | None


@dataclass(frozen=True, slots=True)
class QuarantineView:
    """What the nights leave out; without a simulation, the whole user."""

    id: int
    user_id: int
    simulation_id: int | None
    day: date
    reason: str
    detail: str
    run_id: int | None
    batch_id: int | None
    created_at: datetime


@dataclass(frozen=True, slots=True)
class Progress:
    """How far some runs are together. `finished`: none of them will do anything more."""

    batches_total: int
    batches_done: int
    users_total: int
    users_done: int
    simulations: int
    trades: int
    quarantined: int
    failed_batches: int
    runs_ended: int
    failed_runs: int
    finished: bool


# Of an old run, whose batches are gone, its summary says it (services.retention_runs).
_RUNS = """
    SELECT r.*,
        coalesce((r.summary->>'batches')::bigint, b.batches) AS batches,
        coalesce((r.summary->>'batches_done')::bigint, b.batches_done) AS batches_done,
        coalesce((r.summary->>'batches_failed')::bigint, b.batches_failed) AS batches_failed,
        coalesce((r.summary->>'users_done')::bigint, b.users_done) AS users_done
    FROM {source} AS r CROSS JOIN LATERAL (
        SELECT
            count(*) FILTER (WHERE status <> 'split') AS batches,
            count(*) FILTER (WHERE status = 'done') AS batches_done,
            count(*) FILTER (WHERE status = 'failed') AS batches_failed,
            coalesce(sum(users) FILTER (WHERE status = 'done'), 0) AS users_done
        FROM batches WHERE run_id = r.id
    ) AS b ORDER BY r.id DESC
"""
_NEWEST_RUNS = text(
    _RUNS.format(
        source="(SELECT * FROM runs WHERE id < coalesce(:before, 9223372036854775807) ORDER BY id DESC LIMIT :limit)"
    )
)
_AT_WORK = text(
    _RUNS.format(
        source="(SELECT * FROM runs WHERE status = 'running' OR (status = 'planned' AND kind = 'reprocess')"
        " ORDER BY id DESC LIMIT :limit)"
    )
)
_ONE_RUN = text(_RUNS.format(source="(SELECT * FROM runs WHERE id = :id)"))
_RUNS_BY_ID = text(_RUNS.format(source="(SELECT * FROM runs WHERE id IN :ids)")).bindparams(
    bindparam("ids", expanding=True)
)
# The one that is being worked on, else the newest one that a night has finished.
_NEWEST_NIGHTLY = text(
    _RUNS.format(
        source="(SELECT * FROM runs WHERE kind = 'nightly' AND status <> 'missed'"
        " ORDER BY status = 'running' DESC, status = 'planned' DESC, CASE WHEN status = 'planned' THEN day END,"
        " day DESC LIMIT 1)"
    )
)


def list_runs(session: Session, now: datetime, limit: int = 20, *, before: int | None = None) -> list[RunView]:
    """The newest runs, or those older than the run `before`, newest first."""
    return [_run(row, now) for row in session.execute(_NEWEST_RUNS, {"limit": limit, "before": before})]


def runs_at_work(session: Session, now: datetime, limit: int = 20) -> list[RunView]:
    """What is being worked on, paused, or about to begin; newest first. Nights that wait for another are left out."""
    return [_run(row, now) for row in session.execute(_AT_WORK, {"limit": limit})]


def runs_by_id(session: Session, run_ids: Sequence[int], now: datetime) -> list[RunView]:
    """These runs, oldest first; unknown ids are left out."""
    rows = session.execute(_RUNS_BY_ID, {"ids": list(run_ids)}).all()
    return [_run(row, now) for row in reversed(rows)]


def run_view(session: Session, run_id: int, now: datetime) -> RunView:
    """One run; UsageError if there is none with that id."""
    row = session.execute(_ONE_RUN, {"id": run_id}).one_or_none()
    if row is None:
        raise UsageError(f"there is no run {run_id}: nightshift runs lists them")
    return _run(row, now)


def newest_nightly(session: Session, now: datetime) -> RunView | None:
    """The nightly run that is being worked on, else the one of the newest day; None before the first."""
    row = session.execute(_NEWEST_NIGHTLY).one_or_none()
    return None if row is None else _run(row, now)


def nightly_ids_through(session: Session, day: date) -> list[int]:
    """The nightly runs that are not finished and lead up to `day` or past it, oldest first."""
    return list(
        session.scalars(
            text(
                "SELECT id FROM runs WHERE kind = 'nightly' AND status IN ('planned', 'running') AND day <= coalesce("
                "(SELECT min(day) FROM runs WHERE kind = 'nightly' AND day >= :day), :day) ORDER BY day"
            ),
            {"day": day},
        )
    )


def nightly_of(session: Session, day: date, now: datetime) -> RunView | None:
    """The first nightly run that brings simulations up to `day` or past it, if there is one."""
    run_id = session.scalar(
        text("SELECT id FROM runs WHERE kind = 'nightly' AND day >= :day ORDER BY day LIMIT 1"),
        {"day": day},
    )
    return None if run_id is None else run_view(session, run_id, now)


def list_batches(session: Session, run_id: int) -> list[BatchView]:
    """The batches of a run in their order; UsageError if there is no such run."""
    if session.scalar(text("SELECT 1 FROM runs WHERE id = :id"), {"id": run_id}) is None:
        raise UsageError(f"there is no run {run_id}: nightshift runs lists them")
    rows = session.execute(text("SELECT * FROM batches WHERE run_id = :id ORDER BY seq"), {"id": run_id})
    return [batch_of(row) for row in rows]


def batch_of(row: Row[Any]) -> BatchView:
    """The view of a row of `batches`."""
    return BatchView(**_fields(BatchView, row, seconds=_seconds(row.started_at, row.finished_at)))


def list_quarantine(session: Session, limit: int = 100, *, before: int | None = None) -> list[QuarantineView]:
    """What is in quarantine, or of that what is older than the entry `before`, the newest first."""
    rows = session.execute(_QUARANTINE, {"limit": limit, "before": before})
    return [quarantine_of(row) for row in rows]


_QUARANTINE = text(
    "SELECT * FROM quarantine WHERE cleared_at IS NULL AND id < coalesce(:before, 9223372036854775807)"
    " ORDER BY id DESC LIMIT :limit"
)


def quarantine_of(row: Row[Any]) -> QuarantineView:
    """The view of a row of `quarantine`."""
    return QuarantineView(**_fields(QuarantineView, row))


def count_quarantine(session: Session) -> int:
    """How many simulations (or whole users) are in quarantine."""
    return int(session.scalar(text("SELECT count(*) FROM quarantine WHERE cleared_at IS NULL")) or 0)


def run_progress(session: Session, run_ids: Sequence[int]) -> Progress:
    """How far these runs are together."""
    ids = {"ids": list(run_ids)}
    batches = session.execute(_PROGRESS, ids).one()
    runs = session.execute(_RUNS_ENDED, ids).one()
    return Progress(**batches._asdict(), **runs._asdict(), finished=runs.runs_ended == len(set(run_ids)))


_PROGRESS = text(
    """
    SELECT
        count(*) FILTER (WHERE status <> 'split') AS batches_total,
        count(*) FILTER (WHERE status = 'done') AS batches_done,
        coalesce(sum(users) FILTER (WHERE status <> 'split'), 0)::bigint AS users_total,
        coalesce(sum(users) FILTER (WHERE status = 'done'), 0)::bigint AS users_done,
        coalesce(sum(simulations) FILTER (WHERE status = 'done'), 0)::bigint AS simulations,
        coalesce(sum(trades) FILTER (WHERE status = 'done'), 0)::bigint AS trades,
        coalesce(sum(quarantined) FILTER (WHERE status = 'done'), 0)::bigint AS quarantined,
        count(*) FILTER (WHERE status = 'failed') AS failed_batches
    FROM batches WHERE run_id IN :ids
    """
).bindparams(bindparam("ids", expanding=True))
_RUNS_ENDED = text(
    "SELECT count(*) FILTER (WHERE status NOT IN ('planned', 'running')) AS runs_ended,"
    " count(*) FILTER (WHERE status IN ('failed', 'cancelled')) AS failed_runs FROM runs WHERE id IN :ids"
).bindparams(bindparam("ids", expanding=True))


def cancel_run(session: Session, run_id: int, now: datetime) -> RunView:
    """Ask that no batch of the run be begun any more. What is committed stays.

    Raises:
        UsageError: there is no such run, or it is over.
    """
    # Locked, so that its completion either sees the wish or has been before it.
    session.execute(text("SELECT 1 FROM runs WHERE id = :id FOR UPDATE"), {"id": run_id})
    run = run_view(session, run_id, now)
    if run.status not in RUN_UNFINISHED:
        raise UsageError(f"run {run_id} is over ({run.status}): there is nothing to cancel")
    session.execute(text("UPDATE runs SET cancel_requested = true WHERE id = :id"), {"id": run_id})
    return run_view(session, run_id, now)


def _run(row: Row[Any], now: datetime) -> RunView:
    seconds = _seconds(row.started_at, row.finished_at or (now if row.status == "running" else None))
    speed = row.users_done / seconds if seconds and row.users_done else None
    left = row.users - row.users_done
    goes_on = row.status == "running" and not row.paused and not row.cancel_requested
    end = now + timedelta(seconds=left / speed) if speed and goes_on else None
    return RunView(
        **_fields(
            RunView,
            row,
            total_equity=None if row.total_equity is None else from_ticks(row.total_equity),
            total_fees=None if row.total_fees is None else from_ticks(row.total_fees),
            digest=None if row.digest is None else f"{row.digest % 2**64:016x}",
            seconds=seconds,
            users_per_second=speed,
            estimated_end=end,
        )
    )


def _fields(view: type[Any], row: Row[Any], **computed: Any) -> dict[str, Any]:
    """The values of `view`'s fields: those computed, and the row's columns of the same names."""
    values = row._mapping  # noqa: SLF001 - the documented name of a row's mapping
    return {name: computed[name] if name in computed else values[name] for name in view.__dataclass_fields__}


def _seconds(start: datetime | None, end: datetime | None) -> float | None:
    return None if start is None or end is None else max((end - start).total_seconds(), 0.0)
