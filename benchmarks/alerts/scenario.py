"""One way to provoke alerts: what is broken, how it is mended, and which alerts must fire meanwhile."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

from benchmarks.alerts.site import Site

Provoke = Callable[[Site], AbstractContextManager[object]]


@dataclass(frozen=True, slots=True)
class Scenario:
    """`provoke` breaks something when its block is entered and mends it when the block is left.

    Attributes:
        alerts: those that must fire within the block and be gone after it, without the prefix Nightshift.
        how: what is broken, in one line.
        cure: what ends it.
        rows: rows of our tables were written directly, because the real thing would take days.
    """

    alerts: tuple[str, ...]
    how: str
    cure: str
    provoke: Provoke
    rows: bool = False
