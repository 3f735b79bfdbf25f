"""The doctor finds each condition when it is there, on real servers and a real stack, and nothing on healthy ones."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psycopg
import pytest
import redis
from sqlalchemy import Engine, make_url

from core.database import make_engine, session_scope
from core.settings import Settings
from models.migrate import downgrade, migrate, steps_after
from models.revisions import head_revision
from services.alerts import clear_alert, raise_alert
from services.backup_records import Record
from services.doctor import Patient, examine
from services.doctor_database import examine_database, plain_connection
from services.doctor_findings import Finding, Severity
from services.doctor_redis import examine_broker, examine_cache
from services.doctor_schema import examine_revision, examine_tables
from services.doctor_stack import WorkerOptions, examine_backups, examine_beat, examine_connections
from services.partitions import ensure_ahead
from tests.support.cli import Shell
from tests.support.database import execute, with_database
from tests.support.nights import change, scalar
from tests.support.polling import wait_until
from workers.app import make_app
from workers.embedded import EmbeddedServers, ServerUrls
from workers.stack import Stack
from workers.worker_options import options_of, worker_options

BACKUPS = "/backups-of-this-test"


def now() -> datetime:
    return datetime.now(UTC)  # noqa: TID251 - the edge: this process plays the command line


@dataclass
class Site:
    """A stack of this test alone, in its home."""

    home: Path
    urls: ServerUrls
    engine: Engine
    settings: Settings
    stack: Stack

    def database(self) -> dict[str, Finding]:
        """What is not well with PostgreSQL."""
        with plain_connection(self.urls.database_url) as connection:
            return ill(list(examine_database(connection)))

    def examined(self, settings: Settings | None = None, urls: ServerUrls | None = None) -> dict[str, Finding]:
        """What is not well, by group and check. The disk is this machine's own matter."""
        settings, urls = settings or self.settings, urls or self.urls
        with make_app(settings, urls.redis_url) as app:
            patient = Patient(
                settings=settings, engine=self.engine, database_url=urls.database_url, redis_url=urls.redis_url,
                ask_workers=lambda: worker_options(app), expected=options_of(app.conf), clock=now,
            )  # fmt: skip
            return ill(examine(patient, now=now()))


def ill(findings: list[Finding]) -> dict[str, Finding]:
    """Those that are not well, by group and check; each has a remedy."""
    found = {f"{f.group}.{f.check}": f for f in findings if f.severity is not Severity.OK and f.check != "disk"}
    assert [finding for finding in found.values() if not finding.remedy] == []
    return found


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """A healthy stack: durable servers, all queues, beat, partitions ahead, a proven backup."""
    home = tmp_path_factory.mktemp("doctor") / "home"
    settings = Settings(_env_file=None, home=home, tick_seconds=1, workers=1)
    with EmbeddedServers(home) as servers:
        urls = servers.start()
        engine = make_engine(urls.database_url)
        migrate(engine)
        ensure_ahead(engine, now=now())
        record = Record(engine, BACKUPS, "backup-1")
        record.begin(now=now())
        record.done(1, now=now())
        record.verified(1.0, now=now())
        with Stack(settings, urls, workers=1, flower=False, exporter=False) as stack:
            ticks = "SELECT count(*) FROM beat_ticks WHERE name = 'tick'"
            wait_until(lambda: scalar(engine, ticks) == 1, seconds=60, what="the first tick")
            known = settings.model_dump() | {"notify_urls": "json://127.0.0.1/", "backup_to": BACKUPS}
            yield Site(home, urls, engine, Settings(_env_file=None, **known), stack)
        engine.dispose()


@pytest.fixture(scope="module")
def bad(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServers]:
    """Servers that nobody depends on, PostgreSQL with settings that only a start can give."""
    poor = {"wal_level": "minimal", "max_wal_senders": "0", "max_locks_per_transaction": "64", "max_connections": "30"}
    with EmbeddedServers(tmp_path_factory.mktemp("bad"), postgres_settings=poor) as servers:
        yield servers


