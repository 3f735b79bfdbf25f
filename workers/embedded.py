"""The embedded servers: a real PostgreSQL and a real Valkey that live and die with one owner, in one home directory.

One process owns a home, by a lock that the kernel releases however the process ends. The servers are its children; if
it is killed they live on as orphans, and the next owner stops them, clears what is stale and recovers the data. Layout:

    postgres/ redis/    the data            log/    one log a server
    password            of both, 0600       run/    lock, ports.json, and servers.json while the servers serve
"""

from __future__ import annotations

import fcntl
import json
import os
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from tenacity import RetryError, Retrying, retry_if_exception_type, stop_after_delay, wait_fixed

from core import tls
from core.errors import EmbeddedServerError
from core.settings import Settings
from workers.embedded_watch import watched
from workers.postgres_embedded import EmbeddedPostgres
from workers.server_process import PortTakenError, free_port
from workers.valkey_embedded import EmbeddedValkey
from workers.wal_archive import wal_directory

_LOCK_SECONDS = 1.0  # outlasts the moment for which `running_servers` of another process looks at the lock
_PORT_ATTEMPTS = 5


@dataclass(frozen=True, slots=True)
class ServerUrls:
    """Where the servers are, passwords included; empty: not served. `owned`: this process started them."""

    database_url: str = field(repr=False)
    redis_url: str = field(repr=False)
    owned: bool = False


class EmbeddedServers:
    """Both servers, or one, in `home`. A context manager; `start` and `stop` may be called repeatedly."""

    def __init__(
        self,
        home: Path,
        *,
        postgres_settings: Mapping[str, str] | None = None,
        redis_appendfsync: str = "everysec",
        serve_postgres: bool = True,
        serve_redis: bool = True,
        wal_archive: Path | None = None,
    ) -> None:
        self._home = home.expanduser().absolute()
        self._wal_archive = wal_archive
        self._postgres_settings = dict(postgres_settings or {})
        self._appendfsync = redis_appendfsync
        self._serve_postgres, self._serve_redis = serve_postgres, serve_redis
        self._lock: int | None = None
        self._postgres: EmbeddedPostgres | None = None
        self._redis: EmbeddedValkey | None = None
        self._ports: dict[str, int] = {}
        self._urls: ServerUrls | None = None

    @property
    def postgres_log(self) -> Path:
        """PostgreSQL's log."""
        return self._home / "log" / "postgres.log"

    @property
    def redis_log(self) -> Path:
        """Valkey's log."""
        return self._home / "log" / "redis.log"

    @property
    def postgres_pid(self) -> int | None:
        """The process id of PostgreSQL's leader while it runs, else None."""
        return self._postgres.process.pid if self._postgres else None

    @property
    def redis_pid(self) -> int | None:
        """The process id of Valkey while it runs, else None."""
        return self._redis.process.pid if self._redis else None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> ServerUrls:
        """Start what does not run yet and return when both answer.

        Raises:
            EmbeddedServerError: another process owns the home, or a server does not start. Nothing is left running.
        """
        if self._urls is not None:
            return self._urls
        try:
            self._make_directories()
            self._lock = _take_lock(self._home)
            servers_file(self._home).unlink(missing_ok=True)
            self._ports = _read_ports(self._home)
            self._make_servers()
            self._start_servers()
            self._urls = self._publish()
        except BaseException as error:
            self.stop()
            if isinstance(error, OSError):
                raise EmbeddedServerError(f"the embedded servers cannot use {self._home}: {error}") from error
            raise
        return self._urls

    def stop(self) -> None:
        """Stop both in the orderly way, by force after 30 s each, and give the home free."""
        if self._lock is None:
            return
        try:
            servers_file(self._home).unlink(missing_ok=True)
            if self._redis is not None:
                self._redis.process.stop()
        finally:
            try:
                if self._postgres is not None:
                    self._postgres.process.stop()
                    self._postgres.release()
            finally:
                self._redis = self._postgres = self._urls = None
                fcntl.flock(self._lock, fcntl.LOCK_UN)
                os.close(self._lock)
                self._lock = None

    def ended(self) -> dict[str, tuple[int, str]]:
        """The exit code and the last words of each server that ended by itself, by name: postgres, redis."""
        servers = {"postgres": self._postgres, "redis": self._redis}
        return {
            name: (code, server.process.last_log_line())
            for name, server in servers.items()
            if server is not None and (code := server.process.exit_code) is not None
        }

    def restart(self, name: str) -> None:
        """`restart_postgres` or `restart_redis`."""
        {"postgres": self.restart_postgres, "redis": self.restart_redis}[name]()

    def restart_postgres(self) -> None:
        """Stop PostgreSQL if it runs, and start it on the same port."""
        if self._postgres is None:
            raise EmbeddedServerError("PostgreSQL is not started")
        self._postgres.process.stop()
        self._postgres.start(self._ports["postgres"])
        self._publish()

    def restart_redis(self) -> None:
        """Stop Valkey if it runs, and start it on the same port."""
        if self._redis is None:
            raise EmbeddedServerError("Valkey is not started")
        self._redis.process.stop()
        self._redis.start(self._ports["redis"])
        self._publish()

    def _make_directories(self) -> None:
        for directory in (self._home, self._home / "run", self._home / "log"):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)

    def _make_servers(self) -> None:
        password = _password(self._home)
        if self._serve_postgres:
            self._postgres = EmbeddedPostgres(
                self._home / "postgres", self.postgres_log, password=password, settings=self._postgres_settings,
                wal_archive=self._wal_archive,
            )  # fmt: skip
        if self._serve_redis:
            self._redis = EmbeddedValkey(
                self._home / "redis", self.redis_log, password=password, appendfsync=self._appendfsync
            )

    def _start_servers(self) -> None:
        for name, server in (("postgres", self._postgres), ("redis", self._redis)):
            if server is not None:
                server.prepare()
                self._ports[name] = _start_on_free_port(server.start, self._ports.get(name))
        _write_private(self._home / "run" / "ports.json", json.dumps(self._ports))

    def _publish(self) -> ServerUrls:
        urls = ServerUrls(
            self._postgres.url(self._ports["postgres"]) if self._postgres else "",
            self._redis.url(self._ports["redis"]) if self._redis else "",
            owned=True,
        )
        text = json.dumps({
            "owner": os.getpid(), "postgres_pid": self.postgres_pid, "redis_pid": self.redis_pid,
            "database_url": urls.database_url, "redis_url": urls.redis_url,
        })  # fmt: skip
        _write_private(servers_file(self._home), text)
        return urls


