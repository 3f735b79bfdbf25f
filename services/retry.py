"""What an error means for the batch it struck: a pure decision, exhaustive over what the libraries really raise.

RETRY refunds the attempt, so nothing that a batch can cause by itself may be RETRY: it would go round for ever. That is
why timeouts of a statement or of an idle transaction are SUSPECT, though a stalled server shows the same.
"""

from __future__ import annotations

import errno
import socket
import ssl
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import Any

import kombu.exceptions
import psycopg
import redis.exceptions
import sqlalchemy.exc

from core.errors import ComesAgainError, NightFirstError, PublishError, ServerUnreachableError, StaleClaimError

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


# By SQLSTATE, or its first two characters: the longer match decides, and what is not listed is a fault of the system.
# https://www.postgresql.org/docs/current/errcodes-appendix.html
_BY_STATE = {
    "08": Decision.RETRY,  # connection exception
    "09": Decision.SUSPECT,  # triggered action
    "20": Decision.SUSPECT,  # case not found
    "21": Decision.SUSPECT,  # cardinality: one row expected
    "22": Decision.DIVIDE,  # data exception
    "23": Decision.DIVIDE,  # integrity constraint violation
    "25006": Decision.RETRY,  # read-only: a failover is under way, or a host protects its last disk space
    "25P03": Decision.SUSPECT,  # idle in transaction session timeout: the worker stalled
    "25P04": Decision.SUSPECT,  # transaction timeout
    "27": Decision.SUSPECT,  # triggered data change
    "2F": Decision.SUSPECT,  # SQL routine
    "38": Decision.SUSPECT,  # external routine
    "39": Decision.SUSPECT,  # external routine invocation
    "40": Decision.RETRY,  # transaction rollback: serialization failure, deadlock
    "40002": Decision.DIVIDE,  # integrity constraint violation at the end of a transaction
    "44": Decision.DIVIDE,  # view's check option
    "53": Decision.RETRY,  # insufficient resources: out of memory, disk full, too many connections
    "53400": Decision.FAIL,  # a configured limit, such as temp_file_limit
    "54": Decision.DIVIDE,  # program limit exceeded: a row too big
    "55006": Decision.RETRY,  # object in use
    "55P03": Decision.RETRY,  # lock not available
    "57": Decision.RETRY,  # operator intervention: shutdown, crash recovery
    "57014": Decision.SUSPECT,  # cancelled, most likely by statement_timeout
    "57P04": Decision.FAIL,  # database dropped
    "58000": Decision.RETRY,  # system error
    "58030": Decision.RETRY,  # I/O error
    "72": Decision.RETRY,  # snapshot too old
    "P0": Decision.SUSPECT,  # PL/pgSQL: somebody's trigger
    "XX000": Decision.SUSPECT,  # internal error
}
_TRANSIENT_REDIS = (
    redis.exceptions.ConnectionError,  # BusyLoadingError among its subclasses
    redis.exceptions.TimeoutError,
    redis.exceptions.ReadOnlyError,
    redis.exceptions.TryAgainError,
    redis.exceptions.OutOfMemoryError,
    redis.exceptions.ClusterDownError,  # MasterDownError among its subclasses
    redis.exceptions.WatchError,
    redis.exceptions.LockError,
)
_REFUSED_BY_REDIS = (
    redis.exceptions.AuthenticationError,
    redis.exceptions.AuthorizationError,
    redis.exceptions.ExternalAuthProviderError,
)
# redis-py has no classes for these answers. MISCONF: its disk is full. BUSY: a script runs. NOREPLICAS: too few follow.
_TRANSIENT_ANSWERS = ("MISCONF ", "BUSY ", "NOREPLICAS ")
_TRANSIENT_BROKER = (
    kombu.exceptions.OperationalError,
    kombu.exceptions.BatchPublishError,
    kombu.exceptions.LimitExceeded,
    kombu.exceptions.ConnectionError,
)
_TRANSIENT_ERRNOS = frozenset(
    {
        errno.EADDRINUSE, errno.EADDRNOTAVAIL, errno.EAGAIN, errno.EALREADY, errno.EBUSY, errno.ECONNABORTED,
        errno.ECONNREFUSED, errno.ECONNRESET, errno.EDEADLK, errno.EDQUOT, errno.EHOSTDOWN, errno.EHOSTUNREACH,
        errno.EINPROGRESS, errno.EINTR, errno.EIO, errno.EMFILE, errno.ENETDOWN, errno.ENETRESET, errno.ENETUNREACH,
        errno.ENFILE, errno.ENOBUFS, errno.ENOLCK, errno.ENOSPC, errno.ENOTCONN, errno.EPIPE, errno.ESHUTDOWN,
        errno.ESTALE, errno.ETIMEDOUT,
    }
)  # fmt: skip


def decide_retry(error: BaseException, attempt: int) -> Retry:
    """What to do after `error` in the given attempt (from 1). The delay doubles from 0.5 s up to a minute; or is none.

    The caller adds the jitter: this function is pure.
    """
    if isinstance(error, NightFirstError | ComesAgainError):
        # The queue of the one is behind that of the night; of the other less is left to do.
        return Retry(Decision.RETRY, timedelta(0))
    delay = min(_BASE_SECONDS * 2 ** min(max(attempt, 1) - 1, 16), _CAP_SECONDS)
    return Retry(_decide(error), timedelta(seconds=delay))


