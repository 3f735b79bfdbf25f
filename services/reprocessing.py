"""Work that somebody asks for again: runs of chosen simulations, each from a day of its own.

Guarantees: the run, its scope and what made it necessary appear in one transaction; its batches hold its simulations
and nobody else (services.replacing). Days are done again through the newest night that has ended, always, because later
days depend on earlier ones. A request that is refused leaves nothing behind, and one with a key is planned once.

Who is in quarantine goes back to work only if that is asked for: the entries are cleared, and whoever is still at fault
is quarantined anew. Anybody else in quarantine has those of his days done again that he has; if it is for want of a
price, the batch finds out anew whether there is one.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta
from typing import Any

from sqlalchemy import Row, text
from sqlalchemy.orm import Session

from core.errors import UsageError
from core.settings import Settings
from models.partitions import ensure_day_partitions, ensure_month_partitions
from services.locks import GRANULE_USERS, PLANNING_LOCK
from services.planning import batch_size, reprocess_batch_users
from services.retention_days import REACH_BACK, check_kept, kept_days
from services.scopes import Only, ReprocessScope, check_line, check_scope
from services.targets import count_targets, find_targets, write_targets

# A batch locks the granules of its users, each of which takes a place in the server's table of locks.
MOST_GRANULES = 256

_NEWEST_NIGHT = text("SELECT max(day) FROM runs WHERE kind = 'nightly' AND status IN ('done', 'failed', 'cancelled')")
_OF_KEY = text("SELECT id, scope FROM runs WHERE request_key = :key")
_INSERT_RUN = text(
    """
    INSERT INTO runs (kind, first_day, day, status, scope, reason, requested_by, created_at, batch_users, request_key)
    VALUES ('reprocess', :day, :day, 'planned', :scope, :reason, :by, :now, :size, :key)
    RETURNING id
    """
)
_OWNERS = text("SELECT DISTINCT user_id FROM run_simulations WHERE run_id = :run ORDER BY 1")
_SCOPE = text(
    "SELECT count(*) AS simulations, min(first_day) AS first_day, sum(r.day - first_day + 1) AS days"
    " FROM run_simulations CROSS JOIN (SELECT day FROM runs WHERE id = :run) AS r WHERE run_id = :run"
)
_REQUESTED = text(
    """
    SELECT r.id AS run, r.users, r.first_day, r.day AS through,
        (SELECT count(*) FROM run_simulations WHERE run_id = r.id) AS simulations,
        (SELECT count(*) FROM batches WHERE run_id = r.id AND parent_id IS NULL) AS batches
    FROM runs r WHERE r.id = :run
    """
)
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


@dataclass(frozen=True, slots=True)
class Requested:
    """A planned run and what it does again, from `first_day` on; `run` is None if there is nothing to do.

    Attributes:
        repeated: the run was there already: the key was used before.
    """

    run: int | None
    users: int = 0
    simulations: int = 0
    first_day: date | None = None
    through: date | None = None
    batches: int = 0
    repeated: bool = False


def request(  # noqa: PLR0913 - what a request says, by name
    session: Session,
    scope: ReprocessScope,
    *,
    first_day: date | None,
    only: Only = Only.EVERYTHING,
    reason: str,
    requested_by: str,
    now: datetime,
    settings: Settings,
    key: str | None = None,
) -> Requested:
    """Plan the run that does a scope again, from `first_day` (or each simulation's start) through the newest night.

    Nothing is published: the next tick does it, or services.relay.

    Args:
        session: flushed, not committed.
        scope: whose days.
        first_day: None for whoever is in quarantine: each from the day on which he was left out.
        only: which of the scope.
        reason: one line, kept with the run.
        requested_by: one line, kept with the run.
        now: the moment of the request.
        settings: for the size of batches.
        key: the same key twice is the same request, and plans one run.

    Raises:
        UsageError: services.scopes.check_scope refuses the scope, something of it is unknown, nobody is in it, no night
            has been run, the day is before the scope's first start, before what is kept, or after the newest night, or
            the key is that of another request.
    """
    check_scope(scope, first_day, only)
    for line, option, longest in ((reason, "--reason", 1000), (requested_by, "requested_by", 200), (key, "key", 100)):
        if line is not None:
            check_line(line, option, longest)
    session.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": PLANNING_LOCK})
    document = scope.model_dump(mode="json", exclude_defaults=True)
    document |= {"only": str(only)} | ({} if first_day is None else {"from": str(first_day)})
    known = None if key is None else _of_key(session, key, document)
    if known is not None:
        return known
    newest = _newest_night(session, first_day, now)
    targets = find_targets(session, scope, first_day, newest)
    found = count_targets(session, targets)
    if not found.simulations and first_day is None:
        return Requested(None)
    if not found.simulations or found.first_start is None:
        raise UsageError(f"nobody is in the scope ({' and '.join(scope.named())}): there is nothing to do")
    if first_day is not None:
        if first_day < found.first_start:
            raise UsageError(
                f"no simulation of the scope begins before {found.first_start}: it cannot be --from {first_day}"
            )
        check_kept(session, first_day, found.first_start)
    run = begin_scoped_run(session, newest, document, Request(reason, requested_by, now), settings, key)
    write_targets(session, run, targets, only, clear=scope.quarantined, now=now)
    return _requested(session, run) if cut_scoped_run(session, run, settings) else Requested(None)


def retry_quarantined(
    session: Session,
    *,
    reason: str,
    requested_by: str,
    now: datetime,
    settings: Settings,
    users: Sequence[int] | None = None,
) -> int | None:
    """`request` whoever is in quarantine, or those of `users`; the run's id, None if there is nothing to do.

    Raises:
        UsageError: no night has been run yet, or there is no such user.
    """
    scope = ReprocessScope(users=tuple(users or ()), quarantined=True)
    asked = request(
        session, scope, first_day=None, reason=reason, requested_by=requested_by, now=now, settings=settings
    )
    return asked.run


def _of_key(session: Session, key: str, document: Mapping[str, object]) -> Requested | None:
    row = session.execute(_OF_KEY, {"key": key}).one_or_none()
    if row is None:
        return None
    if row.scope != document:
        raise UsageError(f"the key {key!r} is that of run {row.id}, which does something else: use another key")
    return replace(_requested(session, row.id), repeated=True)


def _requested(session: Session, run: int) -> Requested:
    return Requested(**session.execute(_REQUESTED, {"run": run}).one()._asdict())


def _newest_night(session: Session, first_day: date | None, now: datetime) -> date:
    """The newest night that has ended; UsageError if there is none, or if it is before `first_day`."""
    newest: date | None = session.execute(_NEWEST_NIGHT).scalar_one()
    if newest is None:
        raise UsageError("no night has been run yet: there is nothing to catch up with")
    if first_day is not None and first_day > newest:
        over = "" if first_day < now.date() else f" is not over yet (it is {now:%Y-%m-%d %H:%M} UTC) and"
        raise UsageError(f"the day {first_day}{over} has no night to be done again: the newest is that of {newest}")
    return newest


def begin_scoped_run(
    session: Session,
    through: date,
    scope: Mapping[str, object],
    request: Request,
    settings: Settings,
    key: str | None = None,
) -> int:
    """Insert a run through a day; the caller adds its `run_simulations` and has `cut_scoped_run` finish it."""
    values = {
        "day": through,
        "scope": json.dumps(scope),
        "reason": request.reason,
        "by": request.requested_by,
        "now": request.now,
        "size": settings.batch_users,
        "key": key,
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
    kept = kept_days(session)
    if scope.first_day <= kept.daily_from:
        session.execute(REACH_BACK, {"run": run_id})
        scope = session.execute(_SCOPE, {"run": run_id}).one()
    owners = list(session.execute(_OWNERS, {"run": run_id}).scalars())
    values = {"run": run_id, "first_day": scope.first_day, "users": len(owners)}
    last: date = session.execute(_SET_SCOPE, values).scalar_one()
    days = [scope.first_day + timedelta(days=offset) for offset in range((last - scope.first_day).days + 1)]
    ensure_day_partitions(session.connection(), [day for day in days if day in kept])
    ensure_month_partitions(session.connection(), "trades", days)
    size = batch_size(_users_of_a_batch(settings, scope), users=len(owners), simulations=scope.simulations)
    batches = [
        {"run": run_id, "seq": seq, "lo": lo, "hi": hi, "users": count}
        for seq, (lo, hi, count) in enumerate(_apart(_ranges(owners, size)))
    ]
    session.execute(_INSERT_BATCH, batches)
    # Whether to look these simulations up or to read a range is decided by their number, which nobody has counted yet.
    session.execute(text("ANALYZE run_simulations"))
    return int(scope.simulations)


def _users_of_a_batch(settings: Settings, scope: Row[Any]) -> int:
    """At most so many, by the days that one has on average; about a granule's are made so many that it is not cut."""
    users = reprocess_batch_users(math.ceil(scope.days / scope.simulations))
    if GRANULE_USERS < 2 * users < 3 * GRANULE_USERS:
        users = 3 * GRANULE_USERS // 2
    return min(settings.batch_users, users)


def _apart(ranges: Iterable[tuple[int, int, int]]) -> list[tuple[int, int, int]]:
    """In an order in which neighbours do not begin in one granule, for which they would wait for each other."""
    seen: dict[int, int] = {}
    order = []
    for number, (lo, hi, count) in enumerate(ranges):
        turn = seen[lo // GRANULE_USERS] = seen.get(lo // GRANULE_USERS, -1) + 1
        order.append((turn, number, (lo, hi, count)))
    return [found for _, _, found in sorted(order)]


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
