"""What an error means for the batch it struck: a pure decision, exhaustive over what the libraries really raise."""

from __future__ import annotations

import errno
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum

import httpx
import kombu.exceptions
import psycopg
import redis.exceptions
import sqlalchemy.exc

from core.errors import PublishError, ServerUnreachableError, StaleClaimError

_BASE_SECONDS = 0.5
_CAP_SECONDS = 60.0


class Decision(StrEnum):
    """What to do with the batch.

    RETRY: the same work may succeed later without anybody changing anything; counts no attempt against its users.
    SUSPECT: a user's data may be to blame; counts an attempt, and the last one divides the batch.
    DIVIDE: a user's data is to blame; trying again cannot help.
    FAIL: neither: somebody must mend the system; dividing would only blame every user.
    FORGET: the batch is somebody else's now.
    """

    RETRY = "retry"
    SUSPECT = "suspect"
    DIVIDE = "divide"
    FAIL = "fail"
    FORGET = "forget"


@dataclass(frozen=True, slots=True)
class Retry:
    """The decision, and how long to wait before the batch is published again."""

    decision: Decision
    delay: timedelta


# https://www.postgresql.org/docs/current/errcodes-appendix.html
_TRANSIENT_CLASSES = (
    "08",  # connection exception
    "40",  # transaction rollback: serialization failure, deadlock
    "53",  # insufficient resources: out of memory, disk full, too many connections
    "57",  # operator intervention: shutdown, cancelled, crash recovery
    "58",  # system error: I/O
)
_TRANSIENT_STATES = (
    "25P03",  # idle in transaction session timeout
    "25P04",  # transaction timeout
    "55006",  # object in use
    "55P03",  # lock not available
)
_DATA_CLASSES = (
    "22",  # data exception
    "23",  # integrity constraint violation
    "54",  # program limit exceeded
)
_TRANSIENT_REDIS = (
    redis.exceptions.ConnectionError,  # BusyLoadingError among its subclasses
    redis.exceptions.TimeoutError,
    redis.exceptions.ReadOnlyError,
    redis.exceptions.TryAgainError,
    redis.exceptions.OutOfMemoryError,
)
_TRANSIENT_ERRNOS = frozenset(
    {
        errno.EAGAIN, errno.ECONNABORTED, errno.ECONNREFUSED, errno.ECONNRESET, errno.EDQUOT, errno.EHOSTUNREACH,
        errno.EINTR, errno.EMFILE, errno.ENETDOWN, errno.ENETUNREACH, errno.ENFILE, errno.ENOBUFS, errno.ENOSPC,
        errno.EPIPE, errno.ETIMEDOUT,
    }
)  # fmt: skip


def decide_retry(error: BaseException, attempt: int) -> Retry:
    """What to do after `error` in the given attempt (from 1). The delay doubles from 0.5 s up to a minute.

    The caller adds the jitter: this function is pure.
    """
    delay = min(_BASE_SECONDS * 2 ** min(max(attempt, 1) - 1, 16), _CAP_SECONDS)
    return Retry(_decide(error), timedelta(seconds=delay))


def _decide(error: BaseException) -> Decision:
    if isinstance(error, StaleClaimError):
        return Decision.FORGET
    if isinstance(error, kombu.exceptions.OperationalError | PublishError | ServerUnreachableError):
        return Decision.RETRY
    if isinstance(error, sqlalchemy.exc.SQLAlchemyError | psycopg.Error):
        return _of_database(error)
    if isinstance(error, redis.exceptions.RedisError):
        return Decision.RETRY if isinstance(error, _TRANSIENT_REDIS) else Decision.FAIL
    if isinstance(error, httpx.HTTPError):
        return _of_http(error)
    return _of_system(error)


def _of_database(error: sqlalchemy.exc.SQLAlchemyError | psycopg.Error) -> Decision:
    if isinstance(error, psycopg.Error):
        return _of_postgres(error)
    if isinstance(error, sqlalchemy.exc.DBAPIError) and not error.connection_invalidated:
        return Decision.SUSPECT if error.orig is None else _decide(error.orig)
    # A connection that SQLAlchemy knows is lost though the driver gave no state, or none free in the pool.
    lost = isinstance(error, sqlalchemy.exc.DBAPIError | sqlalchemy.exc.TimeoutError)
    return Decision.RETRY if lost else Decision.SUSPECT


def _of_postgres(error: psycopg.Error) -> Decision:
    state = error.sqlstate
    if state is None:
        # The client lost the connection, or never had one; other errors without a state are the driver's own.
        return Decision.RETRY if isinstance(error, psycopg.OperationalError) else Decision.SUSPECT
    if state.startswith(_TRANSIENT_CLASSES) or state in _TRANSIENT_STATES:
        return Decision.RETRY
    return Decision.DIVIDE if state.startswith(_DATA_CLASSES) else Decision.FAIL


def _of_http(error: httpx.HTTPError) -> Decision:
    if isinstance(error, httpx.HTTPStatusError):
        busy = error.response.status_code in {408, 425, 429} or error.response.is_server_error
        return Decision.RETRY if busy else Decision.FAIL
    return Decision.FAIL if isinstance(error, httpx.UnsupportedProtocol) else Decision.RETRY


def _of_system(error: BaseException) -> Decision:
    if isinstance(error, ConnectionError | TimeoutError):
        return Decision.RETRY
    if isinstance(error, OSError) and error.errno in _TRANSIENT_ERRNOS:
        return Decision.RETRY
    return Decision.SUSPECT
