"""`python -m workers.program PROGRAM ARGUMENTS…`: a program that is not ours, as a child that ends with us.

The lifeline and SIGTERM reach Python modules (workers/lifeline.py, child_process.py); this one hands them on, waits,
and ends with the program's exit code. It leads the group, so whoever ends the group ends the program too.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Sequence
from types import FrameType


def run(command: Sequence[str]) -> int:
    """Run it to its end; its exit code, negative if a signal ended it. SIGTERM and SIGINT are handed on."""
    child: subprocess.Popen[bytes] | None = None
    told: list[int] = []

    def hand_on(number: int, _: FrameType | None) -> None:
        told.append(number)
        if child is not None:
            child.send_signal(number)

    # Before it is started: a signal in between would end us and leave it.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, hand_on)
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    if told:
        child.send_signal(told[-1])
    return child.wait()


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
