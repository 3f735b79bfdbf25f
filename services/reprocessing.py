"""Work that somebody asks for again: runs of chosen simulations, each from a day of its own.

Guarantees: the run, its scope and what made it necessary appear in one transaction; its batches hold its simulations
and nobody else (services.replacing).

Quarantined simulations go back to work: their entries are cleared and a run is planned that brings them from the day
they were left out to the newest night. Whoever is still at fault is quarantined anew; whoever has all rows already is
left alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta

from sqlalchemy import text
from sqlalchemy.orm import Session

from core.errors import UsageError
from core.settings import Settings
from models.partitions import ensure_day_partitions, ensure_month_partitions
from services.locks import GRANULE_USERS, PLANNING_LOCK
from services.planning import batch_size

# A batch locks the granules of its users, each of which takes a place in the server's table of locks.
MOST_GRANULES = 256

_NEWEST_NIGHT = text("SELECT max(day) FROM runs WHERE kind = 'nightly' AND status IN ('done', 'failed', 'cancelled')")
_UNKNOWN = text("SELECT min(id) FROM unnest(CAST(:users AS bigint[])) AS id WHERE id NOT IN (SELECT id FROM users)")
# A whole user in quarantine is left out of corrections too: what they did again for others, he still has to have.
_RETRY = text(
    """
    WITH cleared AS (
        UPDATE quarantine SET cleared_at = :now
        WHERE cleared_at IS NULL AND (CAST(:users AS bigint[]) IS NULL OR user_id = ANY(:users))
        RETURNING user_id, simulation_id, day, run_id, created_at
    )
    INSERT INTO run_simulations (run_id, user_id, simulation_id, first_day)
    SELECT :run, s.user_id, s.id, least(min(c.day), min(owed.day), :newest)
    FROM cleared c JOIN simulations s ON s.user_id = c.user_id AND s.id = coalesce(c.simulation_id, s.id)
    LEFT JOIN LATERAL (
        SELECT min(k.first_day) AS day
        FROM runs r JOIN run_simulations k ON k.run_id = r.id AND k.user_id = s.user_id AND k.simulation_id = s.id
        WHERE c.simulation_id IS NULL AND r.scope -> 'closes' IS NOT NULL
          AND (r.id = c.run_id OR r.created_at >= c.created_at)
    ) AS owed ON true
    WHERE s.start_day <= :newest AND (owed.day IS NOT NULL OR NOT EXISTS (
        SELECT FROM portfolio_days p WHERE p.day = :newest AND p.user_id = s.user_id AND p.simulation_id = s.id
    ))
    GROUP BY s.user_id, s.id
    """
)
_INSERT_RUN = text(
    """
    INSERT INTO runs (kind, first_day, day, status, scope, reason, requested_by, created_at, batch_users)
    VALUES ('reprocess', :day, :day, 'planned', :scope, :reason, :by, :now, :size)
    RETURNING id
    """
)
_OWNERS = text("SELECT DISTINCT user_id FROM run_simulations WHERE run_id = :run ORDER BY 1")
_SCOPE = text("SELECT count(*) AS simulations, min(first_day) AS first_day FROM run_simulations WHERE run_id = :run")
_NO_RUN = text("DELETE FROM runs WHERE id = :run")
_SET_SCOPE = text("UPDATE runs SET first_day = :first_day, users = :users WHERE id = :run RETURNING day")
_INSERT_BATCH = text(
    "INSERT INTO batches (run_id, seq, user_lo, user_hi, users, status)"
    " VALUES (:run, :seq, :lo, :hi, :users, 'planned')"
)


@dataclass(frozen=True, slots=True)
class Request:
    """Who asks for work to be done again, why and when."""

    reason: str
    requested_by: str
    now: datetime


def retry_quarantined(
    session: Session,
    *,
    reason: str,
    requested_by: str,
    now: datetime,
    settings: Settings,
    users: Sequence[int] | None = None,
) -> int | None:
    """Clear the quarantine, or that of `users`, and plan the run that catches up; its id, None if there is nothing.

    Raises:
        UsageError: no night has been run yet, or there is no such user.
    """
    session.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": PLANNING_LOCK})
    newest: date | None = session.execute(_NEWEST_NIGHT).scalar_one()
    if newest is None:
        raise UsageError("no night has been run yet: there is nothing to catch up with")
    if users is not None:
        unknown = session.execute(_UNKNOWN, {"users": list(users)}).scalar_one()
        if unknown is not None:
            raise UsageError(f"there is no user {unknown}: nightshift quarantine lists who is in quarantine")
    run = begin_scoped_run(session, newest, {"quarantined": True}, Request(reason, requested_by, now), settings)
    whose = None if users is None else list(users)
    session.execute(_RETRY, {"run": run, "now": now, "users": whose, "newest": newest})
    return run if cut_scoped_run(session, run, settings) else None


def begin_scoped_run(
    session: Session, through: date, scope: Mapping[str, object], request: Request, settings: Settings
) -> int:
    """Insert a run through a day; the caller adds its `run_simulations` and has `cut_scoped_run` finish it."""
    values = {
        "day": through,
        "scope": json.dumps(scope),
        "reason": request.reason,
        "by": request.requested_by,
        "now": request.now,
        "size": settings.batch_users,
    }
    run_id: int = session.execute(_INSERT_RUN, values).scalar_one()
    return run_id


def cut_scoped_run(session: Session, run_id: int, settings: Settings) -> int:
    """Cut a run's scope into batches and make its partitions; how many simulations it has.

    Of none, the run is gone: a run without a scope would be one of all simulations.
    """
    scope = session.execute(_SCOPE, {"run": run_id}).one()
    if not scope.simulations:
        session.execute(_NO_RUN, {"run": run_id})
        return 0
    owners = list(session.execute(_OWNERS, {"run": run_id}).scalars())
    values = {"run": run_id, "first_day": scope.first_day, "users": len(owners)}
    last: date = session.execute(_SET_SCOPE, values).scalar_one()
    days = [scope.first_day + timedelta(days=offset) for offset in range((last - scope.first_day).days + 1)]
    ensure_day_partitions(session.connection(), days)
    ensure_month_partitions(session.connection(), "trades", days)
    size = batch_size(settings.batch_users, users=len(owners), simulations=scope.simulations)
    batches = [
        {"run": run_id, "seq": seq, "lo": lo, "hi": hi, "users": count}
        for seq, (lo, hi, count) in enumerate(_ranges(owners, size))
    ]
    session.execute(_INSERT_BATCH, batches)
    # Whether to look these simulations up or to read a range is decided by their number, which nobody has counted yet.
    session.execute(text("ANALYZE run_simulations"))
    return int(scope.simulations)


def _ranges(owners: Sequence[int], size: int) -> Iterator[tuple[int, int, int]]:
    """Ranges of at most `size` owners in at most `MOST_GRANULES` granules: first user, last user + 1, owners.

    Where batches are large enough, none ends within a granule, which its neighbour would have to wait for.
    """
    start, granules = 0, 1
    for index in range(1, len(owners) + 1):
        count = index - start
        if index < len(owners):
            edge = owners[index] // GRANULE_USERS != owners[index - 1] // GRANULE_USERS
            full = count >= size or (edge and count > size - GRANULE_USERS > 0)
            if not full and not (edge and granules == MOST_GRANULES):
                granules += edge
                continue
        yield owners[start], owners[index - 1] + 1, count
        start, granules = index, 1
