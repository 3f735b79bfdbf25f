"""Prometheus' view: read at every scrape, so that no number is older than the question.

A source that does not answer yields no samples at all, its `nightshift_source_up` included: an outage must look like an
outage, never like a queue of length 0. So alerts on an outage ask for the absence.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import datetime

from prometheus_client.core import Metric
from prometheus_client.registry import Collector
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from core.errors import NightshiftError
from core.log import get_logger
from core.settings import Settings
from services.cache_server import CacheServer, cache_url
from services.metrics import DatabaseReader
from services.metrics_redis import RedisServer, redis_server
from services.queue_state import redis_client
from workers.exporter.deadline import ask_all
from workers.exporter.families import many, one
from workers.exporter.from_database import database_samples
from workers.exporter.from_redis import broker_samples, cache_samples, server_samples

log = get_logger(__name__)

# Prometheus gives up after ten seconds, and would then believe that the exporter is away.
_ANSWER_SECONDS = 7.0
_OUTAGES = (SQLAlchemyError, NightshiftError, OSError)
_SOURCE = {"broker": "redis", "cache": "cache"}


class NightshiftCollector(Collector):
    """Everything that `/metrics` shows."""

    def __init__(self, engine: Engine, redis_url: str, clock: Callable[[], datetime], settings: Settings) -> None:
        self._reader = DatabaseReader(engine, settings)
        self._redis_url = redis_url
        self._cache_url = cache_url(settings, redis_url)
        self._clock = clock
        self._settings = settings

    def describe(self) -> list[Metric]:
        """Nothing: registering the collector must not need the servers."""
        return []

    def collect(self) -> Iterator[Metric]:
        """The samples of every source that answers.

        Raises:
            Exception: a source failed in a way that no outage explains.
        """
        up: dict[str, float] = {}
        seconds: dict[str, float] = {}
        servers: dict[str, RedisServer] = {}
        questions: dict[str, Callable[[], list[Metric]]] = {
            "database": lambda: list(self._database()),
            "redis": lambda: list(self._redis(servers)),
            "cache": lambda: list(self._cache(servers)),
            "disk": lambda: list(self._disk()),
        }
        for source, answer in ask_all(questions, seconds=_ANSWER_SECONDS).items():
            if answer.error is not None:
                if not isinstance(answer.error, _OUTAGES):
                    raise answer.error
                log.warning("scrape failed", source=source, error=type(answer.error).__name__)
                continue
            up[source], seconds[source] = 1, answer.seconds
            yield from answer.value or []
        # A late answer may still be on its way into `servers`.
        yield from server_samples({name: server for name, server in list(servers.items()) if _SOURCE[name] in up})
        yield many("source_up", up)
        yield many("source_seconds", seconds)
        yield from one("visibility_timeout_seconds", self._settings.visibility_timeout)

    def _database(self) -> Iterator[Metric]:
        now = self._clock()
        return database_samples(self._reader.read(now), now, self._settings.clock_offset)

    def _redis(self, servers: dict[str, RedisServer]) -> Iterator[Metric]:
        with redis_client(self._redis_url) as client:
            yield from broker_samples(client)
            servers["broker"] = redis_server(client)

    def _cache(self, servers: dict[str, RedisServer]) -> Iterator[Metric]:
        with closing(CacheServer(self._cache_url)) as server, server.firmly() as client:
            yield from cache_samples(client)
            if self._settings.cache_url is not None:
                servers["cache"] = redis_server(client)

    def _disk(self) -> Iterator[Metric]:
        disk = os.statvfs(self._settings.nightshift_home())
        yield many("disk_size_bytes", {"home": disk.f_frsize * disk.f_blocks})
        yield many("disk_free_bytes", {"home": disk.f_frsize * disk.f_bavail})
