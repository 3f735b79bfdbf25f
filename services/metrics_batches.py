"""Counters over all batches that have ended: exact, never decreasing, and cheap however many there were.

A batch that has ended never changes again, so its numbers may be summed. Those of runs that are over are summed once
and kept; those of the few that are not are summed at every reading. A new process begins with one look at everything.

Batches of old runs go (services.retention_runs), and their sums go into `batch_totals` in the same transaction. Time is
summed in microseconds, as integers: in whatever order and in how many parts it is added up, no counter goes back.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Row, text
from sqlalchemy.orm import Session

from models.base import one_of
from models.tables_runs import BATCH_STATUSES, BATCH_UNFINISHED, RUN_KINDS, RUN_UNFINISHED

BUCKETS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 60.0)
"""Upper bounds in seconds of a batch's duration and of its wait."""

_MICROS = 1_000_000
BATCH_ENDED = tuple(status for status in BATCH_STATUSES if status not in BATCH_UNFINISHED)


@dataclass(slots=True)
class Histogram:
    """`buckets[i]` values were at most BUCKETS[i]; `count` in all, which are `micros` microseconds together."""

    buckets: list[int] = field(default_factory=lambda: [0] * len(BUCKETS))
    count: int = 0
    micros: int = 0

    @property
    def total(self) -> float:
        """Seconds."""
        return self.micros / _MICROS

    def add(self, buckets: Iterable[int], count: int, micros: int) -> None:
        """Add another one's values."""
        self.buckets = [have + more for have, more in zip(self.buckets, buckets, strict=True)]
        self.count += count
        self.micros += micros


@dataclass(slots=True)
class BatchCounts:
    """Sums over batches that have ended; by kind of run, `ended` by (kind, status), `stage_micros` by stage."""

    ended: Counter[tuple[str, str]] = field(default_factory=Counter)
    attempts: Counter[str] = field(default_factory=Counter)
    publications: Counter[str] = field(default_factory=Counter)
    republications: Counter[str] = field(default_factory=Counter)
    users_done: Counter[str] = field(default_factory=Counter)
    duration: dict[str, Histogram] = field(default_factory=lambda: {kind: Histogram() for kind in RUN_KINDS})
    wait: dict[str, Histogram] = field(default_factory=lambda: {kind: Histogram() for kind in RUN_KINDS})
    stage_micros: Counter[str] = field(default_factory=Counter)

    @property
    def stages(self) -> dict[str, float]:
        """Seconds by stage."""
        return {stage: micros / _MICROS for stage, micros in self.stage_micros.items()}

    def add(self, other: BatchCounts) -> None:
        """Add another one's sums."""
        for name in ("ended", "attempts", "publications", "republications", "users_done", "stage_micros"):
            getattr(self, name).update(getattr(other, name))
        for mine, others in ((self.duration, other.duration), (self.wait, other.wait)):
            for kind, histogram in others.items():
                mine[kind].add(histogram.buckets, histogram.count, histogram.micros)

    def add_row(self, row: Any) -> None:
        """Add a row of `batch_totals`, or one like it of `batch_sums`."""
        self.ended[row.kind, row.status] += row.batches
        self.attempts[row.kind] += row.attempts
        self.publications[row.kind] += row.publications
        self.republications[row.kind] += row.republications
        if row.status == "done":
            self.users_done[row.kind] += row.users
            self.duration[row.kind].add(row.durations, row.durations_count, row.durations_micros)
            self.wait[row.kind].add(row.waits, row.waits_count, row.waits_micros)
        self.stage_micros.update(row.stages or {})


