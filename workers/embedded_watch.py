"""Embedded servers that die are started again on their ports, as long as their owner wants them to serve.

PostgreSQL recovers from its log, Valkey from its append-only file; whoever was connected connects again. A server that
dies again and again is started after longer and longer waits. Each death is a line of the owner's log.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psycopg
import redis

from core.errors import EmbeddedServerError
from core.log import get_logger

if TYPE_CHECKING:
    from workers.embedded import EmbeddedServers

_LOOK_SECONDS = 0.2
_CALM_SECONDS = 60.0  # a server that ran this long had a good start
_LONGEST_BACKOFF = 30.0

log = get_logger(__name__)


@dataclass(slots=True)
class _Watch:
    """How a server is doing: when it was started, how often in a row it died soon, when it is to be started again."""

    started: float
    deaths: int = 0
    restart_at: float | None = None

    def died(self, now: float) -> float:
        """Count a death; the seconds to wait."""
        self.deaths = 1 if now - self.started > _CALM_SECONDS else self.deaths + 1
        delay = min(2.0 ** (self.deaths - 1) - 1, _LONGEST_BACKOFF)
        self.restart_at = now + delay
        return delay


@contextmanager
def watched(servers: EmbeddedServers) -> Iterator[None]:
    """Start these again whenever they die, until the block ends; then none is being started any more."""
    stopping = threading.Event()
    thread = threading.Thread(target=_watch, args=(servers, stopping), name="embedded servers", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopping.set()
        thread.join()


def _watch(servers: EmbeddedServers, stopping: threading.Event) -> None:
    watches: dict[str, _Watch] = {}
    began = time.monotonic()
    while not stopping.wait(_LOOK_SECONDS):
        for name, (code, words) in servers.ended().items():
            watch = watches.setdefault(name, _Watch(began))
            if watch.restart_at is None:
                delay = watch.died(time.monotonic())
                log.warning("server died", server=name, exit_code=code, restart_in=delay, last_words=words)
        for name, watch in watches.items():
            if watch.restart_at is not None and time.monotonic() >= watch.restart_at and not stopping.is_set():
                _restart(servers, name, watch)


def _restart(servers: EmbeddedServers, name: str, watch: _Watch) -> None:
    try:
        servers.restart(name)
    except (EmbeddedServerError, OSError, psycopg.Error, redis.RedisError) as error:
        watch.started = time.monotonic()
        log.warning("server not started again", server=name, error=str(error), retry_in=watch.died(watch.started))
    else:
        watch.started, watch.restart_at = time.monotonic(), None
        # A warning, as its death was: whoever read that one wants to know.
        log.warning("server started again", server=name)
