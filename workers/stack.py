"""The stack: workers, beat, Flower and the exporter as child processes, watched, restarted, and stopped in order.

Groups of workers, so that a night never waits behind housekeeping nor the tick behind a night, a slow provider or mail:
one with a pool for `simulations` and `reprocess`, one for `prices` where prices come from sources, one for
`notifications` where they are sent, one for `maintenance` where backups are made, and a small one for everything else.
A child that dies is started again, sooner or later by how often it died. Nothing is left behind: not by `stop`, and not
by a `kill -9` of this process (see lifeline.py).
"""

from __future__ import annotations

import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Self

from tenacity import RetryError, Retrying, retry_if_result, stop_after_delay, wait_fixed

from core.errors import NightshiftError, ServerUnreachableError
from core.log import get_logger
from core.queues import Queue
from core.settings import PREFIX, Settings
from workers.app import make_app
from workers.child_process import ChildProcess
from workers.embedded import ServerUrls
from workers.environment import child_environment
from workers.extras import require_extras
from workers.health import worker_names
from workers.ports import choose_port
from workers.pulse import Pulse
from workers.restarts import LONGEST_BACKOFF, Restarts
from workers.shutdown import GIVE_BACK_SECONDS, SHUTDOWN_SECONDS

log = get_logger(__name__)

NIGHT_QUEUES = (Queue.SIMULATIONS, Queue.REPROCESS)  # in this order: nightly work first
PRICE_QUEUES = (Queue.PRICES,)
NOTIFICATION_QUEUES = (Queue.NOTIFICATIONS,)
MAINTENANCE_QUEUES = (Queue.MAINTENANCE,)
SMALL_QUEUES = tuple(queue for queue in Queue if queue not in NIGHT_QUEUES)
PRICE_PROCESSES = 2  # one waits for a provider while another stores
CONTROL_PROCESSES = 2  # one is busy with maintenance while another works on the tick
READY_SECONDS = 90.0
_WORKERS = ("simulations", "prices", "notifications", "maintenance", "control")
STOP_SECONDS = SHUTDOWN_SECONDS + GIVE_BACK_SECONDS + 7
HURRY_SECONDS = GIVE_BACK_SECONDS + 2
_LOOK_SECONDS = 0.2
_SILENT_SECONDS = 40.0  # a worker reconnects to Redis, and answers, in less


