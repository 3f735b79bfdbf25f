"""Celery's signals, as far as we answer them: logging, the resources of a worker process, and its end."""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from celery import signals

from core.errors import ServerUnreachableError
from core.log import configure_logging
from core.settings import Settings
from services.queue_state import redis_client
from services.worker_registry import say_goodbye
from workers import process
from workers.process_memory import known_assets, memory_limit, tell_assets
from workers.schema_check import count_assets, require_schema
from workers.shutdown import Shutdown
from workers.tracing import follow_messages

if TYPE_CHECKING:
    from celery import Celery

# They say of every message that it came and that it went; our tasks say what they did.
_CHATTY = ("celery.worker.strategy", "celery.app.trace")


def connect(app: Celery, settings: Settings, database_url: str) -> None:
    """Answer the signals for `app`. Signals belong to the process: once in each."""

    def set_up_logging(**_: Any) -> None:
        # That somebody answers this signal keeps Celery's hands off logging.
        configure_logging(settings)
        for name in _CHATTY:
            logging.getLogger(name).setLevel(logging.WARNING)

    def look_at_database(conf: Any, **_: Any) -> None:
        if require_schema(database_url):
            # A process whose market alone is over the limit would be replaced after its first batch.
            tell_assets(count_assets(database_url))
            conf.worker_max_memory_per_child = memory_limit(settings, known_assets())

    def open_process(**_: Any) -> None:
        process.open_process(app, settings, database_url)

    def watch_shutdown(**_: Any) -> None:
        shutdown = Shutdown()
        signals.worker_shutting_down.connect(shutdown.request, weak=False)

    def close_process(**_: Any) -> None:
        process.close_process()

    def leave(sender: Any, **_: Any) -> None:
        # Without word from it, it would count as lost.
        with suppress(ServerUnreachableError), redis_client(app.conf.broker_url) as client:
            say_goodbye(client, sender.hostname)

    if settings.otlp_endpoint:
        follow_messages()
    # Strong references, or these functions would be gone when this one returns.
    signals.setup_logging.connect(set_up_logging, weak=False)
    signals.celeryd_init.connect(look_at_database, weak=False)
    signals.celeryd_after_setup.connect(watch_shutdown, weak=False)
    signals.worker_process_init.connect(open_process, weak=False)
    signals.worker_process_shutdown.connect(close_process, weak=False)
    signals.worker_shutdown.connect(leave, weak=False)
