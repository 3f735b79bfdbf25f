"""`python -m workers.lifeline MODULE ARGUMENTS…`: run a module that ends when the process that started it does.

The starter holds the other end of a pipe. The kernel closes it however the starter ends, `kill -9` included; then this
process asks itself to stop as SIGTERM would, and after a grace period takes its whole process group down. So nothing of
a stack outlives it, on any system that has pipes.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
import threading
import time

from workers.modules import for_good

# Not NIGHTSHIFT_…: it is no setting.
VARIABLE = "_NIGHTSHIFT_LIFELINE"
GRACE_SECONDS = 15.0
_PAGES = {"workers.exporter", "workers.flower"}


def _watch(descriptor: int) -> None:
    os.read(descriptor, 1)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE_SECONDS)
    os.killpg(os.getpgrp(), signal.SIGKILL)


def hold() -> None:
    """Watch the lifeline that the environment names, if it names one."""
    descriptor = os.environ.pop(VARIABLE, None)
    if descriptor is not None:
        threading.Thread(target=_watch, args=(int(descriptor),), name="lifeline", daemon=True).start()


if __name__ == "__main__":
    hold()
    sys.argv[:] = sys.argv[1:]
    if sys.argv[0] in _PAGES:
        with for_good():
            import workers.app  # noqa: F401 - workers and beat import it by themselves, and other programs do without
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
