"""Which workers answer. Asked through Celery's remote control, so that only a living event loop can answer."""

from __future__ import annotations

from threading import Lock
from typing import TYPE_CHECKING

from kombu.exceptions import KombuError
from redis import RedisError

from core.errors import ServerUnreachableError

if TYPE_CHECKING:
    from celery import Celery

_one_at_a_time = Lock()


def worker_names(app: Celery, *, timeout: float = 1.0) -> list[str]:
    """The names of the workers that answer within `timeout` seconds; it always takes that long.

    Raises:
        ServerUnreachableError: Redis is out of reach.
    """
    try:
        # The app's mailbox is not made for several threads.
        with _one_at_a_time:
            answers = app.control.ping(timeout=timeout)
    except (KombuError, RedisError, OSError) as error:
        raise ServerUnreachableError(f"Redis is out of reach ({type(error).__name__})") from None
    return sorted(name for answer in answers for name in answer)


def worker_queues(app: Celery, *, timeout: float = 1.0) -> dict[str, list[str]]:
    """The queues that each worker serves, by the names of the workers that answer; it takes `timeout` seconds.

    Raises:
        ServerUnreachableError: Redis is out of reach.
    """
    try:
        with _one_at_a_time:
            answers = app.control.inspect(timeout=timeout).active_queues() or {}
    except (KombuError, RedisError, OSError) as error:
        raise ServerUnreachableError(f"Redis is out of reach ({type(error).__name__})") from None
    return {name: [str(queue["name"]) for queue in queues] for name, queues in sorted(answers.items())}
