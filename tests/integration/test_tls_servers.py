"""A night, a scrape and a backup against real servers of Debian's that know TLS: nobody is let in who is not checked.

Debian 12 has PostgreSQL 15 and Redis 7.0, older than what docs/deployment.md asks for: the schema, a night, a backup,
roles and users work there all the same. Where they are not installed, test_tls.py shows most of it through a proxy that
ends TLS for the embedded ones.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis
from sqlalchemy import make_url

from core import tls
from core.database import make_engine
from core.errors import NightshiftError
from core.settings import Settings
from models.migrate import migrate
from models.partitions import day_partition
from services import backup_programs
from services.backup_programs import find_programs
from services.backup_verify import verify
from services.backups import Backups
from services.doctor_database import plain_connection
from services.doctor_programs import examine_programs
from services.queue_state import redis_client
from services.retention import maintain
from services.roles import OWNER, ROLES, read_rights, write_roles
from tests.support.backups import Clock
from tests.support.certificates import Authority
from tests.support.compose import make_secrets
from tests.support.database import new_database
from tests.support.nights import LAST_SAMPLE_DAY, NOW, rows, sample_world, scalar
from tests.support.nights import settings as plain
from tests.support.polling import wait_until
from tests.support.tls_clients import ASKS, WRONG, Ask, everything_over_tls
from tests.support.tls_servers import CERTIFIED, PASSWORD, postgres_of_debian, postgres_programs, redis_of_debian
from tests.support.workers import System, quick
from workers.embedded import ServerUrls

USERS = 60


@dataclass(frozen=True, slots=True)
class Servers:
    """URLs of both servers, by whether they ask for a certificate of the client."""

    authority: Authority
    stranger: Authority
    open: dict[str, str]
    certified: dict[str, str]
    admin_url: str

    def settings(self, **changes: object) -> Settings:
        """Of who does it right where no certificate is asked for, but for the changes."""
        return plain(**{**self.open, "tls_ca": self.authority.certificate, "tls_required": True, **changes})  # type: ignore[arg-type]

    def certified_settings(self, role: str = OWNER, **changes: object) -> dict[str, Any]:
        """With a certificate in the name of `role`."""
        certificate, key = self.authority.client(role)
        ours = {"tls_ca": self.authority.certificate, "tls_certificate": certificate, "tls_key": key}
        return {**self.certified, **ours, "tls_required": True, **changes}


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    """PostgreSQL with two databases, one of which asks for certificates, and a Redis of each kind."""
    directory = tmp_path_factory.mktemp("real")
    authority, stranger = Authority.made(directory / "ours"), Authority.made(directory / "other")
    with (
        redis_of_debian(directory / "redis", authority, clients=False) as redis_url,
        redis_of_debian(directory / "certified-redis", authority, clients=True) as certified_redis_url,
        postgres_of_debian(directory / "postgres", authority) as admin_url,
    ):
        with psycopg.connect(admin_url, autocommit=True) as connection:
            connection.execute(f"CREATE ROLE {OWNER} LOGIN PASSWORD '{PASSWORD}'".encode())
            connection.execute(f"CREATE DATABASE {CERTIFIED} OWNER {OWNER}".encode())
        owner = make_url(admin_url).set(username=OWNER).update_query_dict({"sslmode": "verify-full"})
        urls = {
            name: owner.set(database=name).render_as_string(hide_password=False) for name in ("postgres", CERTIFIED)
        }
        yield Servers(
            authority, stranger, {"database_url": urls["postgres"], "redis_url": redis_url},
            {"database_url": urls[CERTIFIED], "redis_url": certified_redis_url}, admin_url,
        )  # fmt: skip


@pytest.mark.parametrize("ask", ASKS.values(), ids=ASKS.keys())
def test_who_is_not_checked_is_not_let_in(real: Servers, ask: Ask) -> None:
    ask(real.settings())
    clear = {
        "database_url": real.open["database_url"].replace("verify-full", "disable"),
        "redis_url": real.open["redis_url"].replace("rediss:", "redis:"),
    }
    with pytest.raises(NightshiftError, match=r"no encryption|[Cc]onnection (closed|reset)"):
        ask(real.settings(**clear))
    with pytest.raises(NightshiftError, match="certificate verify failed"):
        ask(real.settings(tls_ca=real.stranger.certificate))
    elsewhere = {name: url.replace("@localhost:", "@127.0.0.1:") for name, url in real.open.items()}
    with pytest.raises(NightshiftError, match=r"does not match host name|IP address mismatch"):
        ask(real.settings(**elsewhere))
    wrong = {
        name: make_url(url).set(password=WRONG).render_as_string(hide_password=False) for name, url in real.open.items()
    }
    with pytest.raises(NightshiftError, match=r"password|WRONGPASS|username-password") as caught:
        ask(real.settings(**wrong))
    assert WRONG not in str(caught.value)


@pytest.mark.parametrize("ask", ASKS.values(), ids=ASKS.keys())
def test_where_a_certificate_is_asked_for_nobody_is_let_in_without(real: Servers, ask: Ask) -> None:
    ask(plain(**real.certified_settings()))
    # Redis may close the connection before its reason is read; what lets in and what does not differ by this alone.
    with pytest.raises(NightshiftError, match=r"certificate|EOF|[Cc]onnection (closed|reset)|Broken pipe"):
        ask(plain(**{**real.certified_settings(), "tls_certificate": None, "tls_key": None}))
    foreign, key = real.stranger.client(OWNER)
    with pytest.raises(NightshiftError, match=r"unknown ca|EOF|[Cc]onnection (closed|reset)|Broken pipe"):
        ask(plain(**real.certified_settings(tls_certificate=foreign, tls_key=key)))


def test_a_certificate_in_anothers_name_is_not_the_roles(real: Servers) -> None:
    with pytest.raises(NightshiftError, match="authentication failed"):
        ASKS["database_url"](plain(**real.certified_settings("nightshift_worker")))


@pytest.fixture(scope="module")
def world(real: Servers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """Users and prices in the database that asks for certificates, and the settings of who has one."""
    home = tmp_path_factory.mktemp("home")
    ports: dict[str, Any] = {"exporter_port": 0, "flower_port": 0, "flower_password": WRONG}
    ours = real.certified_settings(**ports, workers=1, backup_to=str(home / "store"))
    chosen = quick(home, 1000, **ours)
    urls = ServerUrls(tls.database_url(chosen), tls.redis_url(chosen))
    engine = make_engine(urls.database_url)
    try:
        migrate(engine)
        sample_world(engine, USERS, start=LAST_SAMPLE_DAY - timedelta(days=2), spread_days=0)
        yield System(engine, urls, chosen)
    finally:
        engine.dispose()


def test_a_night_of_real_workers_with_certificates(world: System) -> None:
    sessions = (
        "SELECT DISTINCT split_part(application_name, ' ', 2), ssl, client_serial IS NOT NULL FROM pg_stat_ssl"
        " JOIN pg_stat_activity USING (pid) WHERE application_name LIKE 'nightshift %'"
    )
    with everything_over_tls(world.settings):
        found = rows(world.engine, sessions)
        assert {"worker", "exporter"} <= {who for who, _, _ in found}
        assert {(encrypted, certified) for _, encrypted, certified in found} == {(True, True)}
    assert scalar(world.engine, "SELECT count(DISTINCT user_id) FROM portfolio_days") == USERS


def test_maintenance_freezes_on_a_server_that_does_not_count_frozen_pages(world: System) -> None:
    def frozen() -> list[str]:
        return maintain(world.engine, now=NOW, settings=world.settings).frozen

    assert frozen() == [day_partition(LAST_SAMPLE_DAY - timedelta(days=2)).name]
    assert wait_until(lambda: frozen() == [], what="the frozen partition to be seen as such")


@pytest.mark.usefixtures("world")
def test_users_and_roles_are_made_on_servers_as_old_as_these(real: Servers, tmp_path: Path) -> None:
    make_secrets(tmp_path / "secrets")
    with redis_client(tls.redis_url(real.settings())) as client:
        for file in ("redis_acl", "cache_acl"):
            for line in (tmp_path / "secrets" / file).read_text("utf-8").splitlines():
                _, user, *rules = line.split()
                if user != "default":
                    assert client.execute_command("ACL", "SETUSER", user, *rules)  # type: ignore[no-untyped-call]
    # KEDA's question, as its script asks it.
    password = (tmp_path / "secrets" / "redis_keda_password").read_text("utf-8")
    keda = make_url(tls.redis_url(real.settings())).set(username="keda", password=password)
    with redis_client(keda.render_as_string(hide_password=False)) as client:
        ask = "return redis.call(({list='llen', none='llen'})[redis.call('type', KEYS[1]).ok], KEYS[1])"
        assert client.eval(ask, 1, "nightshift:simulations") == 0
        for statement in ("redis.call('lpush', KEYS[1], 'x')", "redis.call('del', KEYS[1])"):
            with pytest.raises(redis.exceptions.ResponseError, match=r"can't run this command|ACL|permission"):
                client.eval(statement, 1, "nightshift:simulations")
    superuser = make_engine(f"{real.admin_url.rsplit('/', 1)[0]}/{CERTIFIED}?sslmode=require")
    assert set(write_roles(superuser)) == {role.name for role in ROLES} - {OWNER}
    with superuser.connect() as connection:
        rights = {found.role: found.rights for found in read_rights(connection)}["nightshift_worker"]
    superuser.dispose()
    assert {"runs", "portfolio_days"} <= set(rights["DELETE"])
    assert "MAINTAIN" not in rights


def test_a_backup_is_dumped_by_tls_and_restored_elsewhere(world: System, servers: ServerUrls) -> None:
    backups = Backups(world.urls.database_url, world.settings, Clock())
    manifest = backups.create()
    assert manifest.major < 18
    assert {table.name: table.rows for table in manifest.contents.tables}["users"] == USERS

    @contextmanager
    def scratch(_major: int) -> Iterator[str]:
        with new_database(servers.database_url, "scratch_of_tls", template="template0") as url:
            yield url

    verify(backups, "latest", scratch)
    assert backups.newest_unverified() is None


def test_programs_without_tls_are_not_run_where_it_is_demanded(world: System, monkeypatch: pytest.MonkeyPatch) -> None:
    debian = postgres_programs()
    (embedded, *_) = backup_programs._directories()
    assert find_programs(18).directory == embedded
    chosen = world.settings.model_copy(update={"postgres_programs": embedded})
    with pytest.raises(
        NightshiftError,
        match=r"asked by TLS needs pg_dump .* with TLS, and only version 18 without TLS is in .*: install"
        r" postgresql-client-\d+, or name their directory in NIGHTSHIFT_POSTGRES_PROGRAMS$",
    ) as caught:
        Backups(world.urls.database_url, chosen, Clock(datetime(2026, 1, 2, tzinfo=UTC))).create()
    assert PASSWORD not in str(caught.value)
    # The embedded ones come first, and are passed over.
    monkeypatch.setattr(backup_programs, "_directories", lambda: [embedded, debian])
    assert find_programs(15, world.urls.database_url).directory == debian
    with pytest.raises(NightshiftError, match=r"only version 18 without TLS, \d+ is here"):
        find_programs(99, world.urls.database_url)
    assert find_programs(15, "postgresql://localhost/n?sslmode=prefer", directory=embedded).directory == embedded


def test_the_doctor_finds_that_backups_would_meet_programs_without_tls(real: Servers) -> None:
    def found(url: str, programs: Path, backup_to: str = "") -> tuple[str, str, str]:
        chosen = plain(postgres_programs=programs, backup_to=backup_to)
        with plain_connection(url) as connection:
            (finding,) = examine_programs(connection, url, chosen)
        return finding.severity, finding.detail, finding.remedy

    (embedded, *_) = backup_programs._directories()
    major = postgres_programs().parent.name
    demanding = tls.database_url(real.settings())
    severity, detail, remedy = found(demanding, embedded)
    assert (severity, remedy) == (
        "warning", f"install postgresql-client-{major}, or name their directory in NIGHTSHIFT_POSTGRES_PROGRAMS"
    )  # fmt: skip
    assert detail.endswith(f"with TLS, and only version 18 without TLS is in {embedded}")
    assert found(demanding, embedded, "/backups")[0] == "error"
    assert found(demanding, Path("/nowhere"))[1].endswith("and there is none in /nowhere")
    assert found(demanding, postgres_programs())[0] == "ok"
    # libpq speaks TLS to this server of its own accord, and these programs would be refused.
    quiet = real.admin_url
    severity, detail, remedy = found(quiet, embedded)
    assert (severity, "pg_dump 18" in detail, "sslmode=verify-full" in remedy) == ("warning", True, True)
    assert found(quiet, postgres_programs())[0] == "ok"
    assert PASSWORD not in detail + remedy