def _decide(error: BaseException) -> Decision:
    if isinstance(error, StaleClaimError):
        return Decision.FORGET
    if isinstance(error, PublishError | ServerUnreachableError | SystemExit | KeyboardInterrupt):
        # The last two: the process was told to stop.
        return Decision.RETRY
    for classes, decide in _FAMILIES:
        if isinstance(error, classes):
            return decide(error)
    return _of_http(error) if _is_http(error) else Decision.SUSPECT


def _of_sqlalchemy(error: sqlalchemy.exc.SQLAlchemyError) -> Decision:
    if isinstance(error, sqlalchemy.exc.TimeoutError | sqlalchemy.exc.DisconnectionError):
        return Decision.RETRY
    if isinstance(error, sqlalchemy.exc.DBAPIError):
        if error.connection_invalidated:
            # SQLAlchemy knows that the connection is lost even where the driver gave no state.
            return _of_lost_connection(error.orig)
        return Decision.SUSPECT if error.orig is None else _decide(error.orig)
    depends_on_rows = (
        sqlalchemy.exc.StatementError,
        sqlalchemy.exc.NoResultFound,
        sqlalchemy.exc.MultipleResultsFound,
        sqlalchemy.exc.PendingRollbackError,
    )
    return Decision.SUSPECT if isinstance(error, depends_on_rows) else Decision.FAIL


def _of_lost_connection(error: BaseException | None) -> Decision:
    named = isinstance(error, psycopg.Error) and error.sqlstate is not None
    return _decide(error) if named and error is not None else Decision.RETRY


def _of_postgres(error: psycopg.Error) -> Decision:
    state = error.sqlstate
    if state is not None:
        return _BY_STATE.get(state) or _BY_STATE.get(state[:2], Decision.FAIL)
    # Without a state it is the client's own: a connection that it lost or never had, or a value that it cannot send.
    if isinstance(error, psycopg.OperationalError):
        return Decision.RETRY
    return Decision.DIVIDE if isinstance(error, psycopg.DataError | psycopg.IntegrityError) else Decision.SUSPECT


def _of_redis(error: Exception) -> Decision:
    if isinstance(error, _REFUSED_BY_REDIS):
        return Decision.FAIL
    answered = isinstance(error, redis.exceptions.ResponseError) and str(error).startswith(_TRANSIENT_ANSWERS)
    return Decision.RETRY if answered or isinstance(error, _TRANSIENT_REDIS) else Decision.FAIL


def _of_broker(error: Exception) -> Decision:
    return Decision.RETRY if isinstance(error, _TRANSIENT_BROKER) else Decision.FAIL


def _is_http(error: BaseException) -> bool:
    if "httpx" not in sys.modules:
        # Whoever raises one of its errors has imported it. A worker of nights never does, and it is 2 MiB.
        return False
    import httpx  # noqa: PLC0415 - see above

    return isinstance(error, httpx.HTTPError | httpx.InvalidURL | httpx.CookieConflict | httpx.StreamError)


def _of_http(error: BaseException) -> Decision:
    import httpx  # noqa: PLC0415 - see above

    if isinstance(error, httpx.HTTPStatusError):
        busy = error.response.status_code in {408, 425, 429} or error.response.is_server_error
        return Decision.RETRY if busy else Decision.FAIL
    mistakes = httpx.UnsupportedProtocol | httpx.LocalProtocolError | httpx.TooManyRedirects
    away = isinstance(error, httpx.HTTPError) and not isinstance(error, mistakes)
    return Decision.RETRY if away else Decision.FAIL


def _of_system(error: OSError) -> Decision:
    if isinstance(error, ssl.SSLError):
        return Decision.FAIL if isinstance(error, ssl.SSLCertVerificationError) else Decision.RETRY
    # A name that does not resolve has numbers of its own, which mean something else as an errno.
    if isinstance(error, ConnectionError | TimeoutError | socket.gaierror | socket.herror):
        return Decision.RETRY
    if error.errno in _TRANSIENT_ERRNOS:
        return Decision.RETRY
    # Memory may be short because of what the batch holds, and an error without a number may be anything.
    return Decision.SUSPECT if error.errno in {None, errno.ENOMEM} else Decision.FAIL


_FAMILIES: tuple[tuple[tuple[type[Exception], ...], Callable[[Any], Decision]], ...] = (
    ((sqlalchemy.exc.SQLAlchemyError,), _of_sqlalchemy),
    ((psycopg.Error,), _of_postgres),
    ((redis.exceptions.RedisError, redis.exceptions.RedisClusterException), _of_redis),
    (
        (
            kombu.exceptions.KombuError,
            kombu.exceptions.ConnectionError,
            kombu.exceptions.ChannelError,
            kombu.exceptions.HttpError,
        ),
        _of_broker,
    ),
    ((OSError,), _of_system),
)
