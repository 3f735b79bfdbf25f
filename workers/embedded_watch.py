"""Embedded servers that die are started again on their ports, as long as their owner wants them to serve.

PostgreSQL recovers from its log, Valkey from its append-only file; whoever was connected connects again. A server that
dies again and again is started after longer and longer waits. Each death is a line of the owner's log.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import psycopg
import redis

from core.errors import EmbeddedServerError
from core.log import get_logger
from workers.restarts import Restarts

if TYPE_CHECKING:
    from workers.embedded import EmbeddedServers

_LOOK_SECONDS = 0.2

log = get_logger(__name__)


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
    watches: dict[str, Restarts] = {}
    began = time.monotonic()
    while not stopping.wait(_LOOK_SECONDS):
        for name, (code, words) in servers.ended().items():
            watch = watches.setdefault(name, Restarts(began))
            if watch.restart_at is None:
                delay = watch.died(time.monotonic())
                log.warning("server died", server=name, exit_code=code, restart_in=delay, last_words=words)
        for name, watch in watches.items():
            if watch.is_due(time.monotonic()) and not stopping.is_set():
                _restart(servers, name, watch)


def _restart(servers: EmbeddedServers, name: str, watch: Restarts) -> None:
    try:
        servers.restart(name)
    except (EmbeddedServerError, OSError, psycopg.Error, redis.RedisError) as error:
        watch.started = time.monotonic()
        log.warning("server not started again", server=name, error=str(error), retry_in=watch.died(watch.started))
    else:
        watch.restarted(time.monotonic())
        # A warning, as its death was: whoever read that one wants to know.
        log.warning("server started again", server=name)
