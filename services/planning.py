"""Planning: what is due becomes a run and its batches, in one transaction, before anything is published.

The batches are the outbox: a message only wakes a worker for one of them. That a day is planned once is UNIQUE(kind,
day) in the database; two beats, or ten, plan the same day once.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta

from sqlalchemy import text
from sqlalchemy.orm import Session

from core.errors import UsageError
from core.settings import Settings
from models.partitions import ensure_day_partitions, ensure_month_partitions
from schedules.calendar import dev_due_day, due_at, last_due_day
from services.locks import PLANNING_LOCK
from services.price_wait import Readiness, closes_ready, raise_missing

_ONE_DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Planned:
    """The new runs' ids, and the night that is due and waits for its closes, if one does."""

    runs: list[int]
    waiting: Readiness | None = None


@dataclass(frozen=True, slots=True)
class _Nights:
    """What there is to plan from: the newest nightly day, the first start, when nights began, and prices."""

    planned_through: date | None
    first_start: date | None
    began_at: datetime | None
    newest_close: date | None


def plan_due(session: Session, *, now: datetime, settings: Settings) -> Planned:
    """Plan a run for every day that is due and has none, oldest first, up to one that waits for its closes.

    Days further back than `catch_up_days` get a run marked `missed`, and word in the outbox: simulations are brought up
    over them by the next night, but nobody gets their leaderboards. The first run ever is that of the newest due day:
    simulations that began earlier are brought up to it from their start. A day that no close is recent enough to value
    is not planned until prices come: its night would quarantine everybody. A day that lacks closes waits for them until
    its price deadline; then it is planned with an alert. No later day overtakes it.
    """
    _plan_alone(session)
    nights = _nights(session)
    if nights.first_start is None:
        return Planned([])
    due = _due_day(nights, now, settings)
    if due < nights.first_start:
        return Planned([])
    first = due if nights.planned_through is None else nights.planned_through + _ONE_DAY
    priced = nights.newest_close and nights.newest_close + timedelta(days=settings.max_stale_days)
    days = [day for day in _days(first, due) if priced is not None and day <= priced]
    too_old = due - timedelta(days=settings.catch_up_days - 1)
    _miss(session, [day for day in days if day < too_old], now, settings)
    planned: list[int] = []
    for day in days:
        if day < too_old:
            continue
        readiness = _readiness(session, day, now, settings)
        if readiness is not None and not readiness.ready:
            return Planned(planned, readiness)
        run_id = _plan_run(session, (day, day), now, settings, requested_by="beat")
        if run_id is None:
            continue
        planned.append(run_id)
        if readiness is not None and readiness.late:
            raise_missing(session, readiness, now=now)
    return Planned(planned)


def _readiness(session: Session, day: date, now: datetime, settings: Settings) -> Readiness | None:
    """How far the day's closes are; None in development, where days pass faster than prices come."""
    if settings.dev_night_every is not None:
        return None
    return closes_ready(session, day, due=due_at(day, settings.nightly_at), now=now, settings=settings)


def plan_nights(
    session: Session, *, through: date, now: datetime, settings: Settings, requested_by: str, each: bool = False
) -> list[int]:
    """Plan all missing nights through a day: one run over the range, or with `each` a run a day; the new runs' ids.

    Empty if that day is planned already. Whatever partitions there are not are made under the planning lock: of many
    days, services.catching_up makes them before.

    Raises:
        UsageError: there are no simulations, none has begun by that day, or the day is not over yet.
    """
    _plan_alone(session)
    missing = missing_nights(session, through=through, now=now)
    ranges = [(day, day) for day in missing] if each else [(missing[0], missing[-1])] if missing else []
    planned = [_plan_run(session, days, now, settings, requested_by=requested_by) for days in ranges]
    return [run_id for run_id in planned if run_id is not None]


def missing_nights(session: Session, *, through: date, now: datetime) -> list[date]:
    """The days through one that no run has been planned for, oldest first. Takes no lock: somebody may plan them.

    Raises:
        UsageError: as `plan_nights`.
    """
    nights = _checked(session, through, now)
    assert nights.first_start is not None  # noqa: S101 (checked above)
    first = nights.first_start if nights.planned_through is None else nights.planned_through + _ONE_DAY
    return _days(first, through)


