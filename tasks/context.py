"""What a task finds in its process: the engine, the publisher, the settings. `workers` fills it in after the fork.

Tasks do not import `workers`, and nothing here exists before the fork: two processes on one connection would corrupt
each other's protocol.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    # Whoever only publishes imports the tasks, too, and needs none of these.
    from sqlalchemy import Engine

    from core.settings import Settings
    from services.backup_verify import Scratch
    from services.batches import BatchWorker
    from services.ingestion import PriceWorker
    from services.notifications import Notifier
    from services.price_cache import PriceCache
    from services.publishing import Publisher
    from services.work_counts import WorkCounts


@dataclass(frozen=True, slots=True)
class ProcessContext:
    """The resources of one worker process; those that few queues need are made when they are first asked for."""

    engine: Engine
    publish: Publisher
    settings: Settings
    clock: Callable[[], datetime]
    batches: BatchWorker
    counts: WorkCounts
    prices: Callable[[], PriceWorker]
    cache: PriceCache
    notifier: Callable[[], Notifier]
    scratch: Callable[[], Scratch]
    redis_url: str


_current: list[ProcessContext] = []


def set_context(context: ProcessContext | None) -> None:
    """Install the resources of this process, or with None remove them."""
    _current[:] = [] if context is None else [context]


def process_context() -> ProcessContext:
    """The resources of this process.

    Raises:
        RuntimeError: nobody installed them: this is no worker process.
    """
    if not _current:
        raise RuntimeError("tasks run in a worker process: its resources are not set up here")
    return _current[0]
