"""How the stack's processes are broken: stopped, killed, unplugged from their queue."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from benchmarks.alerts.locks import granules_held
from benchmarks.alerts.site import Site, wait_for
from services.queue_state import KEY_PREFIX, redis_client
from workers.app import make_app
from workers.child_process import ChildProcess
from workers.environment import child_environment
from workers.health import worker_queues

_SWEEP = f"{KEY_PREFIX}unacked_mutex"
_EXTRA = "extra"


@contextmanager
def stopped(site: Site, name: str) -> Iterator[None]:
    """SIGSTOP to a process of the stack and all that it forked; SIGCONT in the end."""
    pid = site.stack.processes[name]
    os.killpg(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        # Whoever takes care of it may have killed it meanwhile.
        with suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGCONT)


@contextmanager
def unplugged(site: Site) -> Iterator[None]:
    """The workers of the queue `notifications` are told not to serve it any more."""
    queue = "notifications"
    with make_app(site.settings, site.urls.redis_url) as app:
        serving = [name for name, queues in worker_queues(app).items() if queue in queues]
        app.control.cancel_consumer(queue, destination=serving, reply=True)
        try:
            yield
        finally:
            app.control.add_consumer(queue, destination=serving, reply=True)


@contextmanager
def extra_worker_killed(site: Site) -> Iterator[None]:
    """A second group, as of another machine, dies of SIGKILL and nobody starts it again; in the end somebody does."""
    lifeline = os.pipe()
    arguments = (
        "workers.start", "worker", "-n", f"{_EXTRA}@%h", "-c", "1", "-Q", "maintenance",
        "--without-mingle", "--without-gossip", "--loglevel", "info",
    )  # fmt: skip
    log = site.settings.nightshift_home() / "log" / f"{_EXTRA}.log"
    extra = ChildProcess(_EXTRA, arguments, child_environment(site.settings, site.urls), log, lifeline[0])
    for descriptor in lifeline:
        site.cleanup.callback(os.close, descriptor)
    site.cleanup.callback(extra.kill)
    extra.start()
    _wait_known(site)
    extra.kill()
    yield
    extra.start()


@contextmanager
def group_killed(site: Site) -> Iterator[None]:
    """The workers of the night die of SIGKILL with batches in hand; the stack starts them again."""
    with granules_held(site):
        site.night_at_work()
        os.killpg(site.stack.processes["simulations"], signal.SIGKILL)
    yield


@contextmanager
def sweep_held(site: Site) -> Iterator[None]:
    """Workers are stopped with messages in hand, and the lock of the sweep that gives these out again is not free.

    So it is when whoever sweeps dies in the middle: the lock is held for five minutes.
    """
    with granules_held(site):
        site.night_at_work()
        held = stopped(site, "simulations")
        held.__enter__()
    try:
        with redis_client(site.urls.redis_url) as client:
            client.set(_SWEEP, "of a process that died", ex=300)
            try:
                yield
            finally:
                client.delete(_SWEEP)
    finally:
        held.__exit__(None, None, None)


def _wait_known(site: Site) -> None:
    """Until the exporter has written down that it is there."""

    def known() -> bool:
        with redis_client(site.urls.redis_url) as client:
            return any(_EXTRA in str(name) for name in client.hkeys(f"{KEY_PREFIX}workers"))

    wait_for(known, "the extra worker's answer")
