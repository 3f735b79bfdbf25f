"""Prometheus' view: read at every scrape, so that no number is older than the question.

A source that does not answer yields no samples at all, its `nightshift_source_up` included: an outage must look like an
outage, never like a queue of length 0. So alerts on an outage use `absent()`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import datetime

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from core.errors import NightshiftError
from core.log import get_logger
from core.settings import Settings
from models.tables import BATCH_STATUSES, RUN_KINDS, RUN_STATUSES
from models.tables_ingestion import WINDOW_OPEN
from services.cache_server import CacheServer, cache_url
from services.metrics import DatabaseMetrics, database_metrics, price_age
from services.price_cache import read_counts
from services.queue_state import dropped, queue_lengths, redis_client, unacked
from workers.door import Refusal

log = get_logger(__name__)


class NightshiftCollector(Collector):
    """Everything that `/metrics` shows."""

    def __init__(self, engine: Engine, redis_url: str, clock: Callable[[], datetime], settings: Settings) -> None:
        self._engine = engine
        self._redis_url = redis_url
        self._cache_url = cache_url(settings, redis_url)
        self._clock = clock
        self._settings = settings

    def describe(self) -> list[Metric]:
        """Nothing: registering the collector must not need the servers."""
        return []

    def collect(self) -> Iterator[Metric]:
        """The samples of every source that answers."""
        up = GaugeMetricFamily(
            "nightshift_source_up", "1 where the source answered this scrape; absent where not.", labels=["source"]
        )
        for source, read in (("database", self._database), ("redis", self._redis), ("cache", self._cache)):
            try:
                families = list(read())
            except (SQLAlchemyError, NightshiftError) as error:
                log.warning("scrape failed", source=source, error=type(error).__name__)
                continue
            up.add_metric([source], 1)
            yield from families
        yield up

    def _database(self) -> Iterator[Metric]:
        metrics = database_metrics(self._engine)
        runs = GaugeMetricFamily("nightshift_runs", "Runs, by kind and status.", labels=["kind", "status"])
        for kind in RUN_KINDS:
            for status in RUN_STATUSES:
                runs.add_metric([kind, status], metrics.runs.get((kind, status), 0))
        yield runs
        batches = GaugeMetricFamily(
            "nightshift_batches", "Batches of the unfinished runs and of the newest run, by status.", labels=["status"]
        )
        for status in BATCH_STATUSES:
            batches.add_metric([status], metrics.batches.get(status, 0))
        yield batches
        yield from _users(metrics)
        yield from self._moments(metrics)
        yield from _prices(metrics, self._clock())

    def _moments(self, metrics: DatabaseMetrics) -> Iterator[Metric]:
        if metrics.newest_close is not None:
            yield GaugeMetricFamily(
                "nightshift_price_age_seconds",
                "Seconds since the day of the newest close ended (00:00 UTC of the day after it).",
                price_age(metrics.newest_close, self._clock()).total_seconds(),
            )
        if metrics.last_tick is not None:
            # By the wall clock, to which Prometheus compares it.
            tick = metrics.last_tick - self._settings.clock_offset
            yield GaugeMetricFamily(
                "nightshift_beat_last_tick_timestamp_seconds",
                "When beat's last tick was worked on, in seconds since 1970.",
                tick.timestamp(),
            )

    def _cache(self) -> Iterator[Metric]:
        with closing(CacheServer(self._cache_url)) as server, server.firmly() as client:
            counts = read_counts(client)
        yield CounterMetricFamily("nightshift_price_cache_hits", "Prices that were found in the cache.", counts.hits)
        yield CounterMetricFamily(
            "nightshift_price_cache_misses", "Prices that were not found in the cache.", counts.misses
        )

    def _redis(self) -> Iterator[Metric]:
        with redis_client(self._redis_url) as client:
            waiting, taken, refused = queue_lengths(client), unacked(client), dropped(client)
        length = GaugeMetricFamily(
            "nightshift_queue_length", "Messages that wait, over all priority steps.", labels=["queue"]
        )
        pending = GaugeMetricFamily(
            "nightshift_unacked", "Messages that a worker has taken and not acknowledged.", labels=["queue"]
        )
        for queue in waiting:
            length.add_metric([queue.value], waiting[queue])
            pending.add_metric([queue.value], taken[queue])
        counter = CounterMetricFamily(
            "nightshift_messages_dropped", "Messages refused at a worker's door.", labels=["reason"]
        )
        for reason in Refusal:
            counter.add_metric([reason.value], refused.get(reason.value, 0))
        yield length
        yield pending
        yield counter


def _users(metrics: DatabaseMetrics) -> Iterator[Metric]:
    values = (
        ("nightshift_users_planned", "Users of the newest nightly run.", metrics.users_planned),
        ("nightshift_users_done", "Users of the newest nightly run whose batch is done.", metrics.users_done),
        ("nightshift_users_quarantined", "Users with an active entry in quarantine.", metrics.users_quarantined),
    )
    for name, documentation, value in values:
        if value is not None:
            yield GaugeMetricFamily(name, documentation, value)


def _prices(metrics: DatabaseMetrics, now: datetime) -> Iterator[Metric]:
    age = GaugeMetricFamily(
        "nightshift_price_window_age_seconds",
        "Seconds since the newest window that was fetched began, by source.",
        labels=["source"],
    )
    windows = GaugeMetricFamily(
        "nightshift_price_windows_open",
        "Windows that are not fetched, by source and status.",
        labels=["source", "status"],
    )
    for source in metrics.windows:
        if source.newest_done is not None:
            age.add_metric([source.source], max((now - source.newest_done).total_seconds(), 0))
        for status in WINDOW_OPEN:
            windows.add_metric([source.source, status], source.open[status])
    yield age
    yield windows
    yield GaugeMetricFamily("nightshift_held_prices", "Prices that wait for confirmation.", metrics.held)
    alerts = GaugeMetricFamily("nightshift_alerts_active", "Alerts that are raised, by kind.", labels=["kind"])
    for kind, count in sorted(metrics.alerts.items()):
        alerts.add_metric([kind], count)
    yield alerts
    yield GaugeMetricFamily(
        "nightshift_night_waiting", "1 while a night that is due waits for its closes.", metrics.night_waiting
    )
