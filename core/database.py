"""The database engine and the one commit point."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import psycopg
from sqlalchemy import Connection, Engine, create_engine
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from core.errors import ServerUnreachableError
from core.log import mask_secrets

# A peer that is gone without a word: noticed after 10 + 3 * 5 s instead of the kernel's two hours where nothing is on
# its way, and after 30 s instead of a quarter of an hour where something is.
_KEEPALIVE = {
    "keepalives": 1,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 30_000,
}
# The same from the server's side, where a session that nobody ends keeps its locks; and a client's end is noticed even
# in the middle of a statement. Milliseconds.
_SERVER_KEEPALIVE = {
    "tcp_keepalives_idle": 10,
    "tcp_keepalives_interval": 5,
    "tcp_keepalives_count": 3,
    "tcp_user_timeout": 30_000,
    "client_connection_check_interval": 5_000,
}


@dataclass(frozen=True, slots=True)
class SessionLimits:
    """When PostgreSQL ends a statement, a wait for a lock, a session idle in its transaction. None: never."""

    statement: timedelta | None = None
    lock: timedelta | None = None
    idle_in_transaction: timedelta | None = timedelta(seconds=60)

    def options(self) -> dict[str, int]:
        """PostgreSQL's settings, in milliseconds."""
        limits = {
            "statement_timeout": self.statement,
            "lock_timeout": self.lock,
            "idle_in_transaction_session_timeout": self.idle_in_transaction,
        }
        return {name: round(limit.total_seconds() * 1000) for name, limit in limits.items() if limit is not None}


def sqlalchemy_url(url: str) -> str:
    """The URL with psycopg 3 as its driver, whatever scheme a person wrote."""
    for scheme in ("postgresql://", "postgres://"):
        if url.startswith(scheme):
            return "postgresql+psycopg://" + url.removeprefix(scheme)
    return url


def make_engine(
    url: str, *, application: str = "nightshift", pool_size: int = 5, limits: SessionLimits | None = None
) -> Engine:
    """An engine whose sessions work in UTC, name themselves, and end when their client is gone.

    Made after a fork, never before: two processes on one connection corrupt each other's protocol.
    """
    options = {"TimeZone": "UTC"} | _SERVER_KEEPALIVE | (limits or SessionLimits()).options()
    return create_engine(
        sqlalchemy_url(url),
        pool_size=pool_size,
        max_overflow=5,
        pool_pre_ping=True,
        pool_timeout=10,
        connect_args={
            "connect_timeout": 5,
            "application_name": application,
            "options": " ".join(f"-c {name}={value}" for name, value in options.items()),
            **_KEEPALIVE,
        },
    )


@contextmanager
def session_scope(engine: Engine) -> Iterator[Session]:
    """A session that commits at the end of the block, and rolls back if it raises. Services flush, never commit."""
    with Session(engine, expire_on_commit=False) as session, session.begin():
        yield session


def driver_connection(connection: Connection) -> psycopg.Connection[tuple[object, ...]]:
    """psycopg's own connection below SQLAlchemy's, for COPY; it shares the transaction."""
    raw = connection.connection.driver_connection
    if not isinstance(raw, psycopg.Connection):
        raise TypeError(f"expected a psycopg connection, got {type(raw).__name__}")
    return raw


def check_database(engine: Engine) -> None:
    """Raise ServerUnreachableError, in one line and without the password, unless the database answers."""
    try:
        with engine.connect():
            pass
    except OperationalError as error:
        reason = mask_secrets(str(error.orig).strip().splitlines()[0])
        raise ServerUnreachableError(f"PostgreSQL is out of reach: {reason} (NIGHTSHIFT_DATABASE_URL)") from None
