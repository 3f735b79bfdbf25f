"""One server as a child process: started in its own session, waited for until it answers, always ended.

The child leads a session of its own, so that Ctrl-C in the terminal reaches its owner and not the server. Its command
line carries a marker made of its data directory's identity: whoever starts a server there later finds and ends what a
killed owner left behind, and cannot mistake anybody else's server for it. (A working directory would say the same, but
root in a container may not read that of another user's process.)
"""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypedDict

import psutil
from tenacity import RetryError, Retrying, retry_if_exception_type, retry_if_result, stop_after_delay, wait_fixed

from core.errors import EmbeddedServerError
from core.log import mask_secrets

LOOPBACK = "127.0.0.1"
READY_SECONDS = 60.0  # crash recovery of a busy database takes its time
STOP_SECONDS = 30.0
KILL_SECONDS = 5.0
_LOG_BYTES = 10 * 2**20


@dataclass(frozen=True, slots=True)
class SystemUser:
    """The user that a server runs as when its owner is root."""

    uid: int
    gid: int


class PortTakenError(EmbeddedServerError):
    """Somebody else took the port between the look and the bind."""


@dataclass(slots=True)
class ServerProcess:
    """A server named `name` (its program's name too) that works in `directory` and logs to `log`."""

    name: str
    directory: Path
    log: Path
    stop_signal: signal.Signals
    _child: subprocess.Popen[bytes] | None = None
    _log_start: int = field(default=0)

    @property
    def marker(self) -> str:
        """What the command line of every process of this server contains."""
        identity = self.directory.stat()
        return f"nightshift-{identity.st_dev:x}-{identity.st_ino:x}"

    @property
    def pid(self) -> int | None:
        """The process id while the server runs, else None."""
        return self._child.pid if self._child is not None and self._child.poll() is None else None

    @property
    def exit_code(self) -> int | None:
        """How the server ended by itself; None while it runs, and where it was not started or was stopped."""
        return self._child.poll() if self._child is not None else None

    def spawn(
        self,
        command: Sequence[str],
        *,
        stdin: bytes = b"",
        user: SystemUser | None = None,
        pass_fds: Sequence[int] = (),
        environment: Mapping[str, str],
    ) -> None:
        """Start `command` as a child; its output goes to the log."""
        if self.log.exists() and self.log.stat().st_size > _LOG_BYTES:
            self.log.replace(self.log.with_suffix(".log.1"))
        with self.log.open("ab") as log:
            self._log_start = log.tell()
            with signals_held():
                self._child = subprocess.Popen(
                    command,
                    cwd=self.directory,
                    stdin=subprocess.PIPE,
                    stdout=log,
                    stderr=log,
                    env=dict(environment),
                    start_new_session=True,
                    pass_fds=pass_fds,
                    **user_arguments(user),
                )
        if self._child.stdin is not None:
            with suppress(BrokenPipeError), self._child.stdin as pipe:
                pipe.write(stdin)

    def wait_ready(self, check: Callable[[], None], not_ready: tuple[type[Exception], ...]) -> None:
        """Call `check` until it does not raise one of `not_ready`.

        Raises:
            PortTakenError: the server ended because its port is in use.
            EmbeddedServerError: it ended, or did not answer in time; with the last line of its log.
        """

        def attempt() -> None:
            if self.pid is None:
                reason = self.last_log_line()
                taken = "address already in use" in self._new_log().lower()
                raise (PortTakenError if taken else EmbeddedServerError)(
                    f"{self.name} did not start: {reason} (see {self.log})"
                )
            check()

        try:
            Retrying(
                stop=stop_after_delay(READY_SECONDS), wait=wait_fixed(0.05), retry=retry_if_exception_type(not_ready)
            )(attempt)
        except RetryError:
            raise EmbeddedServerError(
                f"{self.name} does not answer after {READY_SECONDS:.0f} s: {self.last_log_line()} (see {self.log})"
            ) from None
        if self.pid is None:
            raise EmbeddedServerError(f"{self.name} ended at once: {self.last_log_line()} (see {self.log})")

    def stop(self) -> None:
        """End the server in the orderly way, then by force; return when none of its processes is left."""
        try:
            if self._child is not None and self._child.poll() is None:
                self._child.send_signal(self.stop_signal)
                with suppress(subprocess.TimeoutExpired):
                    self._child.wait(STOP_SECONDS)
        finally:
            # Also when we are interrupted while we wait: a second Ctrl-C leaves nothing behind either.
            if self._child is not None and self._child.poll() is None:
                self._child.kill()
                self._child.wait()
            self._child = None
        self.end_leftovers()

    def end_leftovers(self) -> None:
        """End every process of this server that this object did not start: an owner was killed, its server was not."""
        if not self.directory.exists():
            return
        leaders, children = self._leftovers()
        for process in leaders:
            with suppress(psutil.NoSuchProcess):
                process.send_signal(self.stop_signal)
        # Children of a leader end with it; those whose leader is gone have nobody to end them in order.
        alive = _wait_gone([*leaders, *children], STOP_SECONDS if leaders else KILL_SECONDS)
        for process in alive:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        alive = _wait_gone(alive, KILL_SECONDS)
        if alive:
            raise EmbeddedServerError(f"{self.name} (process {alive[0].pid}) in {self.directory} cannot be ended")

    def _leftovers(self) -> tuple[list[psutil.Process], list[psutil.Process]]:
        marker, uids = self.marker, {os.geteuid(), self.directory.stat().st_uid}
        found = [
            process
            for process in psutil.process_iter(["name", "cmdline", "uids", "status"])
            if process.info["name"] == self.name
            and process.info["status"] != psutil.STATUS_ZOMBIE
            and process.info["uids"].effective in uids
            and marker in re.split(r"[\s=:]+", " ".join(process.info["cmdline"] or ()))
        ]
        pids = {process.pid for process in found}
        leaders: list[psutil.Process] = []
        children: list[psutil.Process] = []
        for process in found:
            with suppress(psutil.NoSuchProcess):
                # A child of PostgreSQL calls itself "postgres: …"; the leader keeps the command line of its start.
                orphan = process.ppid() not in pids and not process.info["cmdline"][0].startswith(f"{self.name}:")
                (leaders if orphan else children).append(process)
        return leaders, children

    def _new_log(self) -> str:
        with self.log.open("rb") as log:
            log.seek(self._log_start)
            return log.read(_LOG_BYTES).decode("utf-8", "replace")

    def last_log_line(self) -> str:
        """What this start's log says about why it failed: the last fatal line and its cause, else the last line."""
        lines = [line.strip() for line in self._new_log().splitlines() if line.strip()] or ["it logged nothing"]
        fatal = [number for number, line in enumerate(lines) if "FATAL" in line or "PANIC" in line]
        # The line before a fatal one is its cause: "unrecognized parameter …" before "the file contains errors".
        last = lines[max(0, fatal[-1] - 1) : fatal[-1] + 1] if fatal else lines[-1:]
        return mask_secrets(" / ".join(last))


