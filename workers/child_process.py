"""One process of the stack: in a session of its own, with a log of its own, ended with everything that it started.

Its own session keeps Ctrl-C away from it: the terminal signals the stack, which stops its children in order. As leader
of its process group it can be ended together with the pool processes that it forked.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from core.log import mask_secrets
from workers.lifeline import VARIABLE
from workers.server_process import signals_held

_LOG_BYTES = 10 * 2**20
# A traceback is one line of its log.
_LAST_BYTES = 2**18
_LAST_CHARACTERS = 300
_TRACEBACK = "Traceback (most recent call last):"


@dataclass(slots=True)
class ChildProcess:
    """`python -m MODULE ARGUMENTS…` under the name `name`. `lifeline`: the end of the pipe that it watches."""

    name: str
    module_arguments: Sequence[str]
    environment: Mapping[str, str] = field(repr=False)
    log: Path
    lifeline: int
    _child: subprocess.Popen[bytes] | None = None
    _group_killed: bool = False

    @property
    def pid(self) -> int | None:
        """The process id while it runs, else None."""
        return self._child.pid if self._child is not None and self.exit_code is None else None

    @property
    def exit_code(self) -> int | None:
        """How it ended; None while it runs, and before it was started. What it left running is ended when we notice."""
        if self._child is None:
            return None
        code = self._child.poll()
        if code is not None:
            self._kill_group()
        return code

    def start(self) -> None:
        """Start it; what an earlier start of it left running is ended first."""
        self.kill()
        if self.log.exists() and self.log.stat().st_size > _LOG_BYTES:
            self.log.replace(self.log.with_suffix(".log.1"))
        command = [sys.executable, "-m", "workers.lifeline", *self.module_arguments]
        self._group_killed = False
        with self.log.open("ab") as log, signals_held():
            self._child = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**self.environment, VARIABLE: str(self.lifeline)},
                start_new_session=True,
                pass_fds=(self.lifeline,),
            )

    def terminate(self) -> None:
        """Ask it to stop, and do not wait."""
        if self._child is not None and self._child.poll() is None:
            self._child.send_signal(signal.SIGTERM)

    def wait(self, seconds: float) -> bool:
        """Whether it ended within `seconds`."""
        if self._child is not None:
            with suppress(subprocess.TimeoutExpired):
                self._child.wait(max(seconds, 0))
            return self.exit_code is not None
        return True

    def kill(self) -> None:
        """End it and every process of its group at once; nothing of it is left."""
        if self._child is not None:
            self._kill_group()
            self._child.wait()
            self._child = None

    def end_group(self) -> None:
        """End it and every process of its group; it is then like one that died by itself."""
        if self._child is not None:
            self._kill_group()

    def _kill_group(self) -> None:
        # Once only, and at once: later the group's number may belong to somebody else.
        if not self._group_killed:
            self._group_killed = True
            assert self._child is not None  # noqa: S101 - a group has a leader
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._child.pid, signal.SIGKILL)

    def last_log_line(self) -> str:
        """The last thing that it said, without secrets, in some 300 characters."""
        with suppress(OSError), self.log.open("rb") as log:
            log.seek(max(0, self.log.stat().st_size - _LAST_BYTES))
            lines = log.read().decode("utf-8", "replace").split("\n")
            last = next((line.strip() for line in reversed(lines) if line.strip()), "it logged nothing")
            # Masked before it is cut: half a URL does not look like one.
            said = mask_secrets(_in_words(last))
            return said if len(said) <= _LAST_CHARACTERS else f"{said[: _LAST_CHARACTERS - 1]}…"
        return "it has no log"


def _in_words(line: str) -> str:
    """The event of a line of JSON, and what was raised, without its traceback; any other line as it is."""
    try:
        entry = json.loads(line)
    except ValueError:
        return line
    if not isinstance(entry, dict) or "event" not in entry:
        return line
    raised = _raised(str(entry.get("exception", "")))
    return f"{entry['event']}: {raised}" if raised else str(entry["event"])


def _raised(traceback: str) -> str:
    """The line of a traceback that says what was raised: the first after the last frames."""
    # Details may follow it, such as a statement of SQL or where to read more.
    lines = [line for line in traceback.rpartition(_TRACEBACK)[2].splitlines() if line.strip()]
    return next((line for line in lines if not line[0].isspace()), lines[-1].strip() if lines else "")
