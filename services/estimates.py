"""What a request would do, before anybody does it.

Guarantees: the figures are those of the very run that the request would plan, for it is planned, counted and taken back
in a savepoint: nothing of it is written, and whatever refuses the request refuses this. How long it takes is an
estimate, and says so.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

from sqlalchemy import text
from sqlalchemy.orm import Session

from core.settings import Settings
from services.reprocessing import Requested, request
from services.scopes import Only, ReprocessScope
from services.targets import count_targets, find_targets

# Where nothing has been measured: what two cores do of a month of a hundred thousand users.
FALLBACK_SPEED = 200_000
# A run of fewer rows says how long it takes to begin, not how fast it is.
_ENOUGH_ROWS = 10_000
# Up to so many days of simulations, the rows that are replaced are counted.
MOST_COUNTED = 2_000_000
_SAMPLE = 10


@dataclass(frozen=True, slots=True)
class SampleTarget:
    """One simulation of the scope, and from which day on it would be done again."""

    user_id: int
    simulation_id: int
    strategy: str | None
    first_day: date


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a request would do.

    Attributes:
        days: from the first day through the newest night.
        user_days: days of simulations, each counted.
        rows_replaced: portfolio days that are there and would go.
        rows_counted: False: there are too many to count; `rows_replaced` is what the statistics of the partitions say.
        speed: user days a second; `measured` False: nothing has been measured, it is a constant.
        seconds: estimated, of a stack that has nothing else to do.
        sample: some of the simulations, the same ones each time.
    """

    users: int
    simulations: int
    first_day: date | None
    through: date | None
    days: int
    batches: int
    user_days: int
    rows_replaced: int
    rows_counted: bool
    speed: float
    measured: bool
    seconds: float
    sample: list[SampleTarget]


def estimate(
    session: Session,
    scope: ReprocessScope,
    *,
    first_day: date | None,
    only: Only,
    reason: str,
    now: datetime,
    settings: Settings,
) -> Estimate:
    """What services.reprocessing.request of the same scope would do; raises as it does."""
    taken_back = session.begin_nested()
    try:
        asked = request(
            session, scope, first_day=first_day, only=only, reason=reason, requested_by="estimate", now=now,
            settings=settings,
        )  # fmt: skip
        return _figures(session, asked)
    finally:
        taken_back.rollback()


def scope_size(session: Session, scope: ReprocessScope, first_day: date | None) -> int:
    """How many simulations a scope has, of which `only` may leave some out; one look at the table, nothing is locked.

    Raises:
        UsageError: something of the scope is unknown.
    """
    newest: date = session.execute(_NEWEST).scalar_one() or date.min
    return count_targets(session, find_targets(session, scope, first_day, newest)).simulations


def measured_speed(session: Session) -> float | None:
    """User days a second of the last runs, of reprocesses if there are any; None if nothing has been measured."""
    values = {"rows": _ENOUGH_ROWS}
    speeds = {row.kind: float(row.speed) for row in session.execute(_SPEED, values) if row.speed}
    return speeds.get("reprocess", speeds.get("nightly"))


def _figures(session: Session, asked: Requested) -> Estimate:
    speed = measured_speed(session)
    used = speed or FALLBACK_SPEED
    if asked.run is None or asked.first_day is None or asked.through is None:
        return Estimate(0, 0, None, None, 0, 0, 0, 0, True, used, speed is not None, 0.0, [])
    values: dict[str, Any] = {"run": asked.run, "first": asked.first_day, "through": asked.through}
    user_days: int = session.execute(_USER_DAYS, values).scalar_one()
    counted = user_days <= MOST_COUNTED
    replaced: int = session.execute(_COUNTED if counted else _BY_STATISTICS, values).scalar_one()
    sample = [SampleTarget(**row._asdict()) for row in session.execute(_CHOSEN, values | {"limit": _SAMPLE})]
    return Estimate(
        users=asked.users,
        simulations=asked.simulations,
        first_day=asked.first_day,
        through=asked.through,
        days=(asked.through - asked.first_day).days + 1,
        batches=asked.batches,
        user_days=user_days,
        rows_replaced=replaced,
        rows_counted=counted,
        speed=used,
        measured=speed is not None,
        seconds=round(user_days / used, 1),
        sample=sample,
    )


_NEWEST = text("SELECT max(day) FROM runs WHERE kind = 'nightly'")
# The time in which a batch of the run was in work: a run that was paused, or stood behind nights, is not slow for that.
# Of an old run, whose batches are gone, all of its time.
_SPEED = text(
    """
    SELECT k.kind, sum(r.rows) / nullif(sum(r.seconds), 0) AS speed
    FROM (VALUES ('nightly'), ('reprocess')) AS k (kind) CROSS JOIN LATERAL (
        SELECT rows, coalesce(
            (SELECT sum(extract(epoch FROM upper(w.span) - lower(w.span))) FROM (
                SELECT unnest(range_agg(tstzrange(started_at, finished_at))) AS span FROM batches
                WHERE run_id = runs.id AND status = 'done' AND finished_at > started_at
            ) AS w),
            extract(epoch FROM finished_at - started_at)
        ) AS seconds
        FROM runs
        WHERE kind = k.kind AND status = 'done' AND rows >= :rows AND started_at IS NOT NULL ORDER BY id DESC LIMIT 5
    ) AS r GROUP BY k.kind
    """
)
_USER_DAYS = text(
    "SELECT coalesce(sum(CAST(:through AS date) - first_day + 1), 0)::bigint FROM run_simulations WHERE run_id = :run"
)
_COUNTED = text(
    """
    SELECT count(*) FROM run_simulations k JOIN portfolio_days p
        ON p.user_id = k.user_id AND p.simulation_id = k.simulation_id AND p.day >= k.first_day
    WHERE k.run_id = :run AND p.day >= :first
    """
)
# Of a day at most as many as the scope has by then, and at most as many as there are.
_BY_STATISTICS = text(
    """
    SELECT coalesce(sum(least(
        (SELECT count(*) FROM run_simulations k WHERE k.run_id = :run AND k.first_day <= d.day::date),
        (SELECT CASE WHEN c.reltuples < 0 THEN NULL ELSE c.reltuples END FROM pg_class c
         WHERE c.oid = to_regclass('portfolio_days_' || to_char(d.day, 'YYYYMMDD')))
    )), 0)::bigint
    FROM generate_series(CAST(:first AS date), CAST(:through AS date), INTERVAL '1 day') AS d (day)
    """
)
_CHOSEN = text(
    """
    SELECT k.user_id, k.simulation_id, t.name AS strategy, k.first_day
    FROM (
        SELECT user_id, simulation_id, first_day FROM run_simulations WHERE run_id = :run
        ORDER BY hashint8(simulation_id), simulation_id LIMIT :limit
    ) AS k JOIN simulations s ON s.id = k.simulation_id LEFT JOIN strategies t ON t.code = s.strategy
    ORDER BY k.user_id, k.simulation_id
    """
)
