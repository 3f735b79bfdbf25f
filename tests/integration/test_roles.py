"""Least privilege: each role does its work with what it has, and is refused what it must not do."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta

import psycopg
import pytest
from sqlalchemy import Engine, make_url, text
from sqlalchemy.exc import DBAPIError, ProgrammingError

from core.database import make_engine
from core.errors import NightshiftError
from services.partitions import ensure_ahead
from services.retention import maintain
from services.roles import DASHBOARDS, EXPORTER, OWNER, ROLES, WEB, WORKER, read_rights, write_roles
from services.seeding import seed
from tests.support.catalog import describe
from tests.support.cli import environment, run_process
from tests.support.database import new_database
from tests.support.exporter import exporter, scrape
from tests.support.nights import LAST_SAMPLE_DAY, NOW, Night, rows, scalar, settings
from workers.embedded import ServerUrls

PASSWORD = "of-the-roles"  # noqa: S105


@dataclass(frozen=True, slots=True)
class Database:
    """A database with a night, made by the worker's role after the owner had its tables."""

    admin: Engine
    engines: dict[str, Engine]
    url: str

    def url_of(self, role: str) -> str:
        return make_url(self.url).set(username=role, password=PASSWORD).render_as_string(hide_password=False)


@pytest.fixture(scope="module")
def database_of_roles(servers: ServerUrls, world: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database]:
    """The roles as the command makes them; then a night."""
    passwords = tmp_path_factory.mktemp("passwords")
    for role in ROLES:
        (passwords / f"{role.name}_password").write_text(f"{PASSWORD}\n")
    with new_database(servers.database_url, "roles", template=world) as url:
        own = environment(tmp_path_factory.mktemp("home"), database_url=url, redis_url=servers.redis_url)
        done = run_process(own, "db", "roles", "--json", "--passwords", passwords)
        assert done.code == 0, done.err
        assert PASSWORD not in done.out + done.err
        assert [role["role"] for role in done.json] == [role.name for role in ROLES]
        admin = make_engine(url)
        found = Database(admin, {}, url)
        for role in ROLES:
            found.engines[role.name] = make_engine(found.url_of(role.name))
        Night(found.engines[WORKER], settings(500)).run(LAST_SAMPLE_DAY)
        yield found
        for engine in (admin, *found.engines.values()):
            engine.dispose()
    for role in reversed(ROLES):
        with psycopg.connect(servers.database_url, autocommit=True) as connection:
            connection.execute(f"DROP ROLE {role.name}".encode())


def refused(engine: Engine, statement: str) -> bool:
    """Whether PostgreSQL says that the role may not: insufficient privilege, and not another reason."""
    with engine.connect() as connection, pytest.raises(ProgrammingError) as caught:
        connection.execute(text(statement))
    return isinstance(caught.value.orig, psycopg.errors.InsufficientPrivilege)


def test_the_night_was_done_by_the_worker_in_partitions_of_the_owner(database_of_roles: Database) -> None:
    admin = database_of_roles.admin
    assert rows(admin, "SELECT DISTINCT status FROM batches") == [("done",)]
    assert scalar(admin, "SELECT count(*) FROM portfolio_days") > 0
    owners = "SELECT DISTINCT pg_get_userbyid(relowner) FROM pg_class WHERE relnamespace = 'public'::regnamespace"
    assert rows(admin, owners) == [(OWNER,)]
    of_functions = "SELECT DISTINCT pg_get_userbyid(proowner) FROM pg_proc WHERE pronamespace = 'public'::regnamespace"
    assert rows(admin, of_functions) == [(OWNER,)]
    sequences = "SELECT count(*) FROM pg_class WHERE relkind = 'S' AND relnamespace = 'public'::regnamespace"
    assert scalar(admin, sequences) > 5


