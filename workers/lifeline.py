"""`python -m workers.lifeline MODULE ARGUMENTS…`: run a module that ends when the process that started it does.

The starter holds the other end of a pipe. The kernel closes it however the starter ends, `kill -9` included; then this
process asks itself to stop as SIGTERM would, and after a grace period takes its whole process group down. So nothing of
a stack outlives it, on any system that has pipes.
"""

from __future__ import annotations

import gc
import os
import runpy
import signal
import sys
import threading
import time

# Not NIGHTSHIFT_…: it is no setting.
VARIABLE = "_NIGHTSHIFT_LIFELINE"
GRACE_SECONDS = 15.0
_OURS = {"workers.exporter", "workers.flower"}  # they import it too


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


def _import_app() -> None:
    """Import the thousand modules of a worker. All of them stay: to look for garbage among them is a fifth of it."""
    gc.disable()
    try:
        import workers.app  # noqa: F401, PLC0415 - a program that is not ours does without
    finally:
        gc.freeze()
        gc.enable()


if __name__ == "__main__":
    hold()
    sys.argv[:] = sys.argv[1:]
    if "workers.app" in sys.argv or sys.argv[0] in _OURS:
        _import_app()
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
