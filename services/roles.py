"""Who may do what in the database: five roles, each with what its processes need and nothing else.

Guarantees: writing them is one transaction and may be repeated; a role then has exactly what `ROLES` says, whatever it
had before. No password is in a statement: the server gets a SCRAM verifier. Only the owner changes tables; partitions,
which a night needs before its rows come, workers make through one function that can do nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from psycopg import sql
from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import OperationalError

from core.database import driver_connection
from core.errors import NightshiftError, UsageError
from models.partitions import PARTITION_FUNCTION, partition_function

OWNER, WORKER, EXPORTER = "nightshift_owner", "nightshift_worker", "nightshift_exporter"
WEB, DASHBOARDS = "nightshift_web", "nightshift_dashboards"
# Of the status page, and of migrations.
_NOT_FOR_WORKERS = ("alembic_version", "audit_trail", "operators", "strategies", "web_sessions")
_FIRST_WITH_MAINTAIN = 170_000
_SHORT = {"default_transaction_read_only": "on", "statement_timeout": "10s", "lock_timeout": "2s"}


@dataclass(frozen=True, slots=True)
class Role:
    """A role that may log in.

    Attributes:
        purpose: whose it is, for people.
        every: rights on every table and view but those of `tables`.
        tables: rights by table or sequence: `SELECT`, or of some columns: `SELECT (id, name)`. Empty: none.
        members: roles whose rights it has.
        settings: what its sessions begin with.
        partitions: whether it may have partitions made.
        sessions: so many at once; -1: as many as there are.
    """

    name: str
    purpose: str
    every: str = ""
    tables: Mapping[str, str] = field(default_factory=dict)
    members: tuple[str, ...] = ()
    settings: Mapping[str, str] = field(default_factory=dict)
    partitions: bool = False
    sessions: int = -1


ROLES = (
    Role(OWNER, "migrations, and the worker of maintenance, which drops partitions: it owns the tables"),
    Role(
        WORKER,
        "workers and beat: rows of every table but the accounts of the status page; partitions by a function",
        every="SELECT, INSERT, UPDATE, DELETE, MAINTAIN",
        tables=dict.fromkeys(_NOT_FOR_WORKERS, "")
        | {"alembic_version": "SELECT", "strategies": "SELECT", "audit_trail": "INSERT"}
        # Sample users come with their ids, and the next id is set behind them.
        | {"users_id_seq": "UPDATE", "simulations_id_seq": "UPDATE"},
        partitions=True,
    ),
    Role(
        EXPORTER,
        "metrics and the pages of the status page: reads; writes its logins and its trail; no user's address",
        every="SELECT",
        tables={
            "users": "SELECT (id, name, notify, created_at, live)",
            "operators": "SELECT, UPDATE (password_hash)",
            "web_sessions": "SELECT, INSERT, UPDATE, DELETE",
            "audit_trail": "SELECT, INSERT",
        },
        members=("pg_monitor",),
        settings={"lock_timeout": "2s"},
    ),
    Role(
        WEB,
        "the exporter where operators act on the status page: what a worker may, and what the exporter may",
        members=(WORKER, EXPORTER),
    ),
    Role(
        DASHBOARDS,
        "Grafana's data source: what the dashboards show, neither names nor addresses of users",
        tables={
            **dict.fromkeys(("assets", "batches", "held_prices", "price_windows", "quarantine", "runs"), "SELECT"),
            "leaderboard": "SELECT (day, rank, user_id, simulation_id, strategy, equity, total_return)",
        },
        # A dashboard must never be what a night waits for.
        settings=_SHORT,
        sessions=8,
    ),
)


def write_roles(engine: Engine, *, passwords: Mapping[str, str] | None = None) -> list[str]:
    """Make the roles that are missing and give each exactly its rights, in the database of `engine`; those made.

    Whoever may make roles does all of it. The owner gives the rights, if the roles are there.

    Args:
        engine: as a superuser, or as the owner.
        passwords: by role; the others keep theirs, and a new one without cannot log in.

    Raises:
        UsageError: a password of no role.
        NightshiftError: what is missing this role may not make, or others hold locks of tables that change their owner.
    """
    if unknown := set(passwords or ()) - {role.name for role in ROLES}:
        raise UsageError(f"there is no role {min(unknown)}")
    try:
        with engine.begin() as connection:
            connection.execute(text("SET LOCAL lock_timeout = '2s'"))
            made = _make(connection, passwords or {}) if _may_make_roles(connection) else _all_there(connection)
            # Before the owner takes over: with another's rights, the function would make partitions of another's.
            driver_connection(connection).execute(partition_function().encode())
            _take_over(connection)
            for role in ROLES:
                _give(connection, role)
            return made
    except OperationalError as error:
        raise NightshiftError(
            "the roles are as they were: the tables change their owner, and others use them; again when no night runs"
            f" ({type(error.orig).__name__})"
        ) from None


def _may_make_roles(connection: Connection) -> bool:
    asked = text("SELECT rolsuper OR rolcreaterole FROM pg_roles WHERE rolname = current_user")
    return bool(connection.execute(asked).scalar_one())


def _present(connection: Connection) -> set[str]:
    return set(connection.execute(text("SELECT rolname FROM pg_roles")).scalars())


def _all_there(connection: Connection) -> list[str]:
    if missing := [role.name for role in ROLES if role.name not in _present(connection)]:
        raise NightshiftError(f"there is no role {missing[0]}, and yours may not make it: run this once as a superuser")
    return []


def _make(connection: Connection, passwords: Mapping[str, str]) -> list[str]:
    present = _present(connection)
    missing = [role.name for role in ROLES if role.name not in present]
    for name in missing:
        _run(connection, "CREATE ROLE {} LOGIN", name)
    for role in ROLES:
        _run(connection, "ALTER ROLE {} NOSUPERUSER NOCREATEROLE NOREPLICATION NOBYPASSRLS LOGIN", role.name)
        limit = sql.SQL("ALTER ROLE {} CONNECTION LIMIT {}").format(sql.Identifier(role.name), role.sessions)
        driver_connection(connection).execute(limit)
        for member in role.members:
            _run(connection, "GRANT {} TO {}", member, role.name)
        for name, value in role.settings.items():
            statement = sql.SQL("ALTER ROLE {} SET {} = {}")
            driver_connection(connection).execute(
                statement.format(sql.Identifier(role.name), sql.Identifier(name), value)
            )
        if role.name in passwords:
            _set_password(connection, role.name, passwords[role.name])
    return missing


def _set_password(connection: Connection, role: str, password: str) -> None:
    raw = driver_connection(connection)
    # Made here, so that the server's log of statements cannot show the password.
    verifier = raw.pgconn.encrypt_password(password.encode(), role.encode(), b"scram-sha-256").decode()
    raw.execute(sql.SQL("ALTER ROLE {} PASSWORD {}").format(sql.Identifier(role), verifier))


def _take_over(connection: Connection) -> None:
    """Have the owner own the database and all that is of ours in it; nothing where he does already."""
    for statement in connection.execute(_OTHERS_OWN, {"owner": OWNER}).scalars().all():
        connection.exec_driver_sql(statement)


def _give(connection: Connection, role: Role) -> None:
    """Exactly the rights of `role`, in place of those that it has."""
    if role.name == OWNER:
        _run(connection, "REVOKE ALL ON FUNCTION " + PARTITION_FUNCTION + " FROM PUBLIC")
        _run_on_database(connection, "REVOKE CONNECT, TEMPORARY ON DATABASE {} FROM PUBLIC")
        return
    _run_on_database(connection, "GRANT CONNECT ON DATABASE {} TO {}", role.name)
    _run(connection, "GRANT USAGE ON SCHEMA public TO {}", role.name)
    for kind in ("TABLES", "SEQUENCES"):
        _run(connection, f"REVOKE ALL ON ALL {kind} IN SCHEMA public FROM {{}}", role.name)
    default = "ALTER DEFAULT PRIVILEGES FOR ROLE {} IN SCHEMA public "
    _run(connection, default + "REVOKE ALL ON TABLES FROM {}", OWNER, role.name)
    if role.every:
        every = _known(connection, role.every)
        _run(connection, f"GRANT {every} ON ALL TABLES IN SCHEMA public TO {{}}", role.name)
        # Partitions are made all the time.
        _run(connection, default + f"GRANT {every} ON TABLES TO {{}}", OWNER, role.name)
    for table, rights in role.tables.items():
        _run(connection, "REVOKE ALL ON {} FROM {}", table, role.name)
        if rights:
            _run(connection, f"GRANT {rights} ON {{}} TO {{}}", table, role.name)
    if role.partitions:
        # Bulk copies go through temporary tables.
        _run_on_database(connection, "GRANT TEMPORARY ON DATABASE {} TO {}", role.name)
        _run(connection, "GRANT EXECUTE ON FUNCTION " + PARTITION_FUNCTION + " TO {}", role.name)


def _known(connection: Connection, rights: str) -> str:
    # Before 17 nobody but the owner may ANALYZE, and PostgreSQL skips it with a warning: autovacuum does it later.
    knows_maintain = driver_connection(connection).info.server_version >= _FIRST_WITH_MAINTAIN
    return rights if knows_maintain else rights.removesuffix(", MAINTAIN")


def _run(connection: Connection, statement: str, *names: str) -> None:
    # The statements are those above, the names are quoted.
    composed = sql.SQL(statement).format(*map(sql.Identifier, names))
    driver_connection(connection).execute(composed)


def _run_on_database(connection: Connection, statement: str, *names: str) -> None:
    _run(connection, statement, str(connection.execute(text("SELECT current_database()")).scalar_one()), *names)


@dataclass(frozen=True, slots=True)
class Rights:
    """What a role may in fact, by the catalog: tables and views by right, the partitions' left out."""

    role: str
    purpose: str
    members: Sequence[str]
    rights: Mapping[str, Sequence[str]]