def test_a_partition_is_the_same_whoever_has_it_made(database_of_roles: Database, servers: ServerUrls) -> None:
    with new_database(servers.database_url, "roles_not") as url:
        engine = make_engine(url)
        ensure_ahead(engine, now=NOW + timedelta(days=100))
        made = ensure_ahead(database_of_roles.engines[WORKER], now=NOW + timedelta(days=100))
        assert len(made) == 14
        with engine.connect() as by_statements, database_of_roles.admin.connect() as by_function:
            expected, found = describe(by_statements), describe(by_function)
        for kind in ("columns", "constraints", "indexes"):
            of_made = {row for row in expected[kind] if row[0] in made}
            assert of_made
            assert of_made == {row for row in found[kind] if row[0] in made}
        bounds = "SELECT relname, pg_get_expr(relpartbound, oid), reloptions FROM pg_class WHERE relname = ANY(:made)"
        assert sorted(rows(engine, bounds, made=made)) == sorted(rows(database_of_roles.admin, bounds, made=made))
        engine.dispose()


@pytest.mark.parametrize(
    ("role", "statement"),
    [
        (WORKER, "DROP TABLE portfolio_days"),
        (WORKER, "TRUNCATE runs"),
        (WORKER, "ALTER TABLE users ADD COLUMN x int"),
        (WORKER, "CREATE TABLE mine (x int)"),
        (WORKER, "CREATE FUNCTION mine() RETURNS int LANGUAGE sql RETURN 1"),
        (WORKER, "SELECT password_hash FROM operators"),
        (WORKER, "SELECT token_hash FROM web_sessions"),
        (WORKER, "DELETE FROM audit_trail"),
        (WORKER, "UPDATE alembic_version SET version_num = '0001'"),
        (WORKER, f"SET ROLE {OWNER}"),
        (WORKER, "COPY users TO PROGRAM 'cat'"),
        (EXPORTER, "DELETE FROM portfolio_days"),
        (EXPORTER, "UPDATE runs SET status = 'cancelled'"),
        (EXPORTER, "INSERT INTO runs DEFAULT VALUES"),
        (EXPORTER, "SELECT email FROM users"),
        (EXPORTER, "UPDATE operators SET role = 'operator'"),
        (EXPORTER, "DELETE FROM audit_trail"),
        (EXPORTER, "DROP TABLE users"),
        (EXPORTER, "SELECT make_partition('trades', DATE '2030-01-01')"),
        (WEB, "DROP TABLE users"),
        (WEB, "DELETE FROM audit_trail"),
        (DASHBOARDS, "SELECT email FROM users"),
        (DASHBOARDS, "SELECT * FROM users"),
        (DASHBOARDS, "SELECT user_name FROM leaderboard"),
        (DASHBOARDS, "SELECT * FROM portfolio_days"),
        (DASHBOARDS, "SELECT password_hash FROM operators"),
    ],
)
def test_what_a_role_must_not_is_refused(database_of_roles: Database, role: str, statement: str) -> None:
    assert refused(database_of_roles.engines[role], statement)


def test_a_function_for_partitions_does_nothing_else(database_of_roles: Database) -> None:
    worker = database_of_roles.engines[WORKER]
    for call in ("'users', DATE '2030-01-01'", "'trades; DROP TABLE users', DATE '2030-01-01'", "'trades', NULL"):
        with worker.connect() as connection, pytest.raises(DBAPIError, match=r"case not found|no partition"):
            connection.execute(text(f"SELECT make_partition({call})"))
    assert scalar(worker, "SELECT count(*) FROM users") > 0


def test_a_scrape_and_the_pages_are_read_by_the_exporter_and_its_logins_work(
    database_of_roles: Database, redis_url: str
) -> None:
    engine = database_of_roles.engines[EXPORTER]
    client = exporter(engine, redis_url)
    samples = scrape(client)
    assert samples["nightshift_source_up", ("database",)] == 1
    assert samples["nightshift_runs", ("nightly", "done")] == 1
    user, simulation = rows(engine, "SELECT user_id, min(id) FROM simulations GROUP BY 1 LIMIT 1")[0]
    run, batch = rows(engine, "SELECT run_id, min(id) FROM batches GROUP BY 1 LIMIT 1")[0]
    for path in (
        "/", "/runs", f"/runs/{run}", f"/batches/{batch}", "/quarantine", "/prices", f"/users/{user}",
        f"/simulations/{simulation}", "/scheduler/status",
    ):  # fmt: skip
        assert client.get(path).status_code == 200, path


