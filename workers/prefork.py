"""The pool of a worker: Celery's, but its processes' limit of memory follows the market, and they end without delay.

Guarantees: a process that starts may take what the market takes that its worker has read last. So a market that
outgrows the limit, imported behind the worker's back, replaces each process once, and each time that is said. With the
limit of the worker's start it would replace one after each batch, and each new one would read the whole market anew.
And a worker that is told to stop waits for batches, not for results that it does not want any more.

Celery's setting `worker_pool` names it. A limit that somebody gave by `--max-memory-per-child` stays.
"""

from __future__ import annotations

import time
from typing import Any

from billiard import get_start_method
from billiard.pool import EX_RECYCLE
from celery import current_app
from celery.concurrency import asynpool, prefork

from core.log import get_logger
from core.settings import get_settings
from workers.process_memory import known_assets, memory_limit

log = get_logger(__name__)

_RESULTS_READ_SECONDS, _LOOK_SECONDS = 2.0, 0.05


class _Process(asynpool.Worker):
    """What runs in a process of the pool."""

    max_memory_per_child: int | None
    on_ready_counter: Any

    def after_fork(self) -> None:
        """Called in the new process before anything else of Celery's."""
        if get_start_method() != "fork":
            # A fresh interpreter, as on macOS: in it nobody answers Celery's signals yet.
            from workers.app import environment_app  # noqa: PLC0415 - what makes the app names this module

            environment_app()
        super().after_fork()

    def on_loop_start(self, pid: int) -> None:
        """Called in the new process before its first task: there the limit is read, once for all its tasks."""
        started_with = self.max_memory_per_child
        if started_with and started_with == current_app.conf.worker_max_memory_per_child:
            # A fresh interpreter has not been told of the market.
            self.max_memory_per_child = max(started_with, memory_limit(get_settings(), known_assets()))
        super().on_loop_start(pid)

    def workloop(self, *arguments: Any, **named: Any) -> int:
        """Do tasks to the end of this process; its exit code."""
        code: int = super().workloop(*arguments, **named)
        if code == EX_RECYCLE:
            log.warning("process is replaced, because it took too much memory", limit_kib=self.max_memory_per_child)
        return code

    def _ensure_messages_consumed(self, completed: int) -> bool:
        """Wait at the end until the worker has read our results; whether it has.

        It reads them within moments, or never: told to stop, Celery forgets the batch that is on its way to a process,
        which begins it all the same, and waits for that process without reading. billiard's own wait is half a minute,
        by which such a worker ends later. Results in a pipe outlive us, so nothing is lost by going.
        """
        deadline = time.monotonic() + _RESULTS_READ_SECONDS
        while self.on_ready_counter.value < completed:
            if time.monotonic() > deadline:
                return False
            time.sleep(_LOOK_SECONDS)
        return True


class _Processes(asynpool.AsynPool):
    Worker = _Process


class TaskPool(prefork.TaskPool):
    """Celery's pool of processes with ours in it."""

    Pool = _Processes