def read_rights(connection: Connection) -> list[Rights]:
    """Of each role that is there, what the catalog says."""
    present = _present(connection)
    found: dict[str, dict[str, list[str]]] = {role.name: {} for role in ROLES}
    for row in connection.execute(_RIGHTS, {"roles": list(found)}):
        found[row.role].setdefault(row.privilege, []).append(row.name)
    return [Rights(role.name, role.purpose, role.members, found[role.name]) for role in ROLES if role.name in present]


_RIGHTS = text(
    """
    SELECT r.rolname AS role, a.privilege_type AS privilege, c.relname AS name
    FROM pg_class c, aclexplode(c.relacl) a JOIN pg_roles r ON r.oid = a.grantee
    WHERE c.relnamespace = 'public'::regnamespace AND NOT c.relispartition AND r.rolname = ANY(:roles)
    UNION ALL
    SELECT r.rolname, a.privilege_type, c.relname || '.' || att.attname
    FROM pg_attribute att JOIN pg_class c ON c.oid = att.attrelid, aclexplode(att.attacl) a
    JOIN pg_roles r ON r.oid = a.grantee
    WHERE c.relnamespace = 'public'::regnamespace AND r.rolname = ANY(:roles)
    UNION ALL
    SELECT :owner, 'OWNER', c.relname FROM pg_class c
    WHERE c.relnamespace = 'public'::regnamespace AND NOT c.relispartition AND c.relkind IN ('r', 'p', 'v')
        AND pg_get_userbyid(c.relowner) = :owner
    ORDER BY 1, 2, 3
    """
).bindparams(owner=OWNER)
# Identity sequences go with their tables, indexes too.
_OTHERS_OWN = text(
    """
    SELECT format('ALTER DATABASE %I OWNER TO %I', datname, CAST(:owner AS text)) FROM pg_database
    WHERE datname = current_database() AND pg_get_userbyid(datdba) <> :owner
    UNION ALL
    SELECT format('ALTER %s %s OWNER TO %I',
        CASE relkind WHEN 'v' THEN 'VIEW' WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END, c.oid::regclass,
        CAST(:owner AS text))
    FROM pg_class c
    WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p', 'v', 'S')
        AND pg_get_userbyid(c.relowner) <> :owner
        AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = c.oid AND d.classid = 'pg_class'::regclass
            AND d.deptype IN ('a', 'i') AND c.relkind = 'S')
    UNION ALL
    SELECT format('ALTER FUNCTION %s OWNER TO %I', p.oid::regprocedure, CAST(:owner AS text)) FROM pg_proc p
    WHERE p.pronamespace = 'public'::regnamespace AND pg_get_userbyid(p.proowner) <> :owner
    """
)
