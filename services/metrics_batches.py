"""Counters over all batches that have ended: exact, never decreasing, and cheap however many there were.

A batch that has ended never changes again, so its numbers may be summed. Those of runs that are over are summed once
and kept; those of the few that are not are summed at every reading. A new process begins with one look at everything.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field

from sqlalchemy import text
from sqlalchemy.orm import Session

from models.base import one_of
from models.tables_runs import BATCH_STATUSES, BATCH_UNFINISHED, RUN_KINDS, RUN_UNFINISHED

BUCKETS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 60.0)
"""Upper bounds in seconds of a batch's duration and of its wait."""

BATCH_ENDED = tuple(status for status in BATCH_STATUSES if status not in BATCH_UNFINISHED)


@dataclass(slots=True)
class Histogram:
    """`buckets[i]` values were at most BUCKETS[i]; `count` in all."""

    buckets: list[int] = field(default_factory=lambda: [0] * len(BUCKETS))
    count: int = 0
    total: float = 0.0

    def add(self, buckets: Iterable[int], count: int, total: float) -> None:
        """Add another one's values."""
        self.buckets = [have + more for have, more in zip(self.buckets, buckets, strict=True)]
        self.count += count
        self.total += total


@dataclass(slots=True)
class BatchCounts:
    """Sums over batches that have ended; by kind of run, `ended` by (kind, status), `stages` in seconds by stage."""

    ended: Counter[tuple[str, str]] = field(default_factory=Counter)
    attempts: Counter[str] = field(default_factory=Counter)
    publications: Counter[str] = field(default_factory=Counter)
    republications: Counter[str] = field(default_factory=Counter)
    users_done: Counter[str] = field(default_factory=Counter)
    duration: dict[str, Histogram] = field(default_factory=lambda: {kind: Histogram() for kind in RUN_KINDS})
    wait: dict[str, Histogram] = field(default_factory=lambda: {kind: Histogram() for kind in RUN_KINDS})
    stages: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))

    def add(self, other: BatchCounts) -> None:
        """Add another one's sums."""
        for name in ("ended", "attempts", "publications", "republications", "users_done"):
            getattr(self, name).update(getattr(other, name))
        for mine, others in ((self.duration, other.duration), (self.wait, other.wait)):
            for kind, histogram in others.items():
                mine[kind].add(histogram.buckets, histogram.count, histogram.total)
        for stage, seconds in other.stages.items():
            self.stages[stage] += seconds


class BatchHistory:
    """The sums of the runs that are over, and which those are. Not for several threads at once."""

    def __init__(self) -> None:
        self._over = BatchCounts()
        self._counted: set[int] = set()
        self._floor = 0

    def read(self, session: Session) -> BatchCounts:
        """The sums as the session's snapshot has them; what it shows of runs that are over is kept."""
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


def _counts(session: Session, runs: list[int]) -> BatchCounts:
    counts = BatchCounts()
    for row in session.execute(_SUMS, {"runs": runs}):
        counts.ended[row.kind, row.status] += row.batches
        counts.attempts[row.kind] += row.attempts
        counts.publications[row.kind] += row.publications
        counts.republications[row.kind] += row.republications
        if row.status == "done":
            counts.users_done[row.kind] += row.users
            counts.duration[row.kind].add(row.durations, row.durations_count, row.durations_total)
            counts.wait[row.kind].add(row.waits, row.waits_count, row.waits_total)
    for row in session.execute(_STAGES, {"runs": runs}):
        counts.stages[row.stage] += row.seconds
    return counts


def _histogram(name: str, seconds: str) -> str:
    """Columns of a histogram; a clock that was set back makes no negative time."""
    buckets = ", ".join(f"count(*) FILTER (WHERE {seconds} <= {bound})" for bound in BUCKETS)
    return f"ARRAY[{buckets}] AS {name}s, count({seconds}) AS {name}s_count, coalesce(sum(greatest({seconds}, 0)), 0)::float AS {name}s_total"  # noqa: E501


_REMEMBERED = 1_000
_RUNS = text(f"SELECT id, NOT ({one_of('status', RUN_UNFINISHED)}) AS over FROM runs WHERE id > :floor ORDER BY id")  # noqa: S608 - our own constants
_SUMS = text(
    f"""
    SELECT kind, status, count(*) AS batches, sum(attempts) AS attempts, sum(publications) AS publications,
        sum(greatest(publications - 1, 0)) AS republications, sum(users) AS users,
        {_histogram("duration", "duration")}, {_histogram("wait", "wait")}
    FROM (
        SELECT r.kind, b.status, b.attempts, b.publications, b.users,
            extract(epoch FROM b.finished_at - b.started_at)::float AS duration,
            extract(epoch FROM b.started_at - b.queued_at)::float AS wait
        FROM batches b JOIN runs r ON r.id = b.run_id
        WHERE b.run_id = ANY(:runs) AND {one_of("b.status", BATCH_ENDED)}
    ) AS ended
    GROUP BY kind, status
    """  # noqa: S608 - our own constants; the values are bound
)
_STAGES = text(
    """
    SELECT stage.key AS stage, sum(stage.value::float) AS seconds
    FROM batches b CROSS JOIN LATERAL jsonb_each_text(b.timings) AS stage
    WHERE b.run_id = ANY(:runs) AND b.status = 'done' AND b.timings IS NOT NULL
    GROUP BY stage.key
    """
)
