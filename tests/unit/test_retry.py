"""Each error class that the libraries define has its decision here; one that a new version adds fails until it has."""

from __future__ import annotations

import errno
import inspect
import socket
import ssl
from collections.abc import Iterator, Mapping
from datetime import timedelta
from types import ModuleType

import httpx
import kombu.exceptions
import psycopg
import psycopg.errors
import pytest
import redis.exceptions
import sqlalchemy.exc
from hypothesis import given
from hypothesis import strategies as st

from core.errors import PublishError, ServerUnreachableError, StaleClaimError, UsageError
from services.retry import Decision, decide_retry

RETRY, SUSPECT, DIVIDE, FAIL = Decision.RETRY, Decision.SUSPECT, Decision.DIVIDE, Decision.FAIL

SQLSTATES = {
    RETRY: """
        08000 08001 08003 08004 08006 08007 08P01 25006 40000 40001 40003 40P01 53000 53100 53200 53300 55006
        55P03 57000 57P01 57P02 57P03 57P05 58000 58030 72000
    """,
    SUSPECT: """
        09000 20000 21000 25P03 25P04 27000 2F000 2F002 2F003 2F004 2F005 38000 38001 38002 38003 38004 39000
        39001 39004 39P01 39P02 39P03 57014 P0000 P0001 P0002 P0003 P0004 XX000
    """,
    DIVIDE: """
        22000 22001 22002 22003 22004 22005 22007 22008 22009 2200B 2200C 2200D 2200F 2200G 2200H 2200L 2200M
        2200N 2200S 2200T 22010 22011 22012 22013 22014 22015 22016 22018 22019 2201B 2201E 2201F 2201G 2201W
        2201X 22021 22022 22023 22024 22025 22026 22027 2202E 2202G 2202H 22030 22031 22032 22033 22034 22035
        22036 22037 22038 22039 2203A 2203B 2203C 2203D 2203E 2203F 2203G 22P01 22P02 22P03 22P04 22P05 22P06
        23000 23001 23502 23503 23505 23514 23P01 40002 44000 54000 54001 54011 54023
    """,
    FAIL: """
        02000 02001 03000 0A000 0B000 0F000 0F001 0L000 0LP01 0P000 0Z000 0Z002 10608 24000 25000 25001 25002
        25003 25004 25005 25007 25008 25P01 25P02 26000 28000 28P01 2B000 2BP01 2D000 34000 3B000 3B001 3D000
        3F000 42000 42501 42601 42602 42611 42622 42701 42702 42703 42704 42710 42712 42723 42725 42803 42804
        42809 42830 42846 42883 428C9 42939 42P01 42P02 42P03 42P04 42P05 42P06 42P07 42P08 42P09 42P10 42P11
        42P12 42P13 42P14 42P15 42P16 42P17 42P18 42P19 42P20 42P21 42P22 53400 55000 55P02 55P04 57P04 58P01
        58P02 58P03 F0000 F0001 HV000 HV001 HV002 HV004 HV005 HV006 HV007 HV008 HV009 HV00A HV00B HV00C HV00D
        HV00J HV00K HV00L HV00M HV00N HV00P HV00Q HV00R HV010 HV014 HV021 HV024 HV090 HV091 XX001 XX002
    """,
}
WITHOUT_STATE = {
    RETRY: "OperationalError ConnectionTimeout CancellationTimeout _WaitTimeout PipelineAborted",
    SUSPECT: "Error InterfaceError DatabaseError InternalError ProgrammingError NotSupportedError",
    DIVIDE: "DataError IntegrityError",
}
REDIS = {
    RETRY: """
        ConnectionError TimeoutError BusyLoadingError ReadOnlyError TryAgainError OutOfMemoryError ClusterDownError
        MasterDownError MaxConnectionsError WatchError LockError LockNotOwnedError
    """,
    SUSPECT: "ChildDeadlockedError IncorrectPolicyType",
    FAIL: """
        RedisError AuthenticationError AuthorizationError AuthenticationWrongNumberOfArgsError ExternalAuthProviderError
        InvalidResponse ResponseError DataError PubSubError NoScriptError ExecAbortError NoPermissionError ModuleError
        NoSuchFieldsetError RedisClusterException ClusterError AskError MovedError ClusterCrossSlotError
        SlotNotCoveredError CrossSlotTransactionError InvalidPipelineStack
    """,
}
KOMBU = {
    RETRY: """
        OperationalError BatchPublishError TimeoutError ConnectionError ResourceError InconsistencyError LimitExceeded
        ConnectionLimitExceeded ChannelLimitExceeded
    """,
    FAIL: """
        KombuError ChannelError SerializationError EncodeError DecodeError NotBoundError MessageStateError
        VersionMismatch SerializerNotInstalled ContentDisallowed HttpError
    """,
}
HTTPX = {
    RETRY: """
        HTTPError RequestError TransportError TimeoutException ConnectTimeout ReadTimeout WriteTimeout PoolTimeout
        NetworkError ConnectError ReadError WriteError CloseError ProtocolError RemoteProtocolError ProxyError
        DecodingError
    """,
    FAIL: """
        UnsupportedProtocol LocalProtocolError TooManyRedirects InvalidURL CookieConflict StreamError StreamConsumed
        StreamClosed ResponseNotRead RequestNotRead
    """,
}
SQLALCHEMY = {
    RETRY: "TimeoutError DisconnectionError InvalidatePoolError",
    SUSPECT: "StatementError NoResultFound MultipleResultsFound PendingRollbackError EmulatedDBAPIException",
    FAIL: """
        SQLAlchemyError ArgumentError DuplicateColumnError ObjectNotExecutableError NoSuchModuleError NoForeignKeysError
        AmbiguousForeignKeysError ConstraintColumnNotFoundError CircularDependencyError CompileError
        UnsupportedCompilationError IdentifierError InvalidRequestError IllegalStateChangeError NoInspectionAvailable
        NoDBAPILoaded ResourceClosedError NoSuchColumnError AmbiguousColumnError NoReferenceError AwaitRequired
        MissingGreenlet NoReferencedTableError NoReferencedColumnError NoSuchTableError UnreflectableTableError
        UnboundExecutionError
    """,
}
ERRNOS = {
    RETRY: """
        EADDRINUSE EADDRNOTAVAIL EAGAIN EALREADY EBUSY ECONNABORTED ECONNREFUSED ECONNRESET EDEADLK EDQUOT EHOSTDOWN
        EHOSTUNREACH EINPROGRESS EINTR EIO EMFILE ENETDOWN ENETRESET ENETUNREACH ENFILE ENOBUFS ENOLCK ENOSPC ENOTCONN
        EPIPE ESHUTDOWN ESTALE ETIMEDOUT
    """,
    SUSPECT: "ENOMEM",
}