class UserArguments(TypedDict, total=False):
    """The arguments of Popen that choose the child's user."""

    user: int
    group: int
    extra_groups: list[int]


def user_arguments(user: SystemUser | None) -> UserArguments:
    """The arguments of Popen that make a child of root run as `user`, without root's groups."""
    return {} if user is None else {"user": user.uid, "group": user.gid, "extra_groups": []}


@contextmanager
def signals_held() -> Iterator[None]:
    """Let an interrupt wait until the block's end: inside Popen it would lose a child that runs already."""
    held: list[int] = []
    previous = {
        number: handler
        for number in (signal.SIGINT, signal.SIGTERM)
        if callable(handler := signal.getsignal(number)) and threading.current_thread() is threading.main_thread()
    }
    for number in previous:
        signal.signal(number, lambda received, _frame: held.append(received))
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        for received in held:
            signal.raise_signal(received)


def _wait_gone(processes: list[psutil.Process], seconds: float) -> list[psutil.Process]:
    """Those of `processes` that still run after `seconds`."""

    def running() -> list[psutil.Process]:
        return [process for process in processes if _runs(process)]

    with suppress(RetryError):
        Retrying(stop=stop_after_delay(seconds), wait=wait_fixed(0.02), retry=retry_if_result(bool))(running)
    return running()


def _runs(process: psutil.Process) -> bool:
    # A zombie has ended; in a container whose first process reaps nobody it stays one for ever.
    with suppress(psutil.NoSuchProcess):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def free_port(preferred: int | None) -> int:
    """`preferred` if nobody listens there, else any free port of the loopback address."""
    for port in (preferred, 0):
        if port is None:
            continue
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            # As the servers do: a port whose old connections linger in TIME_WAIT is free.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with suppress(OSError):
                probe.bind((LOOPBACK, port))
                return int(probe.getsockname()[1])
    raise EmbeddedServerError(f"no free port on {LOOPBACK}")