def running_servers(home: Path) -> ServerUrls | None:
    """The URLs of the stack that a live process (perhaps this one) runs in `home`, else None."""
    home = home.expanduser().absolute()
    try:
        descriptor = os.open(home / "run" / "lock", os.O_RDONLY)
    except OSError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        with suppress(OSError, ValueError, KeyError, TypeError):
            content = json.loads(servers_file(home).read_text(encoding="utf-8"))
            return ServerUrls(str(content["database_url"]), str(content["redis_url"]))
        return None
    finally:
        os.close(descriptor)
    return None


@contextmanager
def servers_for(settings: Settings) -> Iterator[ServerUrls]:
    """The servers to work with: those of the settings' URLs, else of the stack that runs in the home, else our own.

    Each URL counts by itself. Embedded servers that this call starts are started again if they die, and stopped at the
    end of the block.

    Raises:
        EmbeddedServerError: the embedded servers are needed and do not start.
    """
    database_url, redis_url = tls.database_url(settings), tls.redis_url(settings)
    if database_url and redis_url:
        yield ServerUrls(database_url, redis_url)
        return
    home = settings.nightshift_home()
    running = running_servers(home)
    if running and (database_url or running.database_url) and (redis_url or running.redis_url):
        yield ServerUrls(database_url or running.database_url, redis_url or running.redis_url)
        return
    own = EmbeddedServers(
        home,
        serve_postgres=not database_url,
        serve_redis=not redis_url,
        wal_archive=wal_directory(settings),
    )
    with own as servers:
        urls = servers.start()
        with watched(servers):
            yield ServerUrls(database_url or urls.database_url, redis_url or urls.redis_url, owned=True)


@contextmanager
def home_held(home: Path) -> Iterator[None]:
    """Nobody starts servers in `home` while the block lasts.

    Raises:
        EmbeddedServerError: somebody has.
    """
    (home / "run").mkdir(mode=0o700, parents=True, exist_ok=True)
    lock = _take_lock(home)
    try:
        yield
    finally:
        fcntl.flock(lock, fcntl.LOCK_UN)
        os.close(lock)


def servers_file(home: Path) -> Path:
    """The file that tells other processes where the servers of `home` are, while they serve."""
    return home / "run" / "servers.json"


def _take_lock(home: Path) -> int:
    descriptor = os.open(home / "run" / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        Retrying(
            stop=stop_after_delay(_LOCK_SECONDS), wait=wait_fixed(0.05), retry=retry_if_exception_type(BlockingIOError)
        )(fcntl.flock, descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BaseException as error:
        owner = os.pread(descriptor, 20, 0).decode("ascii", "replace").strip() or "unknown"
        os.close(descriptor)
        if isinstance(error, RetryError):
            raise EmbeddedServerError(
                f"{home} is in use by process {owner}: stop it, or set NIGHTSHIFT_HOME to another directory"
            ) from None
        raise
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, str(os.getpid()).encode(), 0)
    return descriptor


def _password(home: Path) -> str:
    file = home / "password"
    with suppress(FileNotFoundError):
        if password := file.read_text(encoding="utf-8").strip():
            return password
    if (home / "postgres").exists():
        raise EmbeddedServerError(f"{file} is gone, and {home / 'postgres'} needs it: restore it, or remove {home}")
    password = secrets.token_hex(24)
    _write_private(file, password)
    return password


def _read_ports(home: Path) -> dict[str, int]:
    with suppress(OSError, ValueError, AttributeError):
        content = json.loads((home / "run" / "ports.json").read_text(encoding="utf-8"))
        return {name: port for name, port in content.items() if isinstance(port, int) and 0 < port < 2**16}
    return {}


def _start_on_free_port(start: Callable[[int], None], preferred: int | None) -> int:
    for _ in range(_PORT_ATTEMPTS):
        port = free_port(preferred)
        try:
            start(port)
        except PortTakenError:
            preferred = None
        else:
            return port
    raise EmbeddedServerError(f"every port tried was taken by somebody else, {_PORT_ATTEMPTS} times")


def _write_private(path: Path, text: str) -> None:
    """Replace `path` at once: a reader sees the old text or the new one, and only its owner reads it at all."""
    new = path.with_name(path.name + ".new")
    new.unlink(missing_ok=True)
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(text)
    new.replace(path)
