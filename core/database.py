"""The database engine and the one commit point."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from sqlalchemy import Connection, Engine, create_engine
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session

from core.errors import ServerUnreachableError
from core.log import mask_secrets

# Ends what hangs: a worker that was stopped or cut off loses its session, and with it the batch lock and the right to
# commit. Keepalives notice a dead peer after 10 + 3 * 5 s instead of the kernel's two hours.
_KEEPALIVE = {"keepalives": 1, "keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3}


def sqlalchemy_url(url: str) -> str:
    """The URL with psycopg 3 as its driver, whatever scheme a person wrote."""
    for scheme in ("postgresql://", "postgres://"):
        if url.startswith(scheme):
            return "postgresql+psycopg://" + url.removeprefix(scheme)
    return url


def make_engine(url: str, *, application: str = "nightshift", pool_size: int = 5) -> Engine:
    """An engine whose sessions work in UTC, name themselves, and cannot hang for ever.

    Made after a fork, never before: two processes on one connection corrupt each other's protocol.
    """
    return create_engine(
        sqlalchemy_url(url),
        pool_size=pool_size,
        max_overflow=5,
        pool_pre_ping=True,
        pool_timeout=10,
        connect_args={
            "connect_timeout": 5,
            "application_name": application,
            "options": "-c TimeZone=UTC -c idle_in_transaction_session_timeout=60s",
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
