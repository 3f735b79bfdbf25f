"""What the exporter shows of runs: how many there are, whether those that run get on, and the newest ones by number."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from sqlalchemy import Row, text
from sqlalchemy.orm import Session

NEWEST = 20
"""So many runs are shown one by one: a label's values must not grow with the nights."""

_RUNS = text("SELECT kind, status, count(*) AS runs FROM runs GROUP BY kind, status")
_BATCHES = text(
    """
    SELECT status, count(*) AS batches FROM batches
    WHERE run_id IN (SELECT id FROM runs WHERE status IN ('planned', 'running') UNION ALL (SELECT max(id) FROM runs))
    GROUP BY status
    """
)
_QUARANTINED = text("SELECT count(DISTINCT user_id) FROM quarantine WHERE cleared_at IS NULL")
# That nobody works on a run that is paused is no standstill.
_PROGRESS = text(
    """
    SELECT r.kind, max(greatest(r.started_at, (SELECT max(b.finished_at) FROM batches b WHERE b.run_id = r.id))) AS at
    FROM runs r WHERE r.status = 'running' AND NOT r.paused GROUP BY r.kind
    """
)
# Run by run, so that the index finds their batches: a join would read those of all runs.
_NEWEST = text(
    """
    SELECT r.id, r.kind, r.day, r.status, r.users, r.started_at, r.finished_at,
        b.status AS batch_status, b.batches, b.users AS batch_users, b.quarantined
    FROM (SELECT * FROM runs ORDER BY id DESC LIMIT :newest) r
    LEFT JOIN LATERAL (
        SELECT status, count(*) AS batches, sum(users) AS users, coalesce(sum(quarantined), 0) AS quarantined
        FROM batches WHERE run_id = r.id GROUP BY status
    ) b ON true
    ORDER BY r.id
    """
)


@dataclass(slots=True)
class OneRun:
    """A run. `batches` by status; `seconds`: since it started, until it ended; None before."""

    id: int
    kind: str
    day: str
    status: str
    users: int
    seconds: float | None
    users_done: int = 0
    quarantined: int = 0
    batches: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RunMetrics:
    """`runs` by (kind, status); `batches` by status, of the unfinished runs and the newest one.

    `quarantined`: users with an active entry. `progress`: when a run of this kind, of those that run, last ended a
    batch, or began. `newest`: the newest 20 runs.
    """

    runs: dict[tuple[str, str], int]
    batches: dict[str, int]
    quarantined: int
    progress: dict[str, datetime]
    newest: list[OneRun]


def run_metrics(session: Session, *, now: datetime) -> RunMetrics:
    """Read them."""
    return RunMetrics(
        runs={(row.kind, row.status): row.runs for row in session.execute(_RUNS)},
        batches={row.status: row.batches for row in session.execute(_BATCHES)},
        quarantined=session.execute(_QUARANTINED).scalar_one(),
        progress={row.kind: row.at for row in session.execute(_PROGRESS) if row.at is not None},
        newest=_newest(session.execute(_NEWEST, {"newest": NEWEST}), now),
    )


def _newest(rows: Iterable[Row[Any]], now: datetime) -> list[OneRun]:
    runs: dict[int, OneRun] = {}
    for row in rows:
        seconds = run_seconds(row.started_at, row.finished_at, now)
        run = runs.setdefault(row.id, OneRun(row.id, row.kind, str(row.day), row.status, row.users, seconds))
        if row.batch_status is None:
            continue
        run.batches[row.batch_status] = row.batches
        run.quarantined += int(row.quarantined)
        if row.batch_status == "done":
            run.users_done = int(row.batch_users)
    return list(runs.values())


def run_seconds(started: datetime | None, finished: datetime | None, now: datetime) -> float | None:
    """How long a run took, or has been taking; None if it has not started."""
    return None if started is None else max(((finished or now) - started).total_seconds(), 0.0)
