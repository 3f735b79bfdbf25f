"""A worker's sessions: one that carries a lease, and another where that one was lost or interrupted."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psycopg
import sqlalchemy
from psycopg.pq import TransactionStatus
from sqlalchemy import Engine
from sqlalchemy.exc import OperationalError
from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_fixed

from core.database import driver_connection
from services.locks import Connection

_CANCEL_SECONDS = 5


@contextmanager
def leased_session(engine: Engine) -> Iterator[Connection]:
    """A session in autocommit mode. After an error it is closed, not pooled, lest it keep a lease."""
    with _connect(engine) as connection:
        session = driver_connection(connection)
        try:
            yield session
        except BaseException:
            # A signal's exception too: whatever ended the block, the session may still hold the lease.
            connection.invalidate()
            raise
        if session.closed:
            connection.invalidate()


@contextmanager
def usable_session(engine: Engine, session: Connection, patience: float) -> Iterator[Connection]:
    """This session if it stands between two statements; else another, and this one ended with all that it held.

    A session is lost with its connection, and of no more use when a signal interrupted it in the middle of a COPY.

    Args:
        patience: seconds to try for.

    Raises:
        OperationalError: the database is away.
    """
    if not session.closed and session.info.transaction_status is TransactionStatus.IDLE:
        yield session
        return
    _end(session)
    retrying = Retrying(
        stop=stop_after_delay(patience),
        wait=wait_fixed(0.25),
        retry=retry_if_exception_type(OperationalError),
        reraise=True,
    )
    with retrying(_connect, engine) as connection:
        yield driver_connection(connection)


def _connect(engine: Engine) -> sqlalchemy.Connection:
    return engine.connect().execution_options(isolation_level="AUTOCOMMIT")


def _end(session: Connection) -> None:
    if not session.closed:
        # The server would go on with the statement, and keep the locks, until it notices that nobody listens.
        with suppress(psycopg.Error):
            session.cancel_safe(timeout=_CANCEL_SECONDS)
        session.close()
