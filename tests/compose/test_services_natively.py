"""Every service of compose.yaml that is ours, started without containers: its command, its environment, its secrets.

Two nights run through them, planned by the two beats. What is not shown here, because there are no containers: the
image itself, its file systems and users, the networks, and the images of others; nginx is in test_nginx.py.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from datetime import UTC, date, datetime

import httpx
import psycopg
import pytest
import redis

from core.clock import utc_now
from core.database import make_engine
from services.seeding import seed
from tests.support.compose import COMPOSE, document, ours, services
from tests.support.compose_natively import Native, natively
from tests.support.nights import import_samples, scalar
from tests.support.polling import wait_until
from workers.stack import STOP_SECONDS

USERS = 60
THEN = datetime(2022, 12, 29, 12, tzinfo=UTC)
# As in settings.env: the sample prices end there, whatever time of the day it is. Everything else is compose.yaml's.
SETTINGS = {
    "NIGHTSHIFT_CLOCK_OFFSET": f"-PT{round((utc_now() - THEN).total_seconds())}S",
    "NIGHTSHIFT_TICK_SECONDS": "2",
    "NIGHTSHIFT_CATCH_UP_DAYS": "2",
}
ONCE = {"migrate", "roles"}


def instances() -> dict[str, str]:
    """Name of each container to its service: two beats, one of the others."""
    found: dict[str, str] = {}
    for name, service in ours().items():
        if name not in ONCE:
            count = int(service["deploy"].get("replicas", 1))
            found |= {f"{name}-{number}": name for number in range(1, count + 1)}
    return found


@pytest.fixture(scope="module")
def native(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Native]:
    """Everything runs, and the nights are done."""
    with natively(tmp_path_factory.mktemp("native")) as native:
        migrated = native.run("migrate", SETTINGS)
        assert migrated.returncode == 0, migrated.stderr
        given = native.run("roles", SETTINGS)
        assert given.returncode == 0, given.stderr
        engine = make_engine(native.secret("owner_database_url"))
        import_samples(engine)
        seed(engine, users=USERS, seed_number=7, start=date(2022, 12, 27), spread_days=0)
        for name, service in instances().items():
            native.start(name, service, SETTINGS)
        try:
            done = "SELECT count(*) FROM runs WHERE day = '2022-12-28' AND status = 'done'"
            wait_until(lambda: scalar(engine, done) == 1 or ended(native), seconds=120, what="the nights")
            assert ended(native) == {}
            yield native
        finally:
            engine.dispose()


def services_passwords() -> set[str]:
    """The secrets that are passwords or tokens, which no URL hides."""
    return {name for name in document()["secrets"] if name.endswith(("_password", "_token")) and "alert" not in name}


def ended(native: Native) -> dict[str, str]:
    """What has ended, and its last words."""
    return {name: native.log(name)[-2000:] for name, process in native.processes.items() if process.poll() is not None}


def test_there_are_two_beats_and_every_service_of_ours() -> None:
    assert set(instances().values()) | ONCE == set(ours())
    assert {"beat-1", "beat-2"} <= set(instances())


def test_the_nights_are_done_and_nobody_is_left_out(native: Native) -> None:
    with psycopg.connect(native.secret("worker_database_url")) as connection:
        runs = connection.execute("SELECT status, users FROM runs").fetchall()
        days = connection.execute("SELECT day::text, count(*) FROM portfolio_days GROUP BY 1 ORDER BY 1").fetchall()
        left_out = connection.execute("SELECT count(*) FROM quarantine").fetchone()
    # Both days that were due, caught up in one go, and planned once.
    assert runs == [("done", USERS)]
    assert days == [("2022-12-27", USERS), ("2022-12-28", USERS)]
    assert left_out == (0,)


def test_every_health_check_passes(native: Native) -> None:
    said = {}
    for name, service in instances().items():
        checked = native.health(name, service, SETTINGS)
        assert checked.returncode == 0, f"{name}: {checked.stderr}"
        said[name] = checked.stdout
    host = os.uname().nodename
    assert said["worker-simulations-1"] == f"simulations@{host} answers\n"
    assert said["exporter-1"].endswith("/health answers 200\n")
    assert said["flower-1"].endswith("/flower/healthcheck answers 200\n")
    assert said["beat-1"].startswith("beat wrote ")
    deep = native.run("worker-control", SETTINGS, "nightshift", "health", "--json")
    assert deep.returncode == 0, deep.stdout


def test_a_migration_that_is_done_is_done(native: Native) -> None:
    again = native.run("migrate", SETTINGS)
    assert (again.returncode, "was:" in again.stderr) == (0, False), again.stderr


def test_no_process_asked_redis_for_anything_that_its_user_may_not(native: Native) -> None:
    assert native.refused() == []
    with redis.Redis.from_url(native.secret("worker_redis_url")) as client:
        for forbidden in (("FLUSHALL",), ("CONFIG", "SET", "maxmemory", "0"), ("SET", "elsewhere", "1"), ("KEYS", "*")):
            with pytest.raises(redis.exceptions.NoPermissionError):
                client.execute_command(*forbidden)
    for name in ("exporter", "flower"):
        with redis.Redis.from_url(native.secret(f"{name}_redis_url")) as client:
            assert client.llen("nightshift:simulations") == 0
            for forbidden in (
                ("DEL", "nightshift:simulations"), ("LPUSH", "nightshift:simulations", "x"), ("FLUSHALL",),
                ("FLUSHDB",), ("RENAME", "nightshift:simulations", "nightshift:unacked"), ("CONFIG", "GET", "*"),
                ("ACL", "LIST"), ("SHUTDOWN",), ("HSET", "nightshift:dropped", "x", "1"),
            ):  # fmt: skip
                with pytest.raises(redis.exceptions.NoPermissionError):
                    client.execute_command(*forbidden)
    with redis.Redis(port=native.ports["redis"]) as anybody, pytest.raises(redis.exceptions.AuthenticationError):
        anybody.ping()


def test_the_exporters_of_others_can_ask_and_nothing_more(native: Native) -> None:
    password = native.secret("redis_monitor_password")
    assert set(json.loads(native.secret("redis_monitor_passwords")).values()) == {password}
    for server in ("redis", "cache"):
        with redis.Redis(port=native.ports[server], username="monitor", password=password) as client:
            assert "used_memory" in client.info()
            policy = client.config_get("maxmemory-policy")
            assert policy == {"maxmemory-policy": "noeviction" if server == "redis" else "allkeys-lru"}
            with pytest.raises(redis.exceptions.NoPermissionError):
                client.get("nightshift:anything")
    monitor = (
        f"postgresql://monitor:{native.secret('monitor_password')}@127.0.0.1:{native.ports['postgres']}/nightshift"
    )
    with psycopg.connect(monitor) as connection:
        assert connection.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE usename = 'nightshift_worker'"
        ).fetchone()
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("SELECT * FROM users")


def test_the_owner_of_the_tables_is_no_superuser_and_grafana_reads_only(native: Native) -> None:
    with psycopg.connect(native.admin_url) as connection:
        roles = "SELECT rolsuper OR rolcreaterole OR rolcreatedb FROM pg_roles WHERE rolname = 'nightshift_owner'"
        assert connection.execute(roles).fetchone() == (False,)
    assert native.run("roles", SETTINGS).returncode == 0  # as at the next `docker compose up`
    password = native.secret("dashboards_password")
    grafana = f"postgresql://nightshift_dashboards:{password}@127.0.0.1:{native.ports['postgres']}/nightshift"
    with psycopg.connect(grafana) as connection:
        assert connection.execute("SELECT count(*) FROM runs").fetchone() == (1,)
    with psycopg.connect(grafana) as connection, pytest.raises(psycopg.Error):
        connection.execute("DELETE FROM runs")


def test_flower_and_the_exporter_are_where_nginx_looks_for_them(native: Native) -> None:
    text = (COMPOSE / "nginx" / "nginx.conf").read_text("utf-8")
    assert f"/{services()['flower']['environment']['FLOWER_URL_PREFIX']}/" in text
    login = native.secret("nginx_flower_login").split('"')[1]
    flower = f"http://127.0.0.1:{native.ports['flower']}/flower"
    assert httpx.get(f"{flower}/workers").status_code == 401
    asked = f"{flower}/api/workers?refresh=1"
    groups = {"simulations", "prices", "notifications", "control"}
    wait_until(
        lambda: {name.split("@")[0] for name in httpx.get(asked, headers={"Authorization": login}).json()} == groups,
        what="Flower's list of workers",
    )
    address = f"http://127.0.0.1:{native.ports['exporter']}/metrics"
    assert httpx.get(address).status_code == 401
    token = native.secret("nightshift_metrics_token")
    metrics = httpx.get(address, headers={"Authorization": f"Bearer {token}"}).text
    assert "nightshift_users_done " in metrics


def test_no_secret_is_in_a_log_or_an_environment(native: Native) -> None:
    known = {name: native.secret(name) for name in services_passwords()}
    for name, process in native.processes.items():
        with open(f"/proc/{process.pid}/environ", encoding="utf-8") as environment:  # noqa: PTH123 - of a process
            text = native.log(name) + environment.read()
        assert [secret for secret, value in known.items() if value in text] == [], name


def test_told_to_stop_they_end_in_time(native: Native) -> None:
    """Last: nothing runs after it."""
    for process in native.processes.values():
        os.kill(process.pid, signal.SIGTERM)
    codes = {name: process.wait(timeout=STOP_SECONDS) for name, process in native.processes.items()}
    assert set(codes.values()) <= {0, -signal.SIGTERM}, codes
    assert {name: code for name, code in codes.items() if name.startswith("worker-") and code} == {}
