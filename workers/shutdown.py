"""How a worker ends when it is told to: batches that run are finished, or after a while given back, and none is blamed.

Celery has two ways, and neither is that. SIGTERM waits for the running tasks, however long, and a second one does
nothing. Its soft shutdown (SIGQUIT, or SIGTERM remapped to it) sleeps through its whole timeout in the signal handler,
even if nothing runs, and acknowledges nothing meanwhile. So SIGTERM remains Celery's, and a thread adds what it lacks:

- After `SHUTDOWN_SECONDS`, or at a second SIGTERM, the pool's processes get SIGTERM too: each gives its batch back.
- What has not ended `GIVE_BACK_SECONDS` later is killed: its batch is abandoned, which the reconciler sees.

An idle worker ends at once.
"""

from __future__ import annotations

import os
import select
import signal
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import psutil

from core.log import get_logger

log = get_logger(__name__)

SHUTDOWN_SECONDS = 60.0
GIVE_BACK_SECONDS = 8.0
_FAREWELL_SECONDS = 2.0  # for the last acknowledgements
_LOOK_SECONDS = 0.05
_EX_FAILURE = 1


class Shutdown:
    """Hears each request to stop, and sees to it that it is obeyed in time."""

    def __init__(self, patience: float = SHUTDOWN_SECONDS) -> None:
        self._patience = patience
        self._heard, self._told = os.pipe()
        # Started beforehand: a signal handler that starts a thread may wait for a lock that it interrupted.
        threading.Thread(target=self._watch, name="shutdown", daemon=True).start()

    def request(self, **_: Any) -> None:
        """Celery's signal `worker_shutting_down`; called inside of a signal handler, so it only leaves word."""
        os.write(self._told, b".")

    def _watch(self) -> None:
        os.read(self._heard, 1)
        again, _, _ = select.select([self._heard], [], [], self._patience)
        log.warning("running batches are given back", reason="told to stop twice" if again else "time is up")
        _give_back()
        # Celery goes by itself when its pool is gone, unless it waits for the broker.
        time.sleep(_FAREWELL_SECONDS)
        os._exit(_EX_FAILURE)


def _give_back() -> None:
    pool = psutil.Process().children()
    for child in pool:
        with suppress(psutil.Error):
            child.send_signal(signal.SIGTERM)
    deadline = time.monotonic() + GIVE_BACK_SECONDS
    while _running(pool) and time.monotonic() < deadline:
        time.sleep(_LOOK_SECONDS)
    for child in _running(pool):
        with suppress(psutil.Error):
            child.kill()


def _running(children: Sequence[psutil.Process]) -> list[psutil.Process]:
    # Not by waiting for them: that would take their exit codes from Celery.
    return [child for child in children if child.is_running() and _status(child) != psutil.STATUS_ZOMBIE]


def _status(child: psutil.Process) -> str:
    with suppress(psutil.Error):
        return str(child.status())
    return psutil.STATUS_ZOMBIE
