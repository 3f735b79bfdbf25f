"""Asks the workers every few seconds who they are, and writes down who answered (services/worker_registry.py).

A thread of its own: an answer takes a second, which no scrape should wait for.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from kombu.exceptions import KombuError
from redis import RedisError

from core.errors import ServerUnreachableError
from core.log import get_logger
from core.queues import Queue
from core.settings import Settings
from services.queue_state import redis_client
from services.scaling_inputs import Load, write_loads
from services.worker_registry import Answer, clock_of, write_answers
from workers.app import make_app

if TYPE_CHECKING:
    from celery import Celery

log = get_logger(__name__)

_ASK_SECONDS = 5.0
_ANSWER_SECONDS = 1.0


class Watcher:
    """The thread. It asks for as long as the process lives, whatever happens to Redis meanwhile."""

    def __init__(self, settings: Settings, redis_url: str) -> None:
        self._settings = settings
        self._redis_url = redis_url
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watcher", daemon=True)

    def start(self) -> None:
        """Begin to ask."""
        self._thread.start()

    def stop(self) -> None:
        """Ask no more."""
        self._stopping.set()
        self._thread.join()

    def _watch(self) -> None:
        # An app of its own: the mailbox of an app is not made for several threads.
        with make_app(self._settings, self._redis_url) as app:
            while True:
                try:
                    with redis_client(self._redis_url) as client:
                        asked = clock_of(client)
                        answers, loads = ask(app)
                        write_answers(client, asked, answers)
                        write_loads(client, asked, loads)
                except (ServerUnreachableError, KombuError, RedisError, OSError) as error:
                    log.warning("workers were not asked", error=type(error).__name__)
                if self._stopping.wait(_ASK_SECONDS):
                    return


def ask(app: Celery) -> tuple[dict[str, Answer], dict[str, Load]]:
    """Which groups answer within a second, what they say, and how busy the hosts of those for nights are.

    It takes that long, twice.

    Raises:
        kombu.exceptions.KombuError, redis.RedisError, OSError: Redis is out of reach.
    """
    inspect = app.control.inspect(timeout=_ANSWER_SECONDS)
    queues: Mapping[str, list[Mapping[str, Any]]] = inspect.active_queues() or {}
    pools: Mapping[str, Mapping[str, Any]] = inspect.stats() or {}
    answers = {
        name: Answer(tuple(str(queue["name"]) for queue in served), len(_processes(pools.get(name, {}))))
        for name, served in queues.items()
    }
    hosts = {name: pools[name]["host"] for name in answers if "host" in pools.get(name, {})}
    loads = {
        name: Load(float(host["cpu"]), float(host["memory"]))
        for name, host in hosts.items()
        if Queue.SIMULATIONS in answers[name].queues
    }
    return answers, loads


def _processes(stats: Mapping[str, Any]) -> list[int]:
    return list(stats.get("pool", {}).get("processes") or [])
