"""Pools of different sizes on one stack, of which one at a time serves the nights.

All of them are there and warm, and idle but for the one: so nights of one number of processes and of another follow
each other directly, and what is different between them is the number.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial

from celery import Celery
from tenacity import RetryError, Retrying, retry_if_result, stop_after_delay, wait_fixed

from benchmarks.nights import Watched, watched_stack
from benchmarks.site import Site
from core.errors import NightshiftError
from workers.app import make_app
from workers.child_process import ChildProcess
from workers.environment import child_environment
from workers.health import worker_queues
from workers.stack import NIGHT_QUEUES, Stack

_READY_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Pools:
    """Celery nodes by the number of their processes, all of them running."""

    watched: Watched
    nodes: dict[int, str]
    app: Celery

    def serve(self, processes: int) -> None:
        """Let the pool of so many processes serve the nights, and no other one.

        Raises:
            NightshiftError: they do not do as they are told.
        """
        for count, node in self.nodes.items():
            tell = self.app.control.add_consumer if count == processes else self.app.control.cancel_consumer
            for queue in NIGHT_QUEUES:
                tell(queue.value, destination=[node], reply=True)
        wanted = {
            node: {queue.value for queue in NIGHT_QUEUES} if count == processes else set()
            for count, node in self.nodes.items()
        }
        self._wait(lambda: wanted.items() <= self._served().items(), f"only the pool of {processes} serves nights")

    def wait_for_all(self) -> None:
        """Wait until every pool answers.

        Raises:
            NightshiftError: one does not start.
        """
        self._wait(lambda: set(self.nodes.values()) <= set(self._served()), "all pools answer")

    def _served(self) -> dict[str, set[str]]:
        self.watched.check()
        return {node: set(queues) for node, queues in worker_queues(self.app, timeout=0.3).items()}

    def _wait(self, ready: Callable[[], bool], what: str) -> None:
        try:
            Retrying(
                stop=stop_after_delay(_READY_SECONDS),
                wait=wait_fixed(0.1),
                retry=retry_if_result(lambda done: not done),
            )(ready)
        except RetryError:
            raise NightshiftError(f"it could not be brought about that {what}: see {self.watched.log.parent}") from None


@contextmanager
def pools(site: Site, others: Sequence[int]) -> Iterator[Pools]:
    """A stack with the pool of the site's settings, and besides it a pool of each number of processes in `others`.

    Raises:
        NightshiftError: a pool does not start, or ends: one that is started anew would serve nights beside another.
    """
    with ExitStack() as stack:
        watched = stack.enter_context(watched_stack(site))
        app = stack.enter_context(make_app(site.settings, site.urls.redis_url))
        # Held for them: they end when this process does, however it ends.
        ours, theirs = os.pipe()
        stack.callback(os.close, theirs)
        stack.callback(os.close, ours)
        children = []
        for processes in others:
            child = _pool(site, processes, ours, watched)
            stack.callback(child.kill)
            child.start()
            children.append(child)
        watched = replace(watched, check=partial(_check, watched.stack, watched.stack.processes, children))
        sizes = {site.settings.workers: "simulations"} | {processes: _name(processes) for processes in others}
        found = Pools(watched, {size: f"{name}@{socket.gethostname()}" for size, name in sizes.items()}, app)
        found.wait_for_all()
        yield found


def _check(stack: Stack, began_with: Mapping[str, int], children: Sequence[ChildProcess]) -> None:
    for child in children:
        if child.exit_code is not None:
            raise NightshiftError(f"{child.name} has ended ({child.exit_code}), see {child.log}")
    if stack.processes != began_with:
        raise NightshiftError(f"a process of the stack has ended, see {children[0].log.parent}")


def _name(processes: int) -> str:
    return f"pool-of-{processes}"


def _pool(site: Site, processes: int, lifeline: int, watched: Watched) -> ChildProcess:
    name = _name(processes)
    arguments = (
        "workers.start", "worker", "-n", f"{name}@%h", "-c", str(processes), "-Q", ",".join(NIGHT_QUEUES),
        "--without-mingle", "--without-gossip", "--loglevel", site.settings.log_level,
    )  # fmt: skip
    environment = child_environment(site.settings, site.urls)
    return ChildProcess(name, arguments, environment, watched.log.with_name(f"{name}.log"), lifeline)
