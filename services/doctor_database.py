"""PostgreSQL as a session finds it that sets nothing itself: version, dangerous settings, encoding.

Our own sessions choose their time zone and limits, so a connection of psycopg's alone is asked: it shows what
`ALTER SYSTEM`, `ALTER DATABASE` and `ALTER ROLE` left for everybody else, `pg_dump` and people above all.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import psycopg

from core.errors import ServerUnreachableError
from core.log import mask_secrets
from services.doctor_findings import Finding, Group, Severity

DATABASE = Group("database")
OLDEST = 16
Connection = psycopg.Connection[tuple[object, ...]]


@dataclass(frozen=True, slots=True)
class Rule:
    """One server setting. `bad` says whether a value is; `harm` follows the value in the line."""

    name: str
    bad: Callable[[str], bool]
    severity: Severity
    harm: str
    remedy: str


def _is(*values: str) -> Callable[[str], bool]:
    return lambda value: value.lower() in values


def _is_not(*values: str) -> Callable[[str], bool]:
    return lambda value: value.lower() not in values


def _below(limit: int) -> Callable[[str], bool]:
    return lambda value: int(value) < limit


_set = _is_not("0")
_ERROR, _WARNING = Severity.ERROR, Severity.WARNING
_SYSTEM = "ALTER SYSTEM SET {} = {}; SELECT pg_reload_conf()"
_RESTART = "ALTER SYSTEM SET {} = {}; then restart PostgreSQL"
_ANYWHERE = "ALTER DATABASE … RESET {0}, ALTER ROLE … RESET {0} or ALTER SYSTEM RESET {0}: where it is set"

RULES: tuple[Rule, ...] = (
    Rule("fsync", _is("off"), _ERROR, "a power cut destroys the database", _SYSTEM.format("fsync", "on")),
    Rule("full_page_writes", _is("off"), _ERROR, "a crash leaves pages that are half written",
         _SYSTEM.format("full_page_writes", "on")),
    Rule("synchronous_commit", _is("off"), _ERROR, "a crash loses nights that were reported done",
         _SYSTEM.format("synchronous_commit", "on")),
    Rule("autovacuum", _is("off"), _ERROR, "queues of work get slower every night until the database refuses writes",
         _SYSTEM.format("autovacuum", "on")),
    Rule("default_transaction_read_only", _is("on"), _ERROR, "nothing can be written",
         _ANYWHERE.format("default_transaction_read_only")),
    Rule("default_transaction_isolation", _is_not("read committed"), _ERROR, "workers beside each other fail",
         _ANYWHERE.format("default_transaction_isolation")),
    Rule("transaction_timeout", _set, _ERROR, "milliseconds: it ends batches and backups in the middle",
         _ANYWHERE.format("transaction_timeout")),
    Rule("wal_level", _is("minimal"), _WARNING, "no replica, and no recovery to a moment",
         _RESTART.format("wal_level", "replica")),
    Rule("max_locks_per_transaction", _below(128), _WARNING, "a backup of many partitions may run out of locks",
         _RESTART.format("max_locks_per_transaction", "256")),
    Rule("statement_timeout", _set, _WARNING, "milliseconds: it ends backups, migrations and long queries of people",
         _ANYWHERE.format("statement_timeout")),
    Rule("lock_timeout", _set, _WARNING, "milliseconds: it ends whoever waits for a lock, backups too",
         _ANYWHERE.format("lock_timeout")),
    Rule("idle_session_timeout", _set, _WARNING, "milliseconds: it ends connections that wait in a pool",
         _ANYWHERE.format("idle_session_timeout")),
    Rule("TimeZone", _is_not("utc", "etc/utc", "gmt", "etc/gmt", "universal", "zulu"), _WARNING,
         "people see other times than the logs, and other days than the nights'", _ANYWHERE.format("TimeZone")),
    Rule("server_encoding", _is_not("utf8"), _ERROR, "text is not checked and cannot be compared",
         "make the database anew with ENCODING 'UTF8' and restore a backup into it"),
)  # fmt: skip


@contextmanager
def plain_connection(url: str) -> Iterator[Connection]:
    """A connection that sets nothing.

    Raises:
        ServerUnreachableError: PostgreSQL does not answer.
    """
    try:
        connection = psycopg.connect(
            url.replace("postgresql+psycopg://", "postgresql://", 1),
            autocommit=True,
            connect_timeout=5,
            application_name="nightshift-doctor",
            # Of a database without an encoding psycopg would give bytes.
            client_encoding="utf8",
        )
    except psycopg.OperationalError as error:
        reason = mask_secrets((str(error).strip().splitlines() or [type(error).__name__])[0])
        raise ServerUnreachableError(f"PostgreSQL is out of reach: {reason}") from None
    with connection:
        yield connection


def examine_database(connection: Connection) -> Iterator[Finding]:
    """What is wrong with the server and the database that it serves."""
    wanted = [rule.name for rule in RULES]
    query = "SELECT name, setting FROM pg_settings WHERE lower(name) = ANY(%s)"
    values = {str(name): str(value) for name, value in connection.execute(query, ([n.lower() for n in wanted],))}
    yield judge_version(connection.info.server_version)
    yield from judge_settings(values)
    yield from _standby(connection)
    yield from _collation(connection)


def judge_version(version: int) -> Finding:
    """Of PostgreSQL, as libpq writes it: 180004."""
    name = f"PostgreSQL {version // 10_000}.{version % 10_000}"
    if version < OLDEST * 10_000:
        return DATABASE.error("version", f"{name} is too old", f"upgrade to {OLDEST} or newer; 18 is tested")
    return DATABASE.ok("version", name)


def judge_settings(values: Mapping[str, str]) -> Iterator[Finding]:
    """What is dangerous among the server's settings, in its own units; a setting that it does not know is left out."""
    bad = [rule for rule in RULES if rule.name in values and rule.bad(values[rule.name])]
    for rule in bad:
        detail = f"{rule.name} is {values[rule.name]}: {rule.harm}"
        yield Finding(DATABASE.name, rule.name.lower(), rule.severity, detail, rule.remedy)
    if not bad:
        yield DATABASE.ok("settings", f"{len(values)} settings of the server are safe")


def _standby(connection: Connection) -> Iterator[Finding]:
    row = connection.execute("SELECT pg_is_in_recovery()").fetchone()
    if row is not None and row[0] is True:
        yield DATABASE.error("standby", "this is a standby: nothing can be written", "connect to the primary")


def _collation(connection: Connection) -> Iterator[Finding]:
    query = (
        "SELECT datcollversion, pg_database_collation_actual_version(oid) FROM pg_database"
        " WHERE datname = current_database()"
    )
    row = connection.execute(query).fetchone()
    if row is not None and row[0] != row[1] and None not in row:
        yield DATABASE.error(
            "collation",
            f"the order of strings was version {row[0]} when indexes were built, and is {row[1]} now",
            "REINDEX DATABASE, then ALTER DATABASE … REFRESH COLLATION VERSION",
        )