def plan_night(session: Session, *, day: date, now: datetime, settings: Settings, requested_by: str) -> list[int]:
    """Plan the night of one day; empty if it is planned already.

    Raises:
        UsageError: as `plan_nights`, or an earlier night is missing: nights run in order.
    """
    _plan_alone(session)
    nights = _checked(session, day, now)
    if nights.planned_through is not None:
        if day <= nights.planned_through:
            return []
        expected = nights.planned_through + _ONE_DAY
        if day != expected:
            raise UsageError(f"the nights from {expected} on come before {day}: use --through {day}")
    run_id = _plan_run(session, (day, day), now, settings, requested_by=requested_by)
    return [] if run_id is None else [run_id]


def _checked(session: Session, day: date, now: datetime) -> _Nights:
    nights = _nights(session)
    if nights.first_start is None:
        raise UsageError("there are no simulations: add some, e.g. with nightshift seed --users 1000")
    if day < nights.first_start:
        raise UsageError(f"no simulation has begun by {day}: the first begins on {nights.first_start}")
    if day >= now.date():
        raise UsageError(f"the day {day} is not over yet (it is {now:%Y-%m-%d %H:%M} UTC)")
    return nights


def _plan_alone(session: Session) -> None:
    """Hold the planning lock, so that the state of planning stays as it is read until the transaction ends."""
    session.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": PLANNING_LOCK})


def _nights(session: Session) -> _Nights:
    row = session.execute(
        text(
            "SELECT (SELECT max(day) FROM runs WHERE kind = 'nightly') AS planned_through,"
            " (SELECT min(start_day) FROM simulations) AS first_start,"
            " (SELECT min(created_at) FROM runs WHERE kind = 'nightly') AS began_at,"
            " (SELECT max(day) FROM closes) AS newest_close"
        )
    ).one()
    return _Nights(row.planned_through, row.first_start, row.began_at, row.newest_close)


def _due_day(nights: _Nights, now: datetime, settings: Settings) -> date:
    every = settings.dev_night_every
    if every is None or nights.first_start is None:
        return last_due_day(now, settings.nightly_at)
    return dev_due_day(nights.first_start, nights.began_at or now, now, every)


def _days(first: date, last: date) -> list[date]:
    return [first + _ONE_DAY * offset for offset in range((last - first).days + 1)]


def _miss(session: Session, days: Sequence[date], now: datetime, settings: Settings) -> None:
    """Mark the days as missed, and leave one word of all in the same transaction: after years there are thousands."""
    if not days:
        return
    values = {"days": days, "now": now, "batch_users": settings.batch_users}
    missed = sorted((row.day, row.id) for row in session.execute(_INSERT_MISSED, values))
    if missed:
        (first, _), (last, run_id) = missed[0], missed[-1]
        payload = {"run": run_id, "first_day": str(first), "day": str(last), "days": len(missed)}
        payload["catch_up_days"] = settings.catch_up_days
        session.execute(_NOTIFY_MISSED, {"key": f"day_missed:{last}", "payload": json.dumps(payload)})


def _plan_run(
    session: Session, days: tuple[date, date], now: datetime, settings: Settings, *, requested_by: str
) -> int | None:
    """Insert a nightly run, its batches and the partitions it writes to; None if the day has a run."""
    inserted = {
        "first_day": days[0],
        "day": days[1],
        "requested_by": requested_by,
        "now": now,
        "batch_users": settings.batch_users,
    }
    run_id: int | None = session.execute(_INSERT_RUN, inserted).scalar_one_or_none()
    if run_id is None:
        return None
    connection = session.connection()
    ensure_day_partitions(connection, _days(*days))
    ensure_month_partitions(connection, "trades", _days(*days))
    known = session.execute(_ROUGHLY).one()
    size = batch_size(settings.batch_users, users=known.users, simulations=known.simulations)
    values = {"run": run_id, "day": days[1], "size": size}
    users = session.execute(_INSERT_BATCHES, values).scalar_one()
    session.execute(text("UPDATE runs SET users = :users WHERE id = :run"), {"users": users, "run": run_id})
    return run_id