def test_grafana_reads_what_its_dashboards_show(database_of_roles: Database) -> None:
    engine = database_of_roles.engines[DASHBOARDS]
    assert scalar(engine, "SELECT count(*) FROM runs") == 1
    assert scalar(engine, "SELECT max(rank) FROM (SELECT rank FROM leaderboard) AS best") >= 1
    assert scalar(engine, "SHOW statement_timeout") == "10s"


def test_sample_users_are_made_by_the_worker_and_the_next_one_by_itself(database_of_roles: Database) -> None:
    worker = database_of_roles.engines[WORKER]
    added = seed(worker, users=5, start=LAST_SAMPLE_DAY, append=True)
    with worker.connect() as connection:  # rolled back
        made = "INSERT INTO users (name) VALUES ('Ada') RETURNING id"
        assert connection.execute(text(made)).scalar_one() == added.first_user + added.users


def test_no_other_numbers_are_the_workers_to_set(database_of_roles: Database) -> None:
    may_set = (
        "SELECT relname FROM pg_class WHERE relkind = 'S' AND relnamespace = 'public'::regnamespace"
        f" AND has_table_privilege('{WORKER}', oid, 'UPDATE') ORDER BY 1"
    )
    assert rows(database_of_roles.admin, may_set) == [("simulations_id_seq",), ("users_id_seq",)]
    assert refused(database_of_roles.engines[WORKER], "SELECT setval('runs_id_seq', 1)")


def test_what_is_too_old_is_dropped_by_the_owner_and_by_no_worker(database_of_roles: Database) -> None:
    worker, owner = database_of_roles.engines[WORKER], database_of_roles.engines[OWNER]
    with worker.begin() as connection:
        connection.execute(text("SELECT make_partition('portfolio_days', DATE '2001-02-03')"))
    with pytest.raises(ProgrammingError, match="must be owner"):
        maintain(worker, now=NOW, settings=settings())
    assert maintain(owner, now=NOW, settings=settings()).dropped == ["portfolio_days_20010203"]


def test_housekeeping_is_the_owners(database_of_roles: Database) -> None:
    owner = database_of_roles.engines[OWNER]
    (made, *_) = ensure_ahead(owner, now=NOW + timedelta(days=200))
    # What the owner makes is the workers' as well.
    for right in ("SELECT", "INSERT", "DELETE", "MAINTAIN"):
        assert scalar(owner, f"SELECT has_table_privilege('{WORKER}', '{made}', '{right}')"), right
    assert write_roles(owner) == []


def test_the_roles_are_exactly_what_they_are_said_to_be(database_of_roles: Database) -> None:
    admin = database_of_roles.admin
    with admin.begin() as connection:
        connection.execute(text(f"GRANT DELETE ON runs TO {DASHBOARDS}; GRANT SELECT ON users TO {EXPORTER}"))
    write_roles(admin)
    with admin.connect() as connection:
        found = {rights.role: rights.rights for rights in read_rights(connection)}
    assert set(found[DASHBOARDS]) == {"SELECT"}
    assert "users" not in found[EXPORTER]["SELECT"]
    assert "users.email" not in found[EXPORTER]["SELECT"]
    assert set(found[EXPORTER].get("DELETE", ())) == {"web_sessions"}
    assert "runs" in found[OWNER]["OWNER"]
    assert json.dumps(found[WORKER]["MAINTAIN"])


def test_who_may_make_no_roles_says_which_is_missing(servers: ServerUrls, database_of_roles: Database) -> None:
    with psycopg.connect(servers.database_url, autocommit=True) as connection:
        connection.execute(f"ALTER ROLE {DASHBOARDS} RENAME TO somebody".encode())
        try:
            with pytest.raises(NightshiftError, match=f"there is no role {DASHBOARDS}"):
                write_roles(database_of_roles.engines[OWNER])
        finally:
            connection.execute(f"ALTER ROLE somebody RENAME TO {DASHBOARDS}".encode())


def test_a_wrong_password_or_another_role_is_refused(database_of_roles: Database) -> None:
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(database_of_roles.url_of(WORKER).replace(PASSWORD, "wrong"))
    stranger = make_url(database_of_roles.url).set(username="nobody")
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(stranger.render_as_string(hide_password=False))
