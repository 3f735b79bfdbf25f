"""The table of backups: what was begun, what came of it. The store says what exists; this, what failed as well."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta

from sqlalchemy import Engine, TextClause, text

from core.database import driver_connection, session_scope
from core.errors import NightshiftError
from core.log import mask_secrets
from services.backup_programs import APPLICATION
from services.locks import BACKUP_LOCK

_BUSY = text(
    """
    SELECT a.pid FROM pg_locks l JOIN pg_stat_activity a USING (pid)
    WHERE l.locktype = 'advisory' AND l.granted
        AND ((l.classid::bigint << 32) | l.objid::bigint) = :key AND l.database = a.datid
    """
)
# pg_dump of a backup whose process was killed: nobody waits for it any more.
_END_LEFTOVERS = text(
    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
    " WHERE application_name = :name AND datname = current_database() AND pid <> pg_backend_pid()"
)
_INTERRUPTED = text(
    "UPDATE backups SET state = 'failed', finished_at = :now, error = 'it was interrupted' WHERE state = 'running'"
)
_BEGIN = text(
    "INSERT INTO backups (place, name, state, started_at) VALUES (:place, :name, 'running', :now)"
    " ON CONFLICT (place, name) DO NOTHING"
)
_DONE = text(
    "UPDATE backups SET state = 'done', finished_at = :now, bytes = :bytes, error = NULL"
    " WHERE place = :place AND name = :name"
)
_FAILED = text(
    "UPDATE backups SET state = 'failed', finished_at = :now, error = :error WHERE place = :place AND name = :name"
)
# A store knows backups that this table does not: those made before the database was restored.
_KNOWN = text(
    "INSERT INTO backups (place, name, state, started_at, finished_at, bytes)"
    " VALUES (:place, :name, 'done', :at, :at, :bytes)"
    " ON CONFLICT (place, name) DO UPDATE SET state = 'done', bytes = excluded.bytes"
)
_VERIFIED = text(
    "UPDATE backups SET verified_at = :now, verify_seconds = :seconds, verify_error = NULL"
    " WHERE place = :place AND name = :name"
)
_UNVERIFIED = text("UPDATE backups SET verify_error = :error WHERE place = :place AND name = :name")
_REMOVED = text("UPDATE backups SET state = 'removed' WHERE place = :place AND name = :name")
_GONE = text("UPDATE backups SET state = 'removed' WHERE place = :place AND state = 'done' AND name <> ALL(:names)")
_LAST = text("SELECT max(started_at) FROM backups WHERE state = 'done' AND place = :place")
_LAST_TRY = text("SELECT max(started_at) FROM backups WHERE place = :place")
_FOUND_WANTING = text("SELECT verify_error IS NOT NULL FROM backups WHERE place = :place AND name = :name")
_RETRY = timedelta(minutes=15)


@contextmanager
def one_at_a_time(engine: Engine, *, now: datetime) -> Iterator[None]:
    """Nobody else makes, checks or removes a backup of this database while the block runs.

    Raises:
        NightshiftError: somebody does.
    """
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        raw = driver_connection(connection)
        row = raw.execute("SELECT pg_try_advisory_lock(%s)", (BACKUP_LOCK,)).fetchone()
        if row is None or row[0] is not True:
            pid = connection.execute(_BUSY, {"key": BACKUP_LOCK}).scalar()
            raise NightshiftError(f"another backup or verification is at work (session {pid} of the database): wait")
        try:
            connection.execute(_END_LEFTOVERS, {"name": APPLICATION})
            connection.execute(_INTERRUPTED, {"now": now})
            yield
        finally:
            # The lock belongs to the session, which would otherwise go back to the pool with it.
            connection.invalidate()


def is_due(engine: Engine, place: str, *, now: datetime, every: timedelta) -> bool:
    """Whether the last good backup is old enough, and the last attempt not of this quarter of an hour."""
    with engine.connect() as connection:
        last = connection.execute(_LAST, {"place": place}).scalar_one()
        tried = connection.execute(_LAST_TRY, {"place": place}).scalar_one()
    if tried is not None and now - tried < min(_RETRY, every):
        return False
    return last is None or now - last >= every


def found_wanting(engine: Engine, place: str, name: str) -> bool:
    """Whether the last verification of a backup found something."""
    with engine.connect() as connection:
        return connection.execute(_FOUND_WANTING, {"place": place, "name": name}).scalar() is True


def forget_gone(engine: Engine, place: str, names: list[str]) -> None:
    """Whoever removes a backup by hand tells nobody: what is not among `names`, those of the store, is gone."""
    with session_scope(engine) as session:
        session.execute(_GONE, {"place": place, "names": names})


class Record:
    """The row of one backup."""

    def __init__(self, engine: Engine, place: str, name: str) -> None:
        self._engine = engine
        self._key = {"place": place, "name": name}

    def begin(self, *, now: datetime) -> bool:
        """It is being made; False, and nothing is written, if there is one of this name."""
        return self._write(_BEGIN, now=now) == 1

    def done(self, size: int, *, now: datetime) -> None:
        """It is complete; `size` in bytes."""
        self._write(_DONE, bytes=size, now=now)

    def failed(self, error: BaseException, *, now: datetime) -> None:
        """Making it failed."""
        self._write(_FAILED, error=_line(error), now=now)

    def known(self, size: int, *, at: datetime) -> None:
        """It is in the store, whether or not this table knew."""
        self._write(_KNOWN, bytes=size, at=at)

    def verified(self, seconds: float, *, now: datetime) -> None:
        """It was restored and found equal."""
        self._write(_VERIFIED, seconds=seconds, now=now)

    def unverified(self, error: BaseException) -> None:
        """It was found wanting."""
        self._write(_UNVERIFIED, error=_line(error))

    def removed(self) -> None:
        """It is gone."""
        self._write(_REMOVED)

    def _write(self, statement: TextClause, **values: object) -> int:
        with self._engine.begin() as connection:
            return connection.execute(statement, self._key | values).rowcount


def _line(error: BaseException) -> str:
    return mask_secrets(" ".join(str(error).split()) or type(error).__name__)[:1000]
