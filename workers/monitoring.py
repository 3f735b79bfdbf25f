"""Prometheus and Alertmanager beside the stack, as native programs: watched, restarted, and ended with their owner.

Their configuration is made of the files in compose/ (workers/monitoring_files.py) at every start; their data and logs
live below the home. A program that is not installed is named with what installs it, and what there is runs all the
same. They listen on the loopback address only, because they have no password.
"""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import httpx
from tenacity import RetryError, Retrying, retry_if_result, stop_after_delay, wait_fixed

from core.errors import NightshiftError
from core.log import get_logger
from core.settings import PREFIX, Settings
from workers.child_process import ChildProcess
from workers.monitoring_files import Addresses, alertmanager_file, prometheus_files, tells_nobody
from workers.ports import choose_port
from workers.server_process import LOOPBACK

log = get_logger(__name__)

READY_SECONDS = 30.0
STOP_SECONDS = 10.0
_LOOK_SECONDS = 1.0
_RESTART_SECONDS = 5.0
_KEPT = "30d"
# Debian calls it differently than its makers do.
_PROGRAMS = {"prometheus": ("prometheus",), "alertmanager": ("prometheus-alertmanager", "alertmanager")}
_INSTALL = {"prometheus": "apt install prometheus", "alertmanager": "apt install prometheus-alertmanager"}


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast it goes. The default is production's; a rehearsal divides times by `faster`.

    `interval_seconds`: of scrapes and evaluations; `waits`: other waits of Alertmanager, by name.
    """

    interval_seconds: int | None = None
    faster: float = 1.0
    waits: Mapping[str, str] | None = None


def missing_programs() -> list[str]:
    """A line for each program that is not installed: what is missing and how to install it."""
    return [
        f"{name} is not installed and so not started: {_INSTALL[name]} (Debian, Ubuntu), or see prometheus.io/download"
        for name in _PROGRAMS
        if _program(name) is None
    ]


def choose_ports(settings: Settings) -> dict[str, int]:
    """The port of each program, by name.

    Raises:
        NightshiftError: one is in use; it is named with its setting.
    """
    return {
        name: choose_port(LOOPBACK, getattr(settings, f"{name}_port"), f"{PREFIX}{name.upper()}_PORT")
        for name in _PROGRAMS
    }


class Monitoring:
    """Both programs, or the one that is installed. A context manager; enter it when the exporter's address is known."""

    def __init__(self, settings: Settings, exporter: str, *, pace: Pace | None = None) -> None:
        self._settings = settings
        self._exporter = exporter.removeprefix("http://").removesuffix("/metrics")
        self._pace = pace or Pace()
        self._home = settings.nightshift_home() / "monitoring"
        self._log_dir = settings.nightshift_home() / "log"
        self._ports: dict[str, int] = {}
        self._children: dict[str, ChildProcess] = {}
        self._lifeline: tuple[int, int] | None = None
        self._stopping = threading.Event()
        self._supervisor: threading.Thread | None = None
        self.tells_nobody = False

    @property
    def addresses(self) -> dict[str, str]:
        """URLs of those that run, by name: prometheus, alertmanager."""
        return {name: f"http://{LOOPBACK}:{self._ports[name]}" for name in self._children}

    @property
    def processes(self) -> dict[str, int]:
        """The process ids of those that run, by name."""
        return {name: pid for name, child in self._children.items() if (pid := child.pid) is not None}

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start what is installed, and return when it answers.

        Raises:
            NightshiftError: a port is in use, compose/ is not there, or a program does not start. Nothing is left.
        """
        if self._children:
            return
        try:
            self._ports = choose_ports(self._settings)
            self._write_files()
            self._make_children()
            for child in self._children.values():
                child.start()
            for name in self._children:
                self._wait_ready(name)
            self._stopping.clear()
            self._supervisor = threading.Thread(target=self._supervise, name="monitoring", daemon=True)
            self._supervisor.start()
        except BaseException:
            # Ctrl-C too: the programs are in sessions of their own and would live on.
            self.stop()
            raise

    def stop(self) -> None:
        """End both, and return when they have ended."""
        self._stopping.set()
        if self._supervisor is not None:
            self._supervisor.join()
            self._supervisor = None
        try:
            for child in self._children.values():
                child.terminate()
            deadline = time.monotonic() + STOP_SECONDS
            for child in self._children.values():
                child.wait(deadline - time.monotonic())
        finally:
            for child in self._children.values():
                child.kill()
            self._children.clear()
            if self._lifeline is not None:
                for descriptor in self._lifeline:
                    os.close(descriptor)
                self._lifeline = None

    def _write_files(self) -> None:
        for directory in (self._home / "prometheus", self._home / "alertmanager", self._log_dir):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        addresses = Addresses(self._exporter, *(f"{LOOPBACK}:{self._ports[name]}" for name in _PROGRAMS))
        pace = self._pace
        token = self._settings.metrics_token.get_secret_value() if self._settings.metrics_token else None
        files = prometheus_files(addresses, interval_seconds=pace.interval_seconds, faster=pace.faster, token=token)
        files["alertmanager.yml"] = alertmanager_file(waits=pace.waits or {})
        self.tells_nobody = tells_nobody(files["alertmanager.yml"])
        for name, text in files.items():
            (self._home / name).write_text(text, encoding="utf-8")

    def _make_children(self) -> None:
        self._lifeline = os.pipe()
        # Nothing of ours: they need no setting, and ours hold passwords.
        environment = {name: value for name, value in os.environ.items() if not name.upper().startswith(PREFIX)}
        for name in _PROGRAMS:
            if (program := _program(name)) is not None:
                arguments = ("workers.program", program, *self._arguments(name))
                self._children[name] = ChildProcess(
                    name, arguments, environment, self._log_dir / f"{name}.log", self._lifeline[0]
                )

    def _arguments(self, name: str) -> list[str]:
        common = [f"--config.file={self._home / name}.yml", f"--web.listen-address={LOOPBACK}:{self._ports[name]}"]
        if name == "alertmanager":
            # One of its kind: no port for others of a cluster.
            return [*common, f"--storage.path={self._home / name}", "--cluster.listen-address="]
        quick = (
            []
            if self._pace.interval_seconds is None
            else [f"--rules.alert.resend-delay={self._pace.interval_seconds}s"]
        )
        return [*common, f"--storage.tsdb.path={self._home / name}", f"--storage.tsdb.retention.time={_KEPT}", *quick]

    def _wait_ready(self, name: str) -> None:
        child = self._children[name]

        def ready() -> bool:
            if child.exit_code is not None:
                raise NightshiftError(f"{name} did not start: {child.last_log_line()} (see {child.log})")
            return _answers(f"{self.addresses[name]}/-/ready")

        try:
            Retrying(
                stop=stop_after_delay(READY_SECONDS), wait=wait_fixed(0.1), retry=retry_if_result(lambda done: not done)
            )(ready)
        except RetryError:
            raise NightshiftError(f"no answer from {name} after {READY_SECONDS:.0f} s (see {child.log})") from None

    def _supervise(self) -> None:
        while not self._stopping.wait(_LOOK_SECONDS):
            for name, child in self._children.items():
                if child.exit_code is None:
                    continue
                log.warning("process died", process=name, exit_code=child.exit_code, last_words=child.last_log_line())
                if self._stopping.wait(_RESTART_SECONDS):
                    return
                child.start()


def _program(name: str) -> str | None:
    """The path of the program, by any of its names; None if it is not installed."""
    return next((path for each in _PROGRAMS[name] if (path := shutil.which(each)) is not None), None)


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=2).is_success
    except httpx.HTTPError:
        return False
