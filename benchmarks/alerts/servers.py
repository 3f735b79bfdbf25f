"""How the servers are broken: killed, filled, blocked, used up; and the disk."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

import psycopg

from benchmarks.alerts.site import Site
from core.errors import NightshiftError
from services.metrics_redis import redis_server
from services.queue_state import redis_client

_MIB = 2**20
_FILLER = "bench:filler"
_REDIS_MIB = 64
# Well above the rules' limits, and well below what breaks something else.
_REDIS_SHARE, _CONNECTIONS_SHARE, _DISK_SHARE = 0.85, 0.88, 0.9


@contextmanager
def redis_killed(site: Site) -> Iterator[None]:
    """SIGKILL; in the end it is started again."""
    _kill(site.servers.redis_pid)
    try:
        yield
    finally:
        site.servers.restart_redis()


@contextmanager
def postgres_killed(site: Site) -> Iterator[None]:
    """SIGKILL to its leader; in the end it is started again, and recovers."""
    _kill(site.servers.postgres_pid)
    try:
        yield
    finally:
        site.servers.restart_postgres()


@contextmanager
def redis_filled(site: Site) -> Iterator[None]:
    """Redis has a limit of 64 MiB, and other data fill it."""
    with redis_client(site.urls.redis_url) as client:
        client.config_set("maxmemory", _REDIS_MIB * _MIB)
        try:
            while (server := redis_server(client)).used < _REDIS_SHARE * server.limit:
                client.rpush(_FILLER, os.urandom(_MIB))
            yield
        finally:
            client.unlink(_FILLER)
            client.config_set("maxmemory", 0)


@contextmanager
def slow_statement(site: Site) -> Iterator[None]:
    """A statement that does not end by itself."""
    with site.connect("a slow report") as connection:
        thread = threading.Thread(target=_sleep, args=(connection,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            connection.cancel_safe()
            thread.join()


@contextmanager
def connections_used_up(site: Site) -> Iterator[None]:
    """Somebody else opens connections and does nothing with them."""
    usable = site.scalar(
        "SELECT current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int"
    )
    assert isinstance(usable, int)  # noqa: S101 - as the query says
    with ExitStack() as opened:
        for _ in range(usable):
            used = site.scalar("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'")
            if isinstance(used, int) and used >= _CONNECTIONS_SHARE * usable:
                break
            opened.enter_context(site.connect("a leak"))
        yield


@contextmanager
def disk_filled(site: Site) -> Iterator[None]:
    """A file fills the disk below the home, which here is a small one of its own."""
    if not site.own_disk:
        raise NightshiftError("filling a disk wants a small one, and only root may mount it: not provoked")
    home = site.settings.nightshift_home()
    filler = home / "filler"
    disk = os.statvfs(home)
    wanted = int(_DISK_SHARE * disk.f_blocks - (disk.f_blocks - disk.f_bavail)) * disk.f_frsize
    with filler.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, wanted)
    try:
        yield
    finally:
        filler.unlink()


def _sleep(connection: psycopg.Connection[tuple[object, ...]]) -> None:
    with suppress(psycopg.errors.QueryCanceled):
        connection.execute("SELECT pg_sleep(600)")


def _kill(pid: int | None) -> None:
    if pid is None:
        raise NightshiftError("the server that is to be broken does not run")
    os.kill(pid, signal.SIGKILL)
