"""`python health.py [PID]`: is the process that this container runs well? Exit code 0: yes, 1: no, and one line why.

It looks at the command line of process PID (1, which is the container's), so one health check fits all our containers,
and costs little more than the interpreter: a worker is asked through Celery, pages are fetched, beat's schedule must
have been written lately. A command that just does its work and ends is well as long as it runs.
"""

from __future__ import annotations

import os
import re
import socket
import sys
import time
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path

ANSWER_SECONDS = 5.0
# Beat writes its schedule every three minutes.
BEAT_SECONDS = 420.0


class IllError(Exception):
    """Not well; the message says why."""


def check(command: Sequence[str], environment: Mapping[str, str]) -> str:
    """What was found of the process with this command line and environment.

    Raises:
        IllError: it is not well.
        OSError: it does not answer, which is not well either.
    """
    if "workers.exporter" in command:
        return _page(environment, "EXPORTER_PORT", "9808", "/health")
    if "workers.flower" in command:
        prefix = environment.get("FLOWER_URL_PREFIX", "").strip("/")
        return _page(environment, "FLOWER_PORT", "5555", f"/{prefix}/healthcheck".replace("//", "/"))
    of_celery = "workers.start" in command or "workers.app" in command
    if of_celery and "beat" in command:
        return _beat(Path(command[command.index("-s") + 1]))
    if of_celery and "worker" in command:
        return _worker(command[command.index("-n") + 1])
    return "a command that runs"


def _page(environment: Mapping[str, str], port: str, default: str, path: str) -> str:
    url = f"http://127.0.0.1:{environment.get(f'NIGHTSHIFT_{port}', default)}{path}"
    with urllib.request.urlopen(url, timeout=ANSWER_SECONDS) as answer:
        return f"{url} answers {answer.status}"


def _beat(schedule: Path) -> str:
    # The dbm of this Python decides what it puts behind the name.
    written = [file.stat().st_mtime for file in schedule.parent.glob(f"{schedule.name}*")]
    age = time.time() - max(written, default=0.0)  # noqa: TID251 - against the clock of the file system
    if age > BEAT_SECONDS:
        raise IllError(f"beat has not written {schedule} for {age:.0f} s")
    return f"beat wrote {schedule} {age:.0f} s ago"


def _worker(name: str) -> str:
    # Here, because it takes a second: the other checks do without.
    from core.errors import NightshiftError  # noqa: PLC0415
    from workers.app import environment_app  # noqa: PLC0415

    node = re.sub("%[hnd]", _node_part, name)
    try:
        answers = environment_app().control.ping(destination=[node], timeout=ANSWER_SECONDS, limit=1)
    except NightshiftError as error:
        raise IllError(str(error)) from None
    if not answers:
        raise IllError(f"{node} does not answer")
    return f"{node} answers"


def _node_part(match: re.Match[str]) -> str:
    host = socket.gethostname()
    first, _, domain = host.partition(".")
    return {"%h": host, "%n": first, "%d": domain}[match[0]]


def main(arguments: Sequence[str]) -> int:
    """The exit code."""
    process = Path("/proc") / (arguments[0] if arguments else "1")
    try:
        command = process.joinpath("cmdline").read_text("utf-8").split("\0")
        sys.stdout.write(check(command, os.environ) + "\n")
    except Exception as error:  # noqa: BLE001 - whatever a check ends with, the process is not known to be well
        sys.stderr.write(f"ill: {type(error).__name__}: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