_INSERT_RUN = text(
    """
    INSERT INTO runs (kind, first_day, day, status, scope, requested_by, created_at, batch_users)
    VALUES ('nightly', :first_day, :day, 'planned', '{"all": true}', :requested_by, :now, :batch_users)
    ON CONFLICT (kind, day) WHERE kind = 'nightly' DO NOTHING
    RETURNING id
    """
)

_INSERT_MISSED = text(
    """
    INSERT INTO runs (kind, first_day, day, status, scope, requested_by, created_at, batch_users)
    SELECT 'nightly', day, day, 'missed', '{"all": true}', 'beat', :now, :batch_users
    FROM unnest(CAST(:days AS date[])) AS missed (day) ORDER BY day
    ON CONFLICT (kind, day) WHERE kind = 'nightly' DO NOTHING
    RETURNING id, day
    """
)

_NOTIFY_MISSED = text(
    "INSERT INTO outbox (kind, key, payload) VALUES ('day_missed', :key, :payload) ON CONFLICT (key) DO NOTHING"
)


def batch_size(limit: int, *, users: int, simulations: int) -> int:
    """How many users go into a batch of a night, at most `limit`; of unknown numbers (not positive), `limit`.

    A worker's memory is that of a batch's simulations: of users who have many of them, fewer go into one. And a night
    is cut into a number of batches that any usual number of workers can share evenly, so that all of them end at about
    the same time: of ten batches, three workers would take as long as of twelve.
    """
    if users <= 0 or simulations <= 0:
        return limit
    each = max(1, round(simulations / users))
    limit = max(1, limit // each)
    batches = _EVEN_BATCHES * math.ceil(users / (_EVEN_BATCHES * limit))
    return min(limit, max(1, _SMALL_BATCH // each, math.ceil(users / batches)))


def reprocess_batch_users(days: int) -> int:
    """How many users go into a batch of work that is done again over so many days: at least one.

    A day costs about as much for a few users as for hundreds, so they are not few; nor so many that other requests wait
    for seconds. A night does not wait for it (services.giving_way).
    """
    return max(1, _REPROCESS_USER_DAYS // max(1, days))


_REPROCESS_USER_DAYS = 150_000
_EVEN_BATCHES = 12  # or a multiple of it: two, three, four or six workers have equally many
_SMALL_BATCH = 2500  # below that, what a batch costs by itself is felt

# By the planner's statistics: to count them would take as long as the cutting.
_ROUGHLY = text(
    """
    SELECT u.reltuples::bigint AS users, s.reltuples::bigint AS simulations
    FROM pg_class s, pg_class u WHERE s.oid = 'simulations'::regclass AND u.oid = 'users'::regclass
    """
)

# Batches are cut by count, not by id, so that sparse ids make no empty ones; the ranges between them are closed up, so
# that no user can fall between two batches. Each cut walks over the index from the one before, which takes a third of
# the time of numbering all users; how many are in a range then needs no counting but in the last.
_INSERT_BATCHES = text(
    """
    WITH RECURSIVE cuts (user_lo) AS (
        SELECT min(user_id) FROM simulations WHERE start_day <= :day
        UNION ALL
        SELECT (
            SELECT user_id FROM (
                SELECT DISTINCT user_id FROM simulations WHERE user_id >= cuts.user_lo AND start_day <= :day
            ) AS owners ORDER BY user_id OFFSET :size LIMIT 1
        ) FROM cuts WHERE user_lo IS NOT NULL
    ),
    ranges AS (
        SELECT user_lo, lead(user_lo) OVER o AS user_hi, row_number() OVER o - 1 AS seq
        FROM cuts WHERE user_lo IS NOT NULL WINDOW o AS (ORDER BY user_lo)
    ),
    inserted AS (
        INSERT INTO batches (run_id, seq, user_lo, user_hi, users, status)
        SELECT :run, seq, user_lo,
            coalesce(user_hi, (SELECT max(user_id) + 1 FROM simulations WHERE start_day <= :day)),
            CASE WHEN user_hi IS NOT NULL THEN :size
                ELSE (SELECT count(DISTINCT user_id) FROM simulations WHERE user_id >= user_lo AND start_day <= :day)
            END,
            'planned'
        FROM ranges ORDER BY seq
        RETURNING users
    )
    SELECT coalesce(sum(users), 0) FROM inserted
    """
)
