"""What the exporter shows of Redis: how long messages have been in a worker's hands, and how the server is doing."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from core.queues import Queue
from services.queue_state import KEY_PREFIX, Client
from services.worker_registry import clock_of

_UNACKED = f"{KEY_PREFIX}unacked"
# Kombu's: the moment at which a worker took a message, by the worker's clock.
_TAKEN_AT = f"{KEY_PREFIX}unacked_index"


@dataclass(frozen=True, slots=True)
class RedisServer:
    """A server's memory in bytes (`limit`: its maxmemory, else the machine's), keys that it evicted, connections."""

    used: int
    limit: int
    evicted: int
    clients: int


def redis_server(client: Client) -> RedisServer:
    """Ask the server about itself."""
    info = client.info()
    return RedisServer(
        used=int(info["used_memory"]),
        limit=int(info.get("maxmemory", 0)) or int(info.get("total_system_memory", 0)),
        evicted=int(info["evicted_keys"]),
        clients=int(info["connected_clients"]),
    )


def oldest_unacked(client: Client) -> dict[Queue, float]:
    """Seconds since the oldest message that is not acknowledged was taken, by queue; 0 if there is none."""
    now = clock_of(client)
    ages = dict.fromkeys(Queue, 0.0)
    # The oldest first; a pool holds few.
    taken: Any = client.zrange(_TAKEN_AT, 0, -1, withscores=True)
    if not taken:
        return ages
    for record, (_, moment) in zip(client.hmget(_UNACKED, [tag for tag, _ in taken]), taken, strict=True):
        if record is None:
            continue
        _, _, queue = json.loads(record)
        if queue in ages:
            ages[Queue(queue)] = max(ages[Queue(queue)], now - moment)
    return ages
