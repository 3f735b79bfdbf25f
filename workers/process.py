"""The resources of one worker process: made after the fork, given back at its end.

What only some queues need is made, and imported, when it is first asked for: a worker of nights has none of it.
"""

from __future__ import annotations

import os
import socket
from contextlib import ExitStack
from datetime import timedelta
from functools import cache
from typing import TYPE_CHECKING

import structlog

from core.clock import utc_now
from core.database import SessionLimits, make_engine
from core.queues import Queue
from core.settings import Settings
from services.batches import BatchWorker
from services.market_data import MarketCache
from services.price_cache import PriceCache, cache_url
from services.work_counts import WorkCounts
from tasks.context import ProcessContext, set_context
from workers.extras import open_error_reports
from workers.memory import keep_freed_memory, leave_out_of_collections
from workers.process_memory import tell_assets
from workers.publisher import CeleryPublisher
from workers.tracing import close_traces, open_traces

if TYPE_CHECKING:
    from celery import Celery

    from services.backup_verify import Scratch
    from services.ingestion import PriceWorker
    from services.notifications import Notifier

_BESIDE_NIGHTS = ({Queue.PRICES.value}, {Queue.NOTIFICATIONS.value})
_BESIDE_NICE = 10
_at_the_end = ExitStack()


def worker_name() -> str:
    """This process' name in the table of batches and in the logs: host and process id."""
    return f"{socket.gethostname()}:{os.getpid()}"


def session_limits(settings: Settings) -> SessionLimits:
    """The limits of a worker's sessions.

    A statement that outlasts the hard time limit belongs to a process that is dead. A wait for a lock ends before the
    soft time limit does, for it blames nobody, and the soft time limit blames the batch. A session idle in its
    transaction ends after the soft limit, or a batch that hangs would lose its lease before it is found out; and before
    the hard one, so that the lease of a process that is stopped is free by then.
    """
    soft, hard = settings.soft_time_limit, settings.hard_time_limit
    return SessionLimits(
        statement=timedelta(seconds=hard),
        lock=timedelta(seconds=soft / 2),
        idle_in_transaction=timedelta(seconds=(soft + hard) / 2),
    )


def open_process(app: Celery, settings: Settings, database_url: str) -> None:
    """Make the engine and the publisher, and hand them to the tasks. No connection is opened yet."""
    keep_freed_memory()
    name = worker_name()
    structlog.contextvars.bind_contextvars(worker=name)
    open_error_reports(settings)
    open_traces(settings, name)
    _at_the_end.callback(close_traces)
    engine = make_engine(database_url, application=f"nightshift worker {name}"[:63], limits=session_limits(settings))
    _at_the_end.callback(engine.dispose)
    _at_the_end.callback(set_context, None)
    publish = CeleryPublisher(app)
    redis_url: str = app.conf.broker_url
    price_cache = PriceCache(cache_url(settings, redis_url))
    batches = BatchWorker(
        engine=engine,
        settings=settings,
        publish=publish,
        clock=utc_now,
        name=name,
        markets=MarketCache(settings.max_stale_days, on_assets=tell_assets),
    )

    @cache
    def prices() -> PriceWorker:
        from services.fetchers import Fetchers  # noqa: PLC0415 - 3 MiB for HTTP and limits
        from services.ingestion import PriceWorker  # noqa: PLC0415 - the same

        return PriceWorker(
            engine=engine,
            settings=settings,
            publish=publish,
            clock=utc_now,
            name=name,
            fetcher=Fetchers(settings, redis_url).find,
            cache=price_cache,
        )

    @cache
    def notifier() -> Notifier:
        from services.notifications import Notifier  # noqa: PLC0415 - 3 MiB for templates and mail

        made = Notifier(engine, settings, redis_url, utc_now)
        _at_the_end.callback(made.close)
        return made

    @cache
    def scratch() -> Scratch:
        from workers.backup_scratch import scratch_of  # noqa: PLC0415 - 2 MiB for encryption

        return scratch_of(settings, database_url)

    queues = set(app.amqp.queues.consume_from)
    if Queue.PRICES in queues:
        # Now, so that it is left out as well.
        prices()
    leave_out_of_collections()
    if queues in _BESIDE_NIGHTS:
        # A window has five minutes, and mail is not urgent; a night beside them should not wait for that.
        os.nice(_BESIDE_NICE)
    set_context(
        ProcessContext(
            engine=engine,
            publish=publish,
            settings=settings,
            clock=utc_now,
            batches=batches,
            counts=WorkCounts(redis_url),
            prices=prices,
            cache=price_cache,
            notifier=notifier,
            scratch=scratch,
            redis_url=redis_url,
        )
    )


def close_process() -> None:
    """Give back what there is, the last first; what cannot be given back keeps nothing else from it."""
    _at_the_end.close()
