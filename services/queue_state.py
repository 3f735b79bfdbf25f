"""What Redis holds: the length of every queue, what is unacknowledged, and how many messages were dropped, and why.

Kombu keeps a queue in one list for each priority step, and the messages that a worker has taken but not acknowledged in
one hash; all of them are counted. An outage raises: it is never a queue of length 0.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from core.errors import ServerUnreachableError
from core.log import mask_secrets
from core.queues import Queue

KEY_PREFIX = "nightshift:"
PRIORITY_STEPS = (0, 3, 6, 9)
_SEPARATOR = "\x06\x16"  # kombu's, between a queue's name and its priority step
_UNACKED = f"{KEY_PREFIX}unacked"
_DROPPED = f"{KEY_PREFIX}dropped"
_SCAN_COUNT = 500

Client = redis.Redis  # of bytes: what lies in a queue need not be text


@contextmanager
def redis_client(url: str) -> Iterator[Client]:
    """A client whose failures come within seconds, as ServerUnreachableError, and without the password."""
    client = redis.Redis.from_url(url, socket_timeout=5, socket_connect_timeout=2, retry=Retry(NoBackoff(), 0))
    try:
        yield client
    except redis.RedisError as error:
        reason = mask_secrets(str(error)).splitlines()[:1] or [type(error).__name__]
        raise ServerUnreachableError(f"Redis is out of reach: {reason[0]} (NIGHTSHIFT_REDIS_URL)") from None
    finally:
        client.close()


def queue_key(queue: Queue, priority: int = 0) -> str:
    """The key of the list that holds the messages of `queue` with this priority step."""
    return f"{KEY_PREFIX}{queue}{_SEPARATOR}{priority}" if priority else f"{KEY_PREFIX}{queue}"


def queue_lengths(client: Client) -> dict[Queue, int]:
    """Messages that wait, by queue, over all priority steps."""
    with client.pipeline(transaction=False) as pipeline:
        for queue in Queue:
            for step in PRIORITY_STEPS:
                pipeline.llen(queue_key(queue, step))
        lengths = iter(pipeline.execute())
    return {queue: sum(next(lengths) for _ in PRIORITY_STEPS) for queue in Queue}


def unacked(client: Client) -> dict[Queue, int]:
    """Messages that a worker has taken and not acknowledged, by queue."""
    counts = dict.fromkeys(Queue, 0)
    for _, value in client.hscan_iter(_UNACKED, count=_SCAN_COUNT):
        # Kombu's record of a message: the message, its exchange, its routing key.
        _, _, routing_key = json.loads(value)
        if routing_key in counts:
            counts[Queue(routing_key)] += 1
    return counts


def count_dropped(client: Client, reason: str) -> None:
    """Count one dropped message, in Redis, so that the count outlives the worker."""
    client.hincrby(_DROPPED, reason, 1)


def dropped(client: Client) -> dict[str, int]:
    """How many messages were ever dropped, by reason."""
    counts = client.hgetall(_DROPPED)
    return {_text(reason): int(count) for reason, count in counts.items()}


def _text(value: bytes | str) -> str:
    return value.decode() if isinstance(value, bytes) else value