class BatchHistory:
    """The sums of the runs that are over, and which those are. Not for several threads at once."""

    def __init__(self) -> None:
        self._over = BatchCounts()
        self._counted: set[int] = set()
        self._floor = 0
        self._summaries = -1

    def read(self, session: Session) -> BatchCounts:
        """The sums as the session's snapshot has them; what it shows of runs that are over is kept."""
        summaries: int = session.execute(_SUMMARIES).scalar_one()
        if summaries != self._summaries:
            # What was counted here one by one may be in the totals now.
            self._over, self._counted, self._floor, self._summaries = _totals(session), set(), 0, summaries
        runs = session.execute(_RUNS, {"floor": self._floor}).all()
        over = [run.id for run in runs if run.over and run.id not in self._counted]
        at_work = [run.id for run in runs if not run.over]
        if over:
            self._over.add(_counts(session, over))
            self._remember(over, at_work)
        now = BatchCounts()
        now.add(self._over)
        if at_work:
            now.add(_counts(session, at_work))
        return now

    def _remember(self, over: list[int], at_work: list[int]) -> None:
        """The numbers of a thousand runs, because a run may appear after later ones; below, only a floor."""
        self._counted.update(over)
        if len(self._counted) > 2 * _REMEMBERED:
            lowest = min([sorted(self._counted)[-_REMEMBERED], *at_work])
            self._floor = lowest - 1
            self._counted = {run for run in self._counted if run >= lowest}


def _totals(session: Session) -> BatchCounts:
    counts = BatchCounts()
    for row in session.execute(_TOTALS):
        counts.add_row(row)
    return counts


def _counts(session: Session, runs: list[int]) -> BatchCounts:
    counts = BatchCounts()
    for row in batch_sums(session, runs):
        counts.add_row(row)
    return counts


def batch_sums(session: Session, runs: Sequence[int]) -> Sequence[Row[Any]]:
    """The sums over the batches of these runs that have ended, as rows of `batch_totals` would say it."""
    return session.execute(_SUMS, {"runs": list(runs)}).all()


def _histogram(name: str, micros: str) -> str:
    """Columns of a histogram; a clock that was set back makes no negative time."""
    buckets = ", ".join(f"count(*) FILTER (WHERE {micros} <= {round(bound * _MICROS)})" for bound in BUCKETS)
    return f"ARRAY[{buckets}] AS {name}, count({micros}) AS {name}_count, coalesce(sum(greatest({micros}, 0)), 0)::bigint AS {name}_micros"  # noqa: E501


def _micros(interval: str) -> str:
    return f"(extract(epoch FROM {interval}) * {_MICROS})::bigint"


_REMEMBERED = 1_000
_SUMMARIES = text("SELECT coalesce(sum(summaries), 0)::bigint FROM retention")
_TOTALS = text("SELECT * FROM batch_totals")
_RUNS = text(
    f"SELECT id, NOT ({one_of('status', RUN_UNFINISHED)}) AS over FROM runs"  # noqa: S608 - our own constants
    " WHERE id > :floor AND summary IS NULL ORDER BY id"
)
_SUMS = text(
    f"""
    WITH ended AS (
        SELECT r.kind, b.status, b.attempts, b.publications, b.users, b.timings,
            {_micros("b.finished_at - b.started_at")} AS duration, {_micros("b.started_at - b.queued_at")} AS wait
        FROM batches b JOIN runs r ON r.id = b.run_id
        WHERE b.run_id = ANY(:runs) AND {one_of("b.status", BATCH_ENDED)}
    ),
    stages AS (
        SELECT kind, jsonb_object_agg(stage, micros) AS stages FROM (
            SELECT kind, stage.key AS stage, sum(round(stage.value::numeric * {_MICROS}))::bigint AS micros
            FROM ended CROSS JOIN LATERAL jsonb_each_text(timings) AS stage
            WHERE status = 'done' AND timings IS NOT NULL GROUP BY kind, stage.key
        ) AS each GROUP BY kind
    )
    SELECT kind, status, count(*) AS batches, sum(attempts)::bigint AS attempts,
        sum(publications)::bigint AS publications, sum(greatest(publications - 1, 0))::bigint AS republications,
        sum(users)::bigint AS users, {_histogram("durations", "duration")}, {_histogram("waits", "wait")},
        CASE WHEN status = 'done' THEN (SELECT stages FROM stages s WHERE s.kind = ended.kind) END AS stages
    FROM ended GROUP BY kind, status
    """  # noqa: S608 - our own constants; the values are bound
)
