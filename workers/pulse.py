"""Which workers still answer: a process may live and yet do nothing, ever again.

Celery's event loop can end in an unrecoverable error without ending its process, for instance when a pool process is
killed in the middle of a message to it. Such a worker takes no messages and does not exit, so nobody would restart it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable

from core.errors import ServerUnreachableError
from core.settings import Settings
from workers.app import make_app
from workers.health import worker_names

_ASK_SECONDS = 5.0


class Pulse:
    """Asks the workers every few seconds, in a thread of its own, and remembers when each answered last."""

    def __init__(self, settings: Settings, redis_url: str, names: Iterable[str]) -> None:
        self._settings = settings
        self._redis_url = redis_url
        self._answered = dict.fromkeys(names, time.monotonic())
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._ask, name="pulse", daemon=True)

    def start(self) -> None:
        """Begin to ask."""
        self._thread.start()

    def stop(self) -> None:
        """Ask no more."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()

    def restarted(self, name: str) -> None:
        """Give a worker that was started just now its time."""
        self._answered[name] = time.monotonic()

    def silence(self, name: str) -> float:
        """Seconds since the worker's last answer, without those in which Redis carried none; 0 for other names."""
        return time.monotonic() - self._answered.get(name, time.monotonic())

    def _ask(self) -> None:
        with make_app(self._settings, self._redis_url) as app:
            while not self._stopping.wait(_ASK_SECONDS):
                asked = time.monotonic()
                try:
                    answering = set(worker_names(app))
                except ServerUnreachableError:
                    answering = set(self._answered)
                for name in answering & set(self._answered):
                    self._answered[name] = max(self._answered[name], asked)
