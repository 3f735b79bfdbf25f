"""What the running workers say of themselves, through Celery's remote control: queues, processes, options."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from kombu.exceptions import KombuError
from redis import RedisError

from core.errors import ServerUnreachableError
from services.doctor_stack import WorkerOptions

if TYPE_CHECKING:
    from celery import Celery

_TRANSPORT = "broker_transport_options"
# Beside those of the transport: what decides when a message is given up or given out again, and how it is written.
_OPTIONS = (
    "task_acks_late", "task_reject_on_worker_lost", "task_acks_on_failure", "task_acks_on_timeout",
    "task_soft_time_limit", "task_time_limit", "worker_prefetch_multiplier", "accept_content", "task_serializer",
)  # fmt: skip
_MOST_SECONDS = 5.0


def worker_options(app: Celery, *, timeout: float = 1.5) -> list[WorkerOptions]:
    """All workers that answer within `timeout` seconds, by name.

    Raises:
        ServerUnreachableError: Redis is out of reach.
    """
    try:
        queues = app.control.inspect(timeout=timeout).active_queues() or {}
        # Whoever answered once is waited for, and no longer than until all have.
        again = app.control.inspect(destination=sorted(queues), timeout=_MOST_SECONDS, limit=len(queues))
        configurations = (again.conf() or {}) if queues else {}
        statistics = (again.stats() or {}) if queues else {}
    except (KombuError, RedisError, OSError) as error:
        raise ServerUnreachableError(f"Redis is out of reach ({type(error).__name__})") from None
    return [
        WorkerOptions(
            name=name,
            queues=tuple(str(queue["name"]) for queue in served),
            processes=len(statistics.get(name, {}).get("pool", {}).get("processes", ())),
            options=options_of(configurations.get(name, {})),
        )
        for name, served in sorted(queues.items())
    ]


def options_of(configuration: Mapping[str, Any]) -> dict[str, Any]:
    """The options that must be the same in every process, those of the transport by their own names."""
    transport = dict(configuration.get(_TRANSPORT) or {})
    # Celery takes its name for a secret's and shows asterisks. With another one, a worker would not have answered.
    transport.pop("global_keyprefix", None)
    return transport | {name: configuration.get(name) for name in _OPTIONS}