def by_name(table: Mapping[Decision, str]) -> dict[str, Decision]:
    """The table turned over; a name that stands in it twice is a mistake."""
    pairs = [(name, decision) for decision, names in table.items() for name in names.split()]
    assert len(pairs) == len(dict(pairs))
    return dict(pairs)


def errors_of(module: ModuleType) -> Iterator[type[Exception]]:
    """The exceptions that a module has, without its warnings."""
    for value in vars(module).values():
        if inspect.isclass(value) and issubclass(value, Exception) and not issubclass(value, Warning):
            yield value


def decided(error: BaseException) -> Decision:
    return decide_retry(error, 1).decision


def bare(kind: type[Exception]) -> Exception:
    """An error of this class, whatever arguments its constructor wants."""
    return kind.__new__(kind)


def test_every_state_of_postgresql_has_its_decision() -> None:
    found = {state: decided(bare(kind)) for kind in errors_of(psycopg.errors) if (state := _state(kind))}
    assert found == by_name(SQLSTATES)


def _state(kind: type[Exception]) -> str | None:
    return kind.sqlstate if issubclass(kind, psycopg.Error) else None


def test_every_error_of_the_driver_itself_has_its_decision() -> None:
    kinds = [kind for kind in errors_of(psycopg.errors) if issubclass(kind, psycopg.Error) and not _state(kind)]
    assert {kind.__name__: decided(bare(kind)) for kind in kinds} == by_name(WITHOUT_STATE)


def test_a_state_that_nobody_knows_yet_is_decided_by_its_class() -> None:
    def unknown(state: str) -> psycopg.Error:
        kind = type("New", (psycopg.Error,), {"sqlstate": state})
        return kind("new")  # type: ignore[no-any-return]

    states = {"08999": RETRY, "22999": DIVIDE, "40999": RETRY, "53999": RETRY, "P0999": SUSPECT, "ZZ999": FAIL}
    assert {state: decided(unknown(state)) for state in states} == states