def test_a_healthy_stack_has_nothing(
    site: Site, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert site.examined() == {}

    for name, value in (("HOME", site.home), ("TICK_SECONDS", 1), ("NOTIFY_URLS", "json://127.0.0.1/"),
                        ("BACKUP_TO", BACKUPS)):  # fmt: skip
        monkeypatch.setenv(f"NIGHTSHIFT_{name}", str(value))
    shell = Shell(capsys)
    document = shell("doctor", "--json").json
    assert {f["check"] for f in document["findings"] if f["severity"] != "ok"} <= {"disk"}
    assert {f["group"] for f in document["findings"]} == {
        "settings", "machine", "database", "broker", "schema", "workers", "stack"
    }  # fmt: skip
    table = shell("doctor")
    assert "0 warnings" in table.err or "disk" in table.out
    assert "✓ ok" in table.out

    monkeypatch.setenv("NIGHTSHIFT_HARD_TIME_LIMIT", "900")
    refused = shell("doctor", "--json")
    assert (refused.code, len(refused.json["findings"])) == (1, 1)
    assert "hard_time_limit < visibility_timeout must hold" in refused.json["findings"][0]["detail"]


def test_dangerous_settings_of_a_running_postgresql(site: Site) -> None:
    names = ("fsync", "full_page_writes", "synchronous_commit", "autovacuum")
    for name in names:
        execute(site.urls.database_url, f"ALTER SYSTEM SET {name} = off")
    execute(site.urls.database_url, "SELECT pg_reload_conf()")
    try:
        expected = {f"database.{name}" for name in names}
        # A running server takes them over a moment later.
        wait_until(lambda: expected == set(site.database()), what="the dangerous settings")
        assert {finding.severity for finding in site.examined().values()} == {Severity.ERROR}
    finally:
        execute(site.urls.database_url, "ALTER SYSTEM RESET ALL")
        execute(site.urls.database_url, "SELECT pg_reload_conf()")
    wait_until(lambda: site.database() == {}, what="the end of the dangerous settings")


def test_dangerous_settings_of_a_database(site: Site) -> None:
    settings = {
        "statement_timeout": "'1min'", "lock_timeout": "'1s'", "idle_session_timeout": "'1h'",
        "transaction_timeout": "'1h'", "TimeZone": "'Europe/Berlin'", "default_transaction_read_only": "on",
        "default_transaction_isolation": "'serializable'",
    }  # fmt: skip
    execute(
        site.urls.database_url,
        "CREATE DATABASE odd TEMPLATE template0 ENCODING SQL_ASCII LOCALE_PROVIDER libc LOCALE 'C'",
    )
    for name, value in settings.items():
        execute(site.urls.database_url, f"ALTER DATABASE odd SET {name} = {value}")
    execute(site.urls.database_url, "UPDATE pg_database SET datcollversion = '0' WHERE datname = 'nightshift'")
    try:
        with plain_connection(with_database(site.urls.database_url, "odd")) as connection:
            found = ill(list(examine_database(connection)))
        assert set(found) == {f"database.{name.lower()}" for name in (*settings, "server_encoding")}
        assert "statement_timeout is 60000: milliseconds" in found["database.statement_timeout"].detail
        assert set(site.database()) == {"database.collation"}
    finally:
        execute(site.urls.database_url, "ALTER DATABASE nightshift REFRESH COLLATION VERSION")
        execute(site.urls.database_url, "DROP DATABASE odd")


def test_settings_that_postgresql_starts_with_and_a_standby(bad: EmbeddedServers) -> None:
    urls = bad.start()
    with plain_connection(urls.database_url) as connection:
        found = ill(list(examine_database(connection)))
    assert set(found) == {"database.wal_level", "database.max_locks_per_transaction"}

    engine = make_engine(urls.database_url)
    few, many = (WorkerOptions("a@b", (), processes, {}) for processes in (1, 8))
    assert ill(list(examine_connections(engine, [few]))) == {}
    assert ill(list(examine_connections(engine, [many])))["stack.connections"].severity is Severity.ERROR
    taken = [psycopg.connect(urls.database_url) for _ in range(24)]
    assert ill(list(examine_connections(engine, [few])))["stack.connections"].severity is Severity.WARNING
    for connection in taken:
        connection.close()
    engine.dispose()


def test_a_standby_is_found(tmp_path: Path) -> None:
    with EmbeddedServers(tmp_path / "home", serve_redis=False) as servers:
        servers.start()
    data = tmp_path / "home" / "postgres"
    (data / "standby.signal").touch()
    os.chown(data / "standby.signal", data.stat().st_uid, data.stat().st_gid)
    again = EmbeddedServers(tmp_path / "home", serve_redis=False)
    with again as servers, plain_connection(servers.start().database_url) as connection:
        assert set(ill(list(examine_database(connection)))) == {"database.standby"}


def test_dangerous_settings_of_the_broker_and_the_cache(bad: EmbeddedServers) -> None:
    with redis.Redis.from_url(bad.start().redis_url) as client:

        def found() -> set[str]:
            return set(ill([*examine_broker(client), *examine_cache(client)]))

        used = int(client.info("memory")["used_memory"])
        most = client.config_get("maxclients")["maxclients"]
        for name, value, before, check in (
            ("maxmemory-policy", "allkeys-lru", "noeviction", "broker.eviction"),
            ("appendonly", "no", "yes", "broker.appendonly"),
            ("timeout", 300, 0, "broker.timeout"),
            ("maxclients", 1, most, "broker.clients"),
        ):
            assert found() == set(), name
            client.config_set(name, value)
            assert found() == {check}
            client.config_set(name, before)
        client.config_set("maxmemory", used + used // 10)
        assert found() == {"broker.memory", "cache.eviction"}
        client.config_set("maxmemory", 0)

        client.acl_setuser("doctor", enabled=True, passwords=["+hush"], keys=["*"], commands=["+@all", "-info"])
        client.replicaof("127.0.0.1", "1")
        assert found() == {"broker.replica"}
        client.replicaof("NO", "ONE")
    url = make_url(bad.start().redis_url).set(username="doctor", password="hush")  # noqa: S106 - of this test alone
    with redis.Redis.from_url(url.render_as_string(hide_password=False)) as client:
        assert set(ill(list(examine_broker(client)))) == {"broker.info"}


def test_workers_with_other_options_and_queues_that_nobody_serves(site: Site) -> None:
    other = site.settings.model_copy(update={"visibility_timeout": 1000, "soft_time_limit": 40})
    found = site.examined(other)
    assert set(found) == {"workers.options"}
    assert "visibility_timeout 900 (here 1000)" in found["workers.options"].detail
    assert "task_soft_time_limit 50 (here 40)" in found["workers.options"].detail

    control = site.stack.processes["control"]
    os.kill(control, signal.SIGSTOP)
    try:
        assert site.examined()["workers.queues"].severity is Severity.ERROR
    finally:
        os.kill(control, signal.SIGCONT)
    with make_app(site.settings, site.urls.redis_url) as app:
        names = len(site.stack.processes) - 1
        wait_until(lambda: len(worker_options(app)) == names, seconds=60, what="a worker that answers again")

    nobody = ServerUrls(site.urls.database_url, site.urls.redis_url.removesuffix("0") + "9")
    assert site.examined(urls=nobody)["workers.queues"].detail == "no worker answers"


def test_beat_that_stands_still_or_never_ran(site: Site, engine: Engine) -> None:
    beat = site.stack.processes["beat"]
    os.kill(beat, signal.SIGSTOP)
    try:
        # What waits in the queue is still worked on.
        wait_until(lambda: tick_age(site.engine) > 2, what="the last of beat's ticks")
        change(
            site.engine, "UPDATE beat_ticks SET last_run_at = last_run_at - interval '10 minutes' WHERE name = 'tick'"
        )
        found = site.examined()
        assert set(found) == {"stack.beat"}
        assert "no night is planned" in found["stack.beat"].detail
    finally:
        os.kill(beat, signal.SIGCONT)
    wait_until(lambda: tick_age(site.engine) < 60, what="a tick")
    assert "was ever worked on" in examine_beat(engine, site.settings, now=now()).detail


def tick_age(engine: Engine) -> float:
    return float(scalar(engine, "SELECT extract(epoch FROM now() - last_run_at) FROM beat_ticks WHERE name = 'tick'"))


def test_alerts_and_backups(site: Site) -> None:
    with session_scope(site.engine) as session:
        raise_alert(session, "test", "closes_missing", "nothing from nobody", now=now())
    assert site.examined()["stack.alerts"].detail.startswith("closes_missing: nothing from nobody (since ")
    with session_scope(site.engine) as session:
        clear_alert(session, "test", now=now())

    def found(settings: Settings = site.settings, later: float = 0) -> list[tuple[str, str]]:
        moment = now() + timedelta(hours=later)
        return [(f.severity, f.detail) for f in examine_backups(site.engine, settings, now=moment)]

    assert [severity for severity, _ in found()] == ["ok"]
    assert found(site.settings.model_copy(update={"backup_to": ""})) == [("warning", "none is made by itself")]
    assert found(later=7.5) == [("error", "the newest is 7.5 h old, one is due every 6 h")]
    record = Record(site.engine, BACKUPS, "backup-2")
    record.begin(now=now() + timedelta(hours=13))
    record.done(1, now=now() + timedelta(hours=13))
    assert found(later=13.5)[0] == (
        "warning", "the newest proven is 13.5 h old: a backup that was never restored is a hope"
    )  # fmt: skip
    record.unverified(ValueError("a flipped byte"))
    assert ("error", "1 backup did not stand verification") in found(later=13.5)
    change(site.engine, "DELETE FROM backups WHERE name = 'backup-2'")
    assert site.examined() == {}


def test_a_schema_that_is_not_this_versions(engine: Engine, empty_database: str) -> None:
    empty = make_engine(empty_database)
    assert examine_revision(empty).detail == "the database has no Nightshift tables"
    empty.dispose()
    change(engine, "UPDATE alembic_version SET version_num = '9999'")
    assert examine_revision(engine).remedy == "upgrade Nightshift"
    change(engine, f"UPDATE alembic_version SET version_num = '{head_revision()}'")
    older = steps_after(None)[-3].revision
    downgrade(engine, older)
    finding = examine_revision(engine)
    assert (finding.severity, finding.detail.startswith(f"revision {older}; to come: ")) == (Severity.ERROR, True)
    assert head_revision() in finding.detail


def test_partitions_that_are_missing_and_an_index_that_was_not_finished(engine: Engine, database: str) -> None:
    found = ill(list(examine_tables(engine, now=now())))
    assert set(found) == {"schema.partitions"}
    ensure_ahead(engine, now=now())
    assert ill(list(examine_tables(engine, now=now()))) == {}

    change(engine, "INSERT INTO assets (symbol) VALUES ('A'), ('B')")
    with pytest.raises(psycopg.errors.UniqueViolation):
        execute(database, "CREATE UNIQUE INDEX CONCURRENTLY ix_half ON assets ((1))")
    assert ill(list(examine_tables(engine, now=now())))["schema.indexes"].detail.startswith("index ix_half is not used")


@pytest.mark.parametrize("away", ["DATABASE_URL", "REDIS_URL"])
def test_a_server_out_of_reach_does_not_hide_the_rest(
    site: Site, away: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    scheme = "postgresql" if away == "DATABASE_URL" else "redis"
    monkeypatch.setenv("NIGHTSHIFT_HOME", str(site.home))
    monkeypatch.setenv(f"NIGHTSHIFT_{away}", f"{scheme}://user:hush@127.0.0.1:1/0")
    outcome = Shell(capsys)("doctor", "--json")
    assert outcome.code == 3
    assert "hush" not in outcome.out + outcome.err
    by_group = {(f["group"], f["check"]): f for f in outcome.json["findings"]}
    gone, there = ("database", "broker") if away == "DATABASE_URL" else ("broker", "database")
    assert by_group[gone, "answer"]["remedy"] == f"start the server, or correct NIGHTSHIFT_{away}"
    assert by_group[there, "version"]["severity"] == "ok"
    assert ("machine", "clock of " + ("Redis" if there == "broker" else "PostgreSQL")) in by_group
