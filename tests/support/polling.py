"""Waiting for something to become true, without guessing how long it takes."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")
# Whoever looks must not take the processors from those he waits for: nine tenths of the time he sleeps.
_SHORTEST, _LONGEST, _SLEEP_TO_LOOK = 0.02, 0.5, 9


def wait_until(condition: Callable[[], T | None], *, seconds: float = 30.0, what: str = "the condition") -> T:
    """The first truthy result of `condition`, asked again and again; AssertionError after `seconds`.

    It is asked every 20 ms, and more rarely the longer it takes to answer.
    """
    deadline = time.monotonic() + seconds
    while True:
        asked = time.monotonic()
        result = condition()
        answered = time.monotonic()
        if result:
            return result
        if answered > deadline:
            raise AssertionError(f"{what} did not come true within {seconds:g} s; last result: {result!r}")
        time.sleep(min(max(_SHORTEST, _SLEEP_TO_LOOK * (answered - asked)), _LONGEST))