class Stack:
    """The processes of one machine. A context manager; `start` and `stop` may be called repeatedly."""

    def __init__(
        self,
        settings: Settings,
        urls: ServerUrls,
        *,
        workers: int,
        beat: bool = True,
        flower: bool = True,
        exporter: bool = True,
        log_dir: Path | None = None,
    ) -> None:
        self._settings = settings
        self._urls = urls
        self._workers = workers
        self._parts = {"beat": beat, "flower": flower, "exporter": exporter}
        self._home = settings.nightshift_home()
        self._log_dir = log_dir or self._home / "log"
        self._children: dict[str, ChildProcess] = {}
        self._watched: dict[str, Restarts] = {}
        self._ports: dict[str, int] = {}
        self._lifeline: tuple[int, int] | None = None
        self._stopping = threading.Event()
        self._supervisor: threading.Thread | None = None
        self._pulse: Pulse | None = None
        password = settings.flower_password
        self.flower_user = settings.flower_user
        self.flower_password = password.get_secret_value() if password else secrets.token_urlsafe(16)

    @property
    def processes(self) -> dict[str, int]:
        """The process ids of the children that run, by name: the groups of workers, beat, flower, exporter."""
        return {name: pid for name, child in self._children.items() if (pid := child.pid) is not None}

    @property
    def addresses(self) -> dict[str, str]:
        """URLs, by name: page, flower, metrics, health, scheduler."""
        addresses = {}
        if "flower" in self._ports:
            addresses["flower"] = self._base("flower")
        if "exporter" in self._ports:
            base = self._base("exporter")
            addresses |= {
                "page": f"{base}/",
                "metrics": f"{base}/metrics",
                "health": f"{base}/health/deep",
                "scheduler": f"{base}/scheduler/status",
            }
        return addresses

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start everything, and return when workers answer and pages are served.

        Raises:
            NightshiftError: a port is in use, a library that a setting needs is missing, or a child does not start.
                Nothing is left running.
        """
        if self._children:
            return
        require_extras(self._settings)
        try:
            self._choose_ports()
            self._make_children()
            for name, child in self._children.items():
                child.start()
                self._watched[name] = Restarts(time.monotonic())
            self._wait_ready()
            self._stopping.clear()
            self._pulse = Pulse(self._settings, self._urls.redis_url, map(_node, self._worker_groups()))
            self._pulse.start()
            self._supervisor = threading.Thread(target=self._supervise, name="supervisor", daemon=True)
            self._supervisor.start()
        except BaseException:
            # Ctrl-C too: the children are in sessions of their own and would live on.
            self.stop()
            raise
        log.info("stack is up", **self.processes)

    def stop(self) -> None:
        """Stop beat first, so that nothing new is planned, and the workers last, when they have finished their batches.

        Batches that run longer than a minute are given back. Interrupted while it waits, it tells them to hurry: then
        they are given back at once. What still runs in the end is killed: the work is done again elsewhere.
        """
        self._stopping.set()
        if self._supervisor is not None and self._supervisor is not threading.current_thread():
            self._supervisor.join()
        self._supervisor = None
        if self._pulse is not None:
            self._pulse.stop()
            self._pulse = None
        try:
            deadline = time.monotonic() + STOP_SECONDS
            for group in (
                ("beat",),
                ("flower", "exporter", "control", "maintenance", "notifications", "prices", "simulations"),
            ):
                children = [self._children[name] for name in group if name in self._children]
                _end(children, deadline)
        except KeyboardInterrupt:
            _end(list(self._children.values()), time.monotonic() + HURRY_SECONDS)
            raise
        finally:
            for child in self._children.values():
                child.kill()
            self._children.clear()
            self._watched.clear()
            self._ports.clear()
            if self._lifeline is not None:
                for descriptor in self._lifeline:
                    os.close(descriptor)
                self._lifeline = None

    def _base(self, part: str) -> str:
        host = self._settings.host
        # "Any address" is none that one can visit.
        shown = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)  # noqa: S104
        return f"http://{shown}:{self._ports[part]}"

    def _choose_ports(self) -> None:
        for part, port in (("flower", self._settings.flower_port), ("exporter", self._settings.exporter_port)):
            if self._parts[part]:
                self._ports[part] = choose_port(self._settings.host, port, f"{PREFIX}{part.upper()}_PORT")

    def _make_children(self) -> None:
        for directory in (self._log_dir, self._home / "beat"):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lifeline = os.pipe()
        start = "workers.start"
        quiet = ("--without-mingle", "--without-gossip", "--loglevel", self._settings.log_level)
        self._add("simulations", start, "worker", "-n", "simulations@%h", *self._pool_size(),
                  "-Q", ",".join(NIGHT_QUEUES), *quiet)  # fmt: skip
        small = SMALL_QUEUES
        if self._settings.price_sources:
            small = tuple(queue for queue in SMALL_QUEUES if queue not in PRICE_QUEUES)
            self._add("prices", start, "worker", "-n", "prices@%h", "-c", str(PRICE_PROCESSES),
                      "-Q", ",".join(PRICE_QUEUES), *quiet)  # fmt: skip
        if self._settings.notifies:
            small = tuple(queue for queue in small if queue not in NOTIFICATION_QUEUES)
            self._add("notifications", start, "worker", "-n", "notifications@%h", "-c", "1",
                      "-Q", ",".join(NOTIFICATION_QUEUES), *quiet)  # fmt: skip
        if self._settings.backup_to:
            # A backup takes as long as the database is large: the tick must not wait for it.
            small = tuple(queue for queue in small if queue not in MAINTENANCE_QUEUES)
            self._add("maintenance", start, "worker", "-n", "maintenance@%h", "-c", "1",
                      "-Q", ",".join(MAINTENANCE_QUEUES), *quiet)  # fmt: skip
        self._add("control", start, "worker", "-n", "control@%h", "-c", str(CONTROL_PROCESSES),
                  "-Q", ",".join(small), *quiet)  # fmt: skip
        if self._parts["beat"]:
            self._add("beat", start, "beat", "-s", str(self._home / "beat" / "schedule"))
        if self._parts["flower"]:
            self._add("flower", "workers.flower", **self._flower_environment())
        if self._parts["exporter"]:
            self._add("exporter", "workers.exporter", NIGHTSHIFT_EXPORTER_PORT=str(self._ports["exporter"]))

    def _pool_size(self) -> tuple[str, str]:
        most = self._settings.workers_max
        if most is None or most <= self._workers:
            return "-c", str(self._workers)
        return "--autoscale", f"{most},{self._workers}"

    def _worker_groups(self) -> list[str]:
        return [name for name in _WORKERS if name in self._children]

    def _add(self, name: str, *module_arguments: str, **environment: str) -> None:
        assert self._lifeline is not None  # noqa: S101 - made before the children
        self._children[name] = ChildProcess(
            name,
            module_arguments,
            child_environment(self._settings, self._urls) | environment,
            self._log_dir / f"{name}.log",
            self._lifeline[0],
        )

    def _flower_environment(self) -> dict[str, str]:
        secret = self._settings.flower_oauth_secret
        return {
            "NIGHTSHIFT_FLOWER_PORT": str(self._ports["flower"]),
            "NIGHTSHIFT_FLOWER_PASSWORD": self.flower_password,
            "NIGHTSHIFT_FLOWER_AUTH": self._settings.flower_auth,
            "NIGHTSHIFT_FLOWER_OAUTH_SECRET": secret.get_secret_value() if secret else "",
        }

    def _wait_ready(self) -> None:
        app = make_app(self._settings, self._urls.redis_url)
        expected = set(map(_node, self._worker_groups()))
        try:
            self._wait("workers", lambda: expected <= set(_answering(lambda: worker_names(app, timeout=0.5))))
        finally:
            app.close()
        for part, page in (("exporter", "/health"), ("flower", "/healthcheck")):
            if part in self._ports:
                self._wait(part, partial(_answers, self._base(part) + page))

    def _wait(self, what: str, ready: Callable[[], bool]) -> None:
        def attempt() -> bool:
            for child in self._children.values():
                if child.exit_code is not None:
                    raise NightshiftError(f"{child.name} did not start: {child.last_log_line()} (see {child.log})")
            return ready()

        try:
            Retrying(
                stop=stop_after_delay(READY_SECONDS), wait=wait_fixed(0.1), retry=retry_if_result(lambda done: not done)
            )(attempt)
        except RetryError:
            raise NightshiftError(
                f"no answer from {what} after {READY_SECONDS:.0f} s: see the logs in {self._log_dir}"
            ) from None

    def _supervise(self) -> None:
        while not self._stopping.wait(_LOOK_SECONDS):
            for name, child in self._children.items():
                self._look_after(child, self._watched[name])

    def _look_after(self, child: ChildProcess, watch: Restarts) -> None:
        now = time.monotonic()
        if watch.restart_at is None and self._pulse and self._pulse.silence(_node(child.name)) > _SILENT_SECONDS:
            log.warning("killed, because it lives but does not answer", process=child.name)
            child.end_group()
            self._pulse.restarted(_node(child.name))
        if watch.restart_at is None and child.exit_code is not None:
            delay = watch.died(now)
            log.warning("process died", process=child.name, exit_code=child.exit_code, restart_in=delay,
                        last_words=child.last_log_line())  # fmt: skip
        if watch.is_due(now):
            try:
                child.start()
            except OSError as error:
                log.warning("process not restarted", process=child.name, error=str(error))
                watch.restart_at = now + LONGEST_BACKOFF
            else:
                watch.restarted(now)
                if self._pulse and child.name in _WORKERS:
                    self._pulse.restarted(_node(child.name))
                log.info("process restarted", process=child.name, pid=child.pid)


def _node(name: str) -> str:
    """How Celery calls the worker that is our child `name`."""
    return f"{name}@{socket.gethostname()}"


def _end(children: Sequence[ChildProcess], deadline: float) -> None:
    for child in children:
        child.terminate()
    for child in children:
        if not child.wait(deadline - time.monotonic()):
            log.warning("killed, because it did not stop", process=child.name)


def _answering(ask: Callable[[], list[str]]) -> list[str]:
    try:
        return ask()
    except ServerUnreachableError:
        return []


def _answers(url: str) -> bool:
    import httpx  # noqa: PLC0415 - 3 MiB, for pages that not every stack has

    try:
        return httpx.get(url, timeout=2).is_success
    except httpx.HTTPError:
        return False
