"""Days stop being kept: the horizon moves on, and rows that somebody still goes on from move into the archive.

Guarantees: both happen in one transaction, and only while nobody is at work who might write a day before the new
horizon, or was promised one: every open run finds the close before its first day. Nothing waits for long: what is in
others' hands is left to the next time, and whoever comes meanwhile waits for one look at the newest day.

The days are counted back from the newest night that is done, not from the clock: where nights stand still, or a clock
is years ahead, nothing goes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, timedelta

from sqlalchemy import Connection, Engine, text

from core.log import get_logger
from models.partitions import day_partition
from services.locks import PLANNING_LOCK
from services.retention_days import DAILY_FROM_SQL, RETENTION_LOCK, KeptDays

log = get_logger(__name__)

_ONE_DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Horizon:
    """Where the horizon is and where it may move.

    Attributes:
        daily_from: now.
        due: where it should be by the number of days that are kept.
        possible: how far it may go: `due`, or less where an open run needs more; never before `daily_from`.
        held_by: the open run that holds it back, if one does.
        newest: the newest night that is done; None: there is none, and nothing moves.
    """

    daily_from: date
    due: date
    possible: date
    held_by: int | None
    newest: date | None

    @property
    def moves(self) -> bool:
        """Whether there is anything to be done."""
        return self.possible > self.daily_from


@dataclass(frozen=True, slots=True)
class Moved:
    """What `move_horizon` did; `archived`: rows that went into the archive. `busy`: somebody was at work."""

    daily_from: date | None = None
    archived: int = 0
    busy: str | None = None


def horizon(connection: Connection, keep_days: int) -> Horizon:
    """Look, without any lock."""
    row = connection.execute(_LOOK).one()
    if row.newest is None:
        return Horizon(row.daily_from, row.daily_from, row.daily_from, None, None)
    due = max(row.newest - timedelta(days=keep_days - 1), row.daily_from)
    # The close before its first day is where it begins.
    needed = date.max if row.needed is None else row.needed - _ONE_DAY
    held_by = row.held_by if needed < due else None
    return Horizon(row.daily_from, due, max(min(due, needed), row.daily_from), held_by, row.newest)


def move_horizon(engine: Engine, keep_days: int) -> Moved:
    """Move it as far as it may go, and archive what simulations that were left out go on from."""
    with engine.begin() as connection:
        if not horizon(connection, keep_days).moves:
            return Moved()
        if not _try(connection, RETENTION_LOCK):
            return Moved(busy="days far back are being written")
        found = horizon(connection, keep_days)
        archived = _archive(connection, found)
        # At the end, as planning a night waits for it: since the look above, a run may have been planned.
        if not _try(connection, PLANNING_LOCK):
            connection.rollback()
            return Moved(busy="a run is being planned")
        if horizon(connection, keep_days).possible != found.possible:
            connection.rollback()
            return Moved(busy="a run was planned meanwhile")
        connection.execute(_MOVE, {"day": found.possible})
    log.info("days before are no longer kept", daily_from=found.possible, archived=archived)
    return Moved(found.possible, archived)


def clear_archive(engine: Engine) -> int:
    """Remove rows from the archive whose simulation has gone on; how many. Not while days are being done again."""
    with engine.begin() as connection:
        if not (_try(connection, RETENTION_LOCK) and _try(connection, PLANNING_LOCK)):
            return 0
        return connection.execute(_CLEAR).rowcount


def _try(connection: Connection, lock: int) -> bool:
    return bool(connection.execute(text("SELECT pg_try_advisory_xact_lock(:key)"), {"key": lock}).scalar_one())


def _archive(connection: Connection, found: Horizon) -> int:
    """Copy the newest rows that are on days between the old horizon and the new one that go."""
    if found.newest is None:
        return 0
    connection.execute(text("SET LOCAL work_mem = '64MB'"))
    for statement in _LEFT_OUT:
        # The days stand in the text, so that other partitions are left alone.
        connection.execute(text(statement.format(newest=found.newest, horizon=found.possible)))
    archived = 0
    for day in _going(connection, found):
        if not connection.execute(_ANYBODY).scalar_one():
            break
        name = day_partition(day).name
        if day not in KeptDays(found.possible):
            archived += connection.execute(text(_COPY.format(name=name))).rowcount
        connection.execute(text(_FOUND.format(name=name)))
    return archived


def _going(connection: Connection, found: Horizon) -> Iterator[date]:
    """The days with a partition between the two horizons, the newest first."""
    for name in connection.execute(_PARTITIONS).scalars().all():
        day = date.fromisoformat(name[-8:])
        if found.daily_from <= day < found.possible:
            yield day


_LOOK = text(
    f"""
    SELECT {DAILY_FROM_SQL} AS daily_from,
        (SELECT max(day) FROM runs WHERE kind = 'nightly' AND status = 'done') AS newest,
        o.first_day AS needed, o.id AS held_by
    FROM (SELECT) AS one LEFT JOIN LATERAL (
        SELECT id, first_day FROM runs WHERE status IN ('planned', 'running') ORDER BY first_day, id LIMIT 1
    ) AS o ON true
    """  # noqa: S608 (a constant)
)
_MOVE = text("UPDATE retention SET daily_from = :day")
# A night has brought everybody to its day but those whom it left out.
_LEFT_OUT = (
    """
    CREATE TEMPORARY TABLE left_out ON COMMIT DROP AS
    SELECT s.user_id, s.id AS simulation_id FROM simulations s
    WHERE s.start_day < '{horizon}' AND NOT EXISTS (
        SELECT FROM portfolio_days p
        WHERE p.day = '{newest}' AND p.user_id = s.user_id AND p.simulation_id = s.id
    )
    """,
    "ANALYZE pg_temp.left_out",
    """
    DELETE FROM pg_temp.left_out l USING portfolio_days p
    WHERE p.user_id = l.user_id AND p.simulation_id = l.simulation_id AND p.day >= '{horizon}'
    """,
)
_ANYBODY = text("SELECT EXISTS (SELECT FROM pg_temp.left_out)")
_COPY = """
INSERT INTO portfolio_archive SELECT p.* FROM {name} p
JOIN pg_temp.left_out l ON l.user_id = p.user_id AND l.simulation_id = p.simulation_id
ON CONFLICT DO NOTHING
"""
_FOUND = """
DELETE FROM pg_temp.left_out l USING {name} p
WHERE p.user_id = l.user_id AND p.simulation_id = l.simulation_id
"""
_PARTITIONS = text(
    """
    SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
    WHERE i.inhparent = 'portfolio_days'::regclass AND NOT i.inhdetachpending
      AND c.relname ~ '^portfolio_days_[0-9]{8}$'
    ORDER BY c.relname DESC
    """
)
# An open run may be about to go on from its row. Whoever was left out again has another row there, sooner or later.
_CLEAR = text(
    """
    DELETE FROM portfolio_archive a
    WHERE NOT EXISTS (SELECT FROM runs r WHERE r.status IN ('planned', 'running')) AND (
        EXISTS (
            SELECT FROM portfolio_archive n
            WHERE n.user_id = a.user_id AND n.simulation_id = a.simulation_id AND n.day > a.day
        ) OR EXISTS (
            SELECT FROM portfolio_days p
            WHERE p.user_id = a.user_id AND p.simulation_id = a.simulation_id
              AND p.day = (SELECT max(day) FROM runs WHERE kind = 'nightly' AND status = 'done')
        )
    )
    """
)
