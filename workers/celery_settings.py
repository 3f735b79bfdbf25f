"""Celery's settings, each with its reason.

They are the same in every process that touches the broker: workers, beat, Flower, the exporter and the command line.
Any of them that asks a worker something may restore unacknowledged messages, and does so by its own
`visibility_timeout`.
"""

from __future__ import annotations

from typing import Any

import kombu

from core.queues import Queue
from core.settings import Settings
from core.tls import redis_tls
from schedules.beat import schedules
from services.queue_state import KEY_PREFIX, PRIORITY_STEPS
from tasks.messages import MESSAGES
from workers.process_memory import memory_limit

PUBLISH_BATCH = 500


def celery_settings(settings: Settings, redis_url: str) -> dict[str, Any]:
    """Everything that the app is configured with."""
    return {
        "broker_url": redis_url,
        # Flower makes a client of its own and reads no options of TLS from the URL.
        "broker_use_ssl": redis_tls(redis_url),
        "broker_transport_options": transport_options(settings),
        **_delivery(settings),
        **_connection(),
        **_queues(),
        **_format(),
        **_worker(settings),
        "beat_schedule": {
            schedule.name: {
                "task": schedule.task,
                "schedule": schedule.every,
                "options": {"queue": schedule.queue, "expires": schedule.every.total_seconds()},
            }
            for schedule in schedules(settings)
        },
    }


def transport_options(settings: Settings) -> dict[str, Any]:
    """The options of kombu's Redis transport.

    No `retry_on_timeout` and no retry policy: either would silently turn batch publishing off.
    """
    return {
        # Above the hard time limit, or a message would be given to a second worker while the first is still at it.
        "visibility_timeout": settings.visibility_timeout,
        # Sweep every 5 x 1 s, 500 messages at a time. The default: every 100 s, without a limit, in the event loop.
        "unacked_restore_interval": 5,
        "unacked_restore_throttle": 1,
        "unacked_restore_limit": 500,
        # The defaults wait for ever on a half-open connection.
        "socket_timeout": 10,
        "socket_connect_timeout": 5,
        "socket_keepalive": True,
        "health_check_interval": 10,
        "global_keyprefix": KEY_PREFIX,
        "priority_steps": list(PRIORITY_STEPS),
        # A worker empties its first queue before it looks at the second: `-Q simulations,reprocess`.
        "queue_order_strategy": "priority",
        "message_max_bytes": settings.message_max_bytes,
    }


def _delivery(settings: Settings) -> dict[str, Any]:
    return {
        # Redeliver after a crash. On a failure or a timeout acknowledge: the reconciler decides about another attempt,
        # with a cap, while a message that goes back by itself goes back for ever.
        "task_acks_late": True,
        "task_reject_on_worker_lost": True,
        "task_acks_on_timeout": True,
        "task_acks_on_failure": True,
        # Results are rows.
        "task_ignore_result": True,
        "task_store_errors_even_if_ignored": False,
        "result_backend": None,
        "worker_prefetch_multiplier": 1,
        "task_soft_time_limit": settings.soft_time_limit,
        "task_time_limit": settings.hard_time_limit,
    }


def _connection() -> dict[str, Any]:
    return {
        # Wait for Redis, however long it is away, at the start and later.
        "broker_connection_retry": True,
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,
        "broker_connection_timeout": 5,
        # The default blocks for ever when all connections are in use.
        "broker_pool_acquire_timeout": 10,
        # After a reconnect the messages of the running tasks are given out again: end those tasks.
        "worker_cancel_long_running_tasks_on_connection_loss": True,
        # Redis has no quorum queues to look for.
        "worker_detect_quorum_queues": False,
    }


def _queues() -> dict[str, Any]:
    return {
        "task_queues": [kombu.Queue(queue.value, routing_key=queue.value) for queue in Queue],
        "task_routes": {name: {"queue": message.queue.value} for name, message in MESSAGES.items()},
        "task_default_queue": Queue.CONTROL.value,
        "task_create_missing_queues": False,
    }


def _format() -> dict[str, Any]:
    return {
        # JSON only: unpickling a message would run whatever its sender likes.
        "accept_content": ["json"],
        "result_accept_content": ["json"],
        "task_serializer": "json",
        "result_serializer": "json",
        "event_serializer": "json",
        "enable_utc": True,
        "timezone": "UTC",
    }


def _worker(settings: Settings) -> dict[str, Any]:
    return {
        # Flower lives on these.
        "worker_send_task_events": True,
        "task_send_sent_event": True,
        # Celery's soft shutdown sleeps through its timeout, idle or not; ours is in workers/shutdown.py. So a SIGQUIT,
        # or a second Ctrl-C, ends the running tasks at once, and they give their batches back.
        "worker_soft_shutdown_timeout": 0,
        "worker_enable_soft_shutdown_on_idle": False,
        # Without a market. A worker that starts allows for the assets that there are (workers/signals.py), and each
        # process of its pool for those that there are by then.
        "worker_max_memory_per_child": memory_limit(settings, 0),
        "worker_pool": "workers.prefork:TaskPool",
        # Of a worker that is started with `--autoscale`.
        "worker_autoscaler": "workers.autoscaler:Autoscaler",
        # A child imports numpy before it answers; on a busy machine that takes more than the default 4 s.
        "worker_proc_alive_timeout": 60,
        # structlog is configured once (workers/signals.py), and stdout is not for logs.
        "worker_hijack_root_logger": False,
        "worker_redirect_stdouts": False,
    }
