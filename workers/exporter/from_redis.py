"""Samples of what Redis says: the broker's, and the cache's where that is a server of its own."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import Metric

from services.metrics_redis import RedisServer, oldest_unacked
from services.price_cache import read_counts
from services.queue_state import Client, dropped, queue_lengths, unacked
from services.work_counts import work_totals
from services.worker_registry import workers_state
from workers.door import Refusal
from workers.exporter.families import many, one, summary


def broker_samples(client: Client) -> Iterator[Metric]:
    """Queues, workers, what workers counted; the broker itself is among `server_samples`."""
    yield many("queue_length", {queue.value: length for queue, length in queue_lengths(client).items()})
    yield many("unacked", {queue.value: count for queue, count in unacked(client).items()})
    yield many("unacked_oldest_age_seconds", {queue.value: age for queue, age in oldest_unacked(client).items()})
    refused = dropped(client)
    yield many("messages_dropped_total", {reason.value: refused.get(reason.value, 0) for reason in Refusal})
    work = work_totals(client)
    yield from one("duplicates_absorbed_total", work.duplicates)
    yield summary("worker_commit_seconds", work.commits, work.commit_seconds)
    workers = workers_state(client)
    if workers is not None:
        yield many("workers", {queue.value: groups for queue, groups in workers.groups.items()})
        yield many("worker_processes", {queue.value: processes for queue, processes in workers.processes.items()})
        yield from one("workers_lost", workers.lost)
        yield many("worker_last_answer_timestamp_seconds", dict(workers.answered))


def cache_samples(client: Client) -> Iterator[Metric]:
    """How often the cache of prices had the answer."""
    counts = read_counts(client)
    yield from one("price_cache_hits_total", counts.hits)
    yield from one("price_cache_misses_total", counts.misses)


def server_samples(servers: dict[str, RedisServer]) -> Iterator[Metric]:
    """Memory and connections of the servers that answered, by their names."""
    yield many("redis_memory_used_bytes", {name: server.used for name, server in servers.items()})
    yield many("redis_memory_max_bytes", {name: server.limit for name, server in servers.items()})
    yield many("redis_connected_clients", {name: server.clients for name, server in servers.items()})
    yield many("redis_evicted_keys_total", {name: server.evicted for name, server in servers.items()})
