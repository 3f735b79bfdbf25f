"""The peers' workers, real ones: start them, send them messages, wait until all is done, stop them."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Self

import redis

from benchmarks.peers.tasks import KEY_PREFIX, QUEUE, make_peers_app
from core.errors import NightshiftError, ServerUnreachableError
from core.settings import Settings
from workers.celery_settings import PUBLISH_BATCH
from workers.child_process import ChildProcess
from workers.embedded import ServerUrls
from workers.environment import child_environment
from workers.health import worker_names

_READY_SECONDS = 90.0
_STOP_SECONDS = 20.0
# A night that takes longer has lost a message: Redis would give it out again only after the visibility timeout.
_LONGEST_SECONDS = 600.0
# What a worker has popped and not yet noted as taken is in neither place, for a moment.
_GRACE_SECONDS = 5.0
_POLL_SECONDS = 0.01


class Pool:
    """Celery workers with one pool process each, as many processes as Nightshift has. A context manager.

    One worker with all of them would be slower: its one event loop, which fetches and acknowledges, would hold up
    tasks as small as these.
    """

    def __init__(self, settings: Settings, urls: ServerUrls) -> None:
        self._app = make_peers_app(settings, urls.redis_url)
        self._redis = redis.Redis.from_url(urls.redis_url)
        self._lifeline = os.pipe()
        self._children = [
            ChildProcess(
                name,
                ["celery", "-q", "-A", "benchmarks.peers.worker", "worker", "-n", f"{name}@%h", "-c", "1", "-Q", QUEUE,
                 "--without-mingle", "--without-gossip", "--without-heartbeat", "--loglevel", "warning"],
                child_environment(settings, urls),
                settings.nightshift_home() / "log" / f"{name}.log",
                self._lifeline[0],
            )
            for name in (f"peer{number}" for number in range(settings.workers))
        ]  # fmt: skip

    def __enter__(self) -> Self:
        try:
            for child in self._children:
                child.start()
            self._wait_ready()
        except BaseException:
            # Ctrl-C too: the workers are in sessions of their own and would live on.
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop the workers, by force if need be, and close every connection."""
        deadline = time.monotonic() + _STOP_SECONDS
        try:
            for child in self._children:
                child.terminate()
            for child in self._children:
                child.wait(deadline - time.monotonic())
        finally:
            for child in self._children:
                child.kill()
            for descriptor in self._lifeline:
                os.close(descriptor)
            self._app.close()
            self._redis.close()

    def run(self, task: str, calls: Iterable[Mapping[str, Any]], complete: Callable[[], bool]) -> float:
        """Publish a message for each of `calls`, the tasks' arguments; the seconds until the last task has ended.

        `complete` says whether everything is done that was to be done, when no message is left.

        Raises:
            NightshiftError: a worker ended, a task failed, or it takes too long.
        """
        began = time.perf_counter()
        self._publish(task, calls)
        drained_at: float | None = None
        while True:
            now = time.perf_counter()
            if not self._drained():
                drained_at = None
            elif complete():
                return now - began
            else:
                drained_at = drained_at or now
            if any(child.exit_code is not None for child in self._children):
                raise NightshiftError(f"a worker of the peers ended: {self._last_words()}")
            if now - began > _LONGEST_SECONDS or (drained_at and now - drained_at > _GRACE_SECONDS):
                raise NightshiftError(f"{task}: some tasks have not done their work: {self._last_words()}")
            time.sleep(_POLL_SECONDS)

    def _publish(self, task: str, calls: Iterable[Mapping[str, Any]]) -> None:
        # In pipelines, as Nightshift's relay does.
        with self._app.producer_pool.acquire(block=True) as producer, producer.batch(PUBLISH_BATCH):
            for call in calls:
                self._app.tasks[task].apply_async(kwargs=call, producer=producer, retry=False)

    def _drained(self) -> bool:
        with self._redis.pipeline() as pipeline:
            pipeline.llen(f"{KEY_PREFIX}{QUEUE}")
            pipeline.hlen(f"{KEY_PREFIX}unacked")
            return not any(pipeline.execute())

    def _wait_ready(self) -> None:
        deadline = time.monotonic() + _READY_SECONDS
        expected = {f"{child.name}@{socket.gethostname()}" for child in self._children}
        while not expected <= set(self._answering()):
            if time.monotonic() > deadline or any(child.exit_code is not None for child in self._children):
                raise NightshiftError(f"the peers' workers did not start: {self._last_words()}")

    def _last_words(self) -> str:
        return "; ".join(f"{child.name}: {child.last_log_line()}" for child in self._children)

    def _answering(self) -> list[str]:
        try:
            return worker_names(self._app, timeout=0.5)
        except ServerUnreachableError:
            return []
