"""Which groups of workers there are, which queues they serve, and when each last answered. Kept in Redis.

Somebody asks them every few seconds through Celery's remote control, so that only a living event loop can answer
(workers/exporter/watcher.py), and writes down here what they said. One that is told to stop says goodbye. One that is
just gone is lost until it answers again, or until it is forgotten after an hour. Moments are by the clock of Redis,
because several machines write them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import Any

from core.queues import Queue
from services.queue_state import KEY_PREFIX, Client

SILENT = timedelta(seconds=30)
_FORGOTTEN = timedelta(hours=1)
_WORKERS = f"{KEY_PREFIX}workers"
_ASKED = f"{KEY_PREFIX}workers_asked"


@dataclass(frozen=True, slots=True)
class Answer:
    """What a group said: the queues that it serves, how many processes its pool has."""

    queues: tuple[str, ...]
    processes: int


@dataclass(frozen=True, slots=True)
class WorkersState:
    """Groups and pool processes that answer, by queue; how many groups are lost; when each answered, since 1970."""

    groups: dict[Queue, int]
    processes: dict[Queue, int]
    lost: int
    answered: dict[str, float]


@dataclass(frozen=True, slots=True)
class _Record:
    """What Redis holds of a group. `left`: when it said goodbye; 0 if it has not."""

    queues: tuple[str, ...] = ()
    processes: int = 0
    answered: float = 0.0
    left: float = 0.0


def write_answers(client: Client, asked: float, answers: Mapping[str, Answer]) -> None:
    """Write down who answered a question of the moment `asked`, and forget who has not for an hour."""
    before = _records(client)
    fresh = {
        name: _Record(answer.queues, answer.processes, answered=asked)
        for name, answer in answers.items()
        # Else it has said goodbye since it answered.
        if name not in before or before[name].left < asked
    }
    stale = [
        name for name, record in before.items()
        if name not in fresh and asked - max(record.answered, record.left) > _FORGOTTEN.total_seconds()
    ]  # fmt: skip
    with client.pipeline(transaction=True) as pipeline:
        for name, record in fresh.items():
            pipeline.hset(_WORKERS, name, json.dumps(asdict(record)))
        if stale:
            pipeline.hdel(_WORKERS, *stale)
        pipeline.set(_ASKED, str(asked))
        pipeline.execute()


def say_goodbye(client: Client, name: str) -> None:
    """Write down that this group ends as it was told."""
    client.hset(_WORKERS, name, json.dumps(asdict(_Record(left=clock_of(client)))))


def workers_state(client: Client) -> WorkersState | None:
    """Who is there; None if nobody has asked for so long that nobody can tell."""
    asked, now = client.get(_ASKED), clock_of(client)
    if asked is None or now - float(asked) > SILENT.total_seconds():
        return None
    known = {name: record for name, record in _records(client).items() if not record.left}
    there = [record for record in known.values() if now - record.answered <= SILENT.total_seconds()]
    return WorkersState(
        groups={queue: sum(queue in record.queues for record in there) for queue in Queue},
        processes={queue: sum(record.processes for record in there if queue in record.queues) for queue in Queue},
        lost=len(known) - len(there),
        answered={name: record.answered for name, record in known.items()},
    )


def clock_of(client: Client) -> float:
    """The time by the server's clock, in seconds since 1970."""
    seconds, microseconds = client.time()
    return float(seconds) + float(microseconds) / 1e6


def _records(client: Client) -> dict[str, _Record]:
    found: Mapping[Any, Any] = client.hgetall(_WORKERS)
    return {name.decode(): _Record(**json.loads(record)) for name, record in found.items()}
