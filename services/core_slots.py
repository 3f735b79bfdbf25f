"""As many batches at work at once as there are cores, however many processes there are.

A process that waits for its turn has its message and its claim already, so that no core idles between two batches: that
is what more processes than cores are good for. At work all together, they would only take each other's cache.

A turn is a lock on a byte of a file that has no name, made before the pool is forked: it dies with its process, so a
worker that is killed leaves no turn behind. Nobody waits long: behind batches that hang, work goes on without a turn.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager

# A batch takes a tenth of a second; one that takes longer than this is no reason to wait.
_PATIENCE_SECONDS = 1.0
_LOOK_SECONDS = 0.001


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class CoreSlots:
    """The turns of a pool. Made before its processes are forked; `hold` is called in them.

    Args:
        count: turns; at least one.
    """

    def __init__(self, count: int) -> None:
        self._count = max(count, 1)
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the pool

    @contextmanager
    def hold(self, patience: float = _PATIENCE_SECONDS) -> Iterator[bool]:
        """A turn for the time of the block; without one, and False, if none comes free within `patience` seconds."""
        slot = self._take(patience)
        try:
            yield slot is not None
        finally:
            if slot is not None:
                fcntl.lockf(self._file, fcntl.LOCK_UN, 1, slot)

    def close(self) -> None:
        """Give everything back."""
        self._file.close()

    def _take(self, patience: float) -> int | None:
        until = time.monotonic() + patience
        # Each begins at another, so that they do not all ask for the first.
        places = [(os.getpid() + number) % self._count for number in range(self._count)]
        while True:
            for slot in places:
                if self._try(slot):
                    return slot
            if time.monotonic() >= until:
                return None
            time.sleep(_LOOK_SECONDS)

    def _try(self, slot: int) -> bool:
        try:
            fcntl.lockf(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, slot)
        except (BlockingIOError, PermissionError):
            return False
        return True
