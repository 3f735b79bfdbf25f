"""Everything that a report says of one run: how fast it was, where its time went, and what went wrong in it.

Guarantee: the sums are those of its batches, as its completion adds them up, and each that differs from the run's row
is named.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from sqlalchemy import text
from sqlalchemy.orm import Session

from models.ticks import from_ticks
from services.runs import BatchView, QuarantineView, RunView, list_batches, quarantine_of, run_view

_BINS = 60
MOST_ENTRIES = 100
_STAGES = ("read", "decode", "market", "compute", "encode", "write", "commit")


@dataclass(frozen=True, slots=True)
class Spread:
    """How some durations are spread, seconds: the lower median, the value that 95 % do not exceed, the largest."""

    median: float
    p95: float
    largest: float


@dataclass(frozen=True, slots=True)
class Throughput:
    """Users done a second from `start` to `end` (seconds since the first batch began).

    A batch's users are spread evenly over the time that it took.
    """

    start: float
    end: float
    users_per_second: float


@dataclass(frozen=True, slots=True)
class WorkerShare:
    """What a worker did: its last attempts at batches that have ended; `busy`: its share of the run's time."""

    worker: str
    batches: int
    users: int
    seconds: float
    busy: float | None


@dataclass(frozen=True, slots=True)
class RunFigures:
    """One run in full.

    Attributes:
        scope: what was asked for; empty for a night.
        sums: over the batches; amounts in units.
        differing: names of sums that the run's row, once the run is over, says otherwise.
        states: batches by status, those that were split included.
        attempts: of all batches; `retried` of them took more than one, `published_again` went out more than once.
        stages: seconds of all batches by stage, in the order of the work.
        queue_wait: from a batch's last publication to its last claim; None: nothing was claimed yet.
        durations: of batches that are done.
        quarantined: entries that this run made, by reason, cleared ones included; `entries`: the first of them.
        batches: all of them, in order.
    """

    run: RunView
    scope: Mapping[str, Any]
    sums: dict[str, int | Decimal]
    differing: list[str]
    states: dict[str, int]
    attempts: int
    retried: int
    published_again: int
    stages: dict[str, float]
    queue_wait: Spread | None
    durations: Spread | None
    throughput: list[Throughput]
    workers: list[WorkerShare]
    quarantined: dict[str, int]
    entries: list[QuarantineView]
    batches: list[BatchView]


def run_figures(session: Session, run_id: int, now: datetime) -> RunFigures:
    """The figures of a run; UsageError if there is no such run."""
    run = run_view(session, run_id, now)
    batches = list_batches(session, run_id)
    sums = _sums(session, run_id)
    reasons = session.execute(_REASONS, {"run": run_id}).all()
    entries = session.execute(_ENTRIES, {"run": run_id, "limit": MOST_ENTRIES})
    done = [batch for batch in batches if batch.status == "done"]
    return RunFigures(
        run=run,
        scope=session.execute(_SCOPE, {"run": run_id}).scalar_one() or {},
        sums=sums,
        differing=[name for name, value in sums.items() if getattr(run, name) not in (None, value)],
        states=dict(Counter(batch.status for batch in batches)),
        attempts=sum(batch.attempts for batch in batches),
        retried=sum(batch.attempts > 1 for batch in batches),
        published_again=sum(batch.publications > 1 for batch in batches),
        stages=stage_seconds(done),
        queue_wait=spread(waits(batches)),
        durations=spread([batch.seconds for batch in done if batch.seconds is not None]),
        throughput=throughput(done),
        workers=worker_shares(batches, run.seconds),
        quarantined={row.reason: row.entries for row in reasons},
        entries=[quarantine_of(row) for row in entries],
        batches=batches,
    )


def _sums(session: Session, run_id: int) -> dict[str, int | Decimal]:
    row = session.execute(_SUMS, {"run": run_id}).one()
    counts = {name: int(getattr(row, name)) for name in ("simulations", "rows", "trades", "quarantined")}
    return {**counts, "total_equity": from_ticks(row.total_equity), "total_fees": from_ticks(row.total_fees)}


def stage_seconds(batches: Sequence[BatchView]) -> dict[str, float]:
    """The timings of batches, summed by stage; stages that nobody knows come last."""
    total: Counter[str] = Counter()
    for batch in batches:
        total.update(batch.timings or {})
    order = {stage: at for at, stage in enumerate(_STAGES)}
    return {stage: total[stage] for stage in sorted(total, key=lambda name: (order.get(name, len(order)), name))}


def waits(batches: Sequence[BatchView]) -> list[float]:
    """Seconds from publication to claim, of the last ones of each batch that was claimed."""
    return [
        max((batch.started_at - batch.queued_at).total_seconds(), 0.0)
        for batch in batches
        if batch.started_at is not None and batch.queued_at is not None
    ]


def spread(seconds: Sequence[float]) -> Spread | None:
    """The spread of durations, each one of them a value that occurs; None of none."""
    if not seconds:
        return None
    ordered = sorted(seconds)
    return Spread(*(ordered[max(0, -(-len(ordered) * percent // 100) - 1)] for percent in (50, 95, 100)))


def throughput(done: Sequence[BatchView]) -> list[Throughput]:
    """Users a second in `_BINS` equal parts of the time in which these batches were worked on."""
    spans = [
        (batch.started_at, batch.finished_at, batch.users) for batch in done if batch.started_at and batch.finished_at
    ]
    if not spans:
        return []
    origin = min(start for start, _, _ in spans)
    width = max((end - origin).total_seconds() for _, end, _ in spans) / _BINS
    if width <= 0:
        return []
    users = [0.0] * _BINS
    for start, end, count in spans:
        since, until = (start - origin).total_seconds(), (end - origin).total_seconds()
        first, last = min(int(since / width), _BINS - 1), min(int(until / width), _BINS - 1)
        for at in range(first, last + 1):
            inside = min(until, (at + 1) * width) - max(since, at * width)
            users[at] += count * (max(inside, 0.0) / (until - since) if until > since else 1 / (last - first + 1))
    return [Throughput(at * width, (at + 1) * width, value / width) for at, value in enumerate(users)]


def worker_shares(batches: Sequence[BatchView], seconds: float | None) -> list[WorkerShare]:
    """By worker, in the order of their names."""
    found: dict[str, list[BatchView]] = {}
    for batch in batches:
        if batch.worker is not None and batch.seconds is not None:
            found.setdefault(batch.worker, []).append(batch)
    return [
        WorkerShare(
            worker,
            len(own),
            sum(batch.users for batch in own if batch.status == "done"),
            (busy := sum(batch.seconds or 0.0 for batch in own)),
            busy / seconds if seconds else None,
        )
        for worker, own in sorted(found.items())
    ]


_SCOPE = text("SELECT scope FROM runs WHERE id = :run")
_SUMS = text(
    """
    SELECT coalesce(sum(simulations), 0) AS simulations, coalesce(sum(rows), 0) AS rows,
        coalesce(sum(trades), 0) AS trades, coalesce(sum(quarantined), 0) AS quarantined,
        coalesce(sum(total_equity), 0) AS total_equity, coalesce(sum(total_fees), 0) AS total_fees
    FROM batches WHERE run_id = :run
    """
)
_REASONS = text(
    "SELECT reason, count(*) AS entries FROM quarantine WHERE run_id = :run GROUP BY reason ORDER BY 2 DESC, 1"
)
_ENTRIES = text("SELECT * FROM quarantine WHERE run_id = :run ORDER BY id LIMIT :limit")
