"""Work that somebody asks for again.

Quarantined simulations go back to work: their entries are cleared and a run is planned that brings their users from the
day they were left out to the newest night, in the transaction that clears them. Whoever is still at fault is
quarantined anew; whoever has all rows already is left alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import date, datetime, timedelta

from sqlalchemy import text
from sqlalchemy.orm import Session

from core.errors import UsageError
from core.settings import Settings
from models.partitions import ensure_day_partitions, ensure_month_partitions
from services.locks import GRANULE_USERS, PLANNING_LOCK

_NEWEST_NIGHT = text("SELECT max(day) FROM runs WHERE kind = 'nightly' AND status IN ('done', 'failed', 'cancelled')")
_UNKNOWN = text("SELECT min(id) FROM unnest(CAST(:users AS bigint[])) AS id WHERE id NOT IN (SELECT id FROM users)")
_CLEAR = text(
    """
    UPDATE quarantine SET cleared_at = :now
    WHERE cleared_at IS NULL AND (CAST(:users AS bigint[]) IS NULL OR user_id = ANY(:users))
    RETURNING user_id, day
    """
)
_INSERT_RUN = text(
    """
    INSERT INTO runs (kind, first_day, day, status, scope, reason, requested_by, created_at, batch_users, users)
    VALUES ('reprocess', :first_day, :day, 'planned', '{"quarantined": true}', :reason, :by, :now, :size, :users)
    RETURNING id
    """
)
_INSERT_BATCH = text(
    "INSERT INTO batches (run_id, seq, user_lo, user_hi, users, status)"
    " VALUES (:run, :seq, :lo, :hi, :users, 'planned')"
)


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
    cleared = session.execute(_CLEAR, {"now": now, "users": None if users is None else list(users)}).all()
    if not cleared:
        return None
    owners = sorted({row.user_id for row in cleared})
    first = min(*(row.day for row in cleared), newest)
    days = [first + timedelta(days=offset) for offset in range((newest - first).days + 1)]
    ensure_day_partitions(session.connection(), days)
    ensure_month_partitions(session.connection(), "trades", days)
    values = {"first_day": first, "day": newest, "reason": reason, "by": requested_by, "now": now}
    run_id: int = session.execute(
        _INSERT_RUN, values | {"size": settings.batch_users, "users": len(owners)}
    ).scalar_one()
    for seq, (lo, hi, count) in enumerate(_ranges(owners, settings.batch_users)):
        session.execute(_INSERT_BATCH, {"run": run_id, "seq": seq, "lo": lo, "hi": hi, "users": count})
    return run_id


def _ranges(owners: Sequence[int], size: int) -> Iterator[tuple[int, int, int]]:
    """Ranges of neighbours: users who are far apart do not share a batch, which would read all those between them.

    Where batches are large enough, none ends within a granule, which its neighbour would have to wait for.
    """
    start = 0
    for index in range(1, len(owners) + 1):
        count = index - start
        if index == len(owners):
            full = apart = True
        else:
            apart = owners[index] - owners[index - 1] > size
            edge = owners[index] // GRANULE_USERS != owners[index - 1] // GRANULE_USERS
            full = count >= size or (edge and count > size - GRANULE_USERS > 0)
        if full or apart:
            yield owners[start], owners[index - 1] + 1, index - start
            start = index
