"""How each kind of fault is done to PostgreSQL and Redis."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from signal import SIGCONT, SIGKILL, SIGQUIT, SIGSTOP, Signals

import psycopg
from redis import RedisError

from benchmarks.chaos.schedule import Fault, Kind
from benchmarks.chaos.site import Site, send_signal
from benchmarks.chaos.world import CHAOS
from services.locks import lock_granules

Hit = Callable[[str], None]
Recovered = Callable[[datetime], bool]
Strike = Callable[[Site, Fault, Hit], Recovered]

_ALL_USERS = (0, 2**62)
_LONGER_THAN_THE_VISIBILITY_TIMEOUT = 1.0


def _kill_redis(*, without_aof: bool) -> Strike:
    def strike(site: Site, fault: Fault, hit: Hit) -> Recovered:
        with site.server_locks["redis"]:
            pid = _running(site.servers.redis_pid)
            send_signal(pid, SIGKILL)
            hit(f"process {pid}")
            if without_aof:
                shutil.rmtree(site.home / "redis" / "appendonlydir", ignore_errors=True)
            time.sleep(fault.seconds)
            site.servers.restart_redis()
        return site.night_goes_on

    return strike


def _flush(site: Site, _fault: Fault, hit: Hit) -> Recovered:
    with site.server_locks["redis"], site.redis() as client:
        keys = client.dbsize()
        client.flushall()
        hit(f"{keys} keys")
    return site.night_goes_on


def _fill_redis(site: Site, fault: Fault, hit: Hit) -> Recovered:
    """One byte of memory allowed: every command that may need more is refused, nothing is evicted."""
    with site.server_locks["redis"], site.redis() as client:
        client.config_set("maxmemory", 1)
        hit("maxmemory 1")
        time.sleep(fault.seconds)
        client.config_set("maxmemory", 0)
    return site.night_goes_on


def _pause_redis(site: Site, fault: Fault, hit: Hit) -> Recovered:
    """Beyond the visibility timeout: every message that is being worked on comes back to a second worker."""
    seconds = site.settings.visibility_timeout + _LONGER_THAN_THE_VISIBILITY_TIMEOUT
    with site.server_locks["redis"]:
        pid = _running(site.servers.redis_pid)
        if fault.pick % 2:
            send_signal(pid, SIGSTOP)
            try:
                hit(f"process {pid} stopped")
                time.sleep(seconds)
            finally:
                send_signal(pid, SIGCONT)
        else:
            with site.redis() as client:
                client.client_pause(int(seconds * 1000), all=True)
            hit("CLIENT PAUSE ALL")
            time.sleep(seconds)
    return site.night_goes_on


def _kill_postgres(signal: Signals) -> Strike:
    """The leader alone: its children end when they notice, and the next start recovers from the log."""

    def strike(site: Site, fault: Fault, hit: Hit) -> Recovered:
        with site.server_locks["postgres"]:
            pid = _running(site.servers.postgres_pid)
            send_signal(pid, signal)
            hit(f"process {pid}")
            if signal is SIGKILL:
                time.sleep(fault.seconds)
            site.servers.restart_postgres()
        return site.night_goes_on

    return strike


def _terminate(site: Site, _fault: Fault, hit: Hit) -> Recovered:
    with site.server_locks["postgres"], psycopg.connect(site.world.url(CHAOS), autocommit=True) as connection:
        ended = connection.execute(
            "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
            " WHERE datname = current_database() AND application_name LIKE 'nightshift worker%'"
        ).fetchone()
        hit(f"{ended[0] if ended else 0} sessions of workers")
    return site.night_goes_on


def _lock(site: Site, fault: Fault, hit: Hit) -> Recovered:
    """A foreign session holds every granule: whoever wants one waits, and gives up at its lock timeout."""
    with site.server_locks["postgres"], suppress(psycopg.Error), psycopg.connect(site.world.url(CHAOS)) as connection:
        hit("every granule")
        lock_granules(connection, *_ALL_USERS, exclusive=True)
        time.sleep(fault.seconds)
    return site.night_goes_on


def _running(pid: int | None) -> int:
    if pid is None:
        raise RedisError("the server to be broken does not run")
    return pid


SERVER_STRIKES: dict[Kind, Strike] = {
    Kind.REDIS_KILL: _kill_redis(without_aof=False),
    Kind.REDIS_KILL_WITHOUT_AOF: _kill_redis(without_aof=True),
    Kind.REDIS_FLUSHALL: _flush,
    Kind.REDIS_OUT_OF_MEMORY: _fill_redis,
    Kind.REDIS_PAUSE: _pause_redis,
    Kind.POSTGRES_KILL: _kill_postgres(SIGKILL),
    Kind.POSTGRES_RESTART: _kill_postgres(SIGQUIT),
    Kind.POSTGRES_TERMINATE: _terminate,
    Kind.POSTGRES_LOCK: _lock,
}