@pytest.mark.parametrize(
    ("module", "table"),
    [(redis.exceptions, REDIS), (kombu.exceptions, KOMBU), (httpx, HTTPX)],
    ids=["redis", "kombu", "httpx"],
)
def test_every_error_of_redis_kombu_and_httpx_has_its_decision(module: ModuleType, table: dict[Decision, str]) -> None:
    kinds = [kind for kind in errors_of(module) if kind is not httpx.HTTPStatusError]
    assert {kind.__name__: decided(bare(kind)) for kind in kinds} == by_name(table)


@pytest.mark.parametrize(
    ("status", "decision"), [(408, RETRY), (425, RETRY), (429, RETRY), (500, RETRY), (503, RETRY), (404, FAIL)]
)
def test_an_answer_over_http_is_decided_by_its_status(status: int, decision: Decision) -> None:
    request = httpx.Request("GET", "http://127.0.0.1")
    response = httpx.Response(status, request=request)
    assert decided(httpx.HTTPStatusError("no", request=request, response=response)) == decision


def test_every_error_of_sqlalchemy_has_its_decision() -> None:
    kinds = [kind for kind in errors_of(sqlalchemy.exc) if not issubclass(kind, sqlalchemy.exc.DBAPIError)]
    assert {kind.__name__: decided(bare(kind)) for kind in kinds} == by_name(SQLALCHEMY)


@pytest.mark.parametrize(
    "kind", [kind for kind in errors_of(sqlalchemy.exc) if issubclass(kind, sqlalchemy.exc.DBAPIError)]
)
def test_what_sqlalchemy_wraps_is_decided_by_what_is_inside(kind: type[sqlalchemy.exc.DBAPIError]) -> None:
    def wrapped(inside: BaseException, *, lost: bool = False) -> Decision:
        return decided(kind("SELECT 1", {}, inside, connection_invalidated=lost))

    assert wrapped(psycopg.errors.DeadlockDetected("x")) == RETRY
    assert wrapped(psycopg.errors.NotNullViolation("x")) == DIVIDE
    assert wrapped(psycopg.errors.UndefinedTable("x")) == FAIL
    assert wrapped(psycopg.InterfaceError("x")) == SUSPECT
    assert wrapped(psycopg.InterfaceError("x"), lost=True) == RETRY
    assert wrapped(psycopg.errors.IdleInTransactionSessionTimeout("x"), lost=True) == SUSPECT


def test_every_number_of_the_operating_system_has_its_decision() -> None:
    expected = {getattr(errno, name): decision for name, decision in by_name(ERRNOS).items()}
    found = {number: decided(OSError(number, "x")) for number in errno.errorcode}
    assert found == {number: expected.get(number, FAIL) for number in errno.errorcode}
    assert decided(OSError("no number")) == SUSPECT


@pytest.mark.parametrize(
    ("error", "decision"),
    [
        (socket.gaierror(socket.EAI_NONAME, "x"), RETRY),
        (ssl.SSLEOFError(ssl.SSL_ERROR_EOF, "x"), RETRY),
        (ssl.SSLCertVerificationError(1, "x"), FAIL),
        (redis.exceptions.ResponseError("MISCONF Errors writing to the AOF file: No space left on device"), RETRY),
        (redis.exceptions.ResponseError("ERR unknown command"), FAIL),
        (PublishError("x"), RETRY),
        (ServerUnreachableError("x"), RETRY),
        (StaleClaimError("x"), Decision.FORGET),
        (SystemExit(0), RETRY),
        (KeyboardInterrupt(), RETRY),
        (UsageError("x"), SUSPECT),
        (MemoryError(), SUSPECT),
        (ZeroDivisionError(), SUSPECT),
        (RecursionError(), SUSPECT),
    ],
    ids=repr,
)
def test_everything_else(error: BaseException, decision: Decision) -> None:
    assert decided(error) == decision


@given(attempt=st.integers(-5, 10**9))
def test_delays_double_up_to_a_minute(attempt: int) -> None:
    delay, following = (decide_retry(OSError(), number).delay for number in (attempt, attempt + 1))
    assert timedelta(seconds=0.5) <= delay <= timedelta(seconds=60)
    expected = min(2 * delay, timedelta(seconds=60)) if attempt >= 1 else timedelta(seconds=0.5)
    assert following == expected
