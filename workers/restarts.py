"""When a process that died is started again: at once, and later and later if it goes on dying soon."""

from __future__ import annotations

from dataclasses import dataclass

_CALM_SECONDS = 60.0  # one that ran this long had a good start
LONGEST_BACKOFF = 30.0


@dataclass(slots=True)
class Restarts:
    """How a process is doing: when it was started, how often in a row it died soon, when it is to be started again.

    Moments are seconds of `time.monotonic`.
    """

    started: float
    deaths: int = 0
    restart_at: float | None = None

    def died(self, now: float) -> float:
        """Count a death; the seconds to wait."""
        self.deaths = 1 if now - self.started > _CALM_SECONDS else self.deaths + 1
        delay = min(2.0 ** (self.deaths - 1) - 1, LONGEST_BACKOFF)
        self.restart_at = now + delay
        return delay

    def is_due(self, now: float) -> bool:
        """Whether it waits to be started again, and has waited long enough."""
        return self.restart_at is not None and now >= self.restart_at

    def restarted(self, now: float) -> None:
        """It runs again."""
        self.started, self.restart_at = now, None
