"""Users who break what works on them: strategies of a third party, found through the entry point group.

A night that meets one of them raises, crashes, runs out of memory or never ends. Only `nightshift chaos` installs them.
"""

from __future__ import annotations

import ctypes
import resource
import time
from contextlib import suppress
from typing import ClassVar, NoReturn

import psutil

from engine.night import Night
from engine.params import Parameters
from engine.strategies.base import Strategy
from engine.ticks import Ints

_SPARE_BYTES = 64 * 2**20


class PoisonError(Exception):
    """What a broken strategy raises."""


class Raises(Strategy):
    """Raises an error that nobody knows."""

    name = "chaos_exception"
    code = 1001
    Parameters = Parameters

    def orders(self, night: Night) -> Ints:
        """Never."""
        raise PoisonError(f"user {int(night.simulations.user_id[0])} cannot be advanced")


class Crashes(Strategy):
    """Reads where no memory is: the process dies of a segmentation fault."""

    name = "chaos_segfault"
    code = 1002
    Parameters = Parameters

    def orders(self, night: Night) -> Ints:
        """Never."""
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        ctypes.string_at(0)
        return night.no_orders()


class EatsMemory(Strategy):
    """Asks for more memory than the process may have."""

    name = "chaos_memory"
    code = 1003
    Parameters = Parameters

    def orders(self, night: Night) -> Ints:
        """Never."""
        limits = resource.getrlimit(resource.RLIMIT_AS)
        used = psutil.Process().memory_info().vms
        resource.setrlimit(resource.RLIMIT_AS, (used + _SPARE_BYTES, limits[1]))
        try:
            hoard = [bytearray(_SPARE_BYTES) for _ in range(64)]
        finally:
            resource.setrlimit(resource.RLIMIT_AS, limits)
        return night.no_orders() * len(hoard)


class Hangs(Strategy):
    """Never ends; the soft time limit interrupts it."""

    name = "chaos_hang"
    code = 1004
    Parameters = Parameters

    def orders(self, night: Night) -> NoReturn:  # noqa: ARG002 - a strategy's signature
        """Never."""
        while True:
            time.sleep(0.05)


class HangsStubbornly(Strategy):
    """Never ends and does not hear the soft time limit; the hard one kills the process."""

    name = "chaos_stubborn"
    code = 1005
    Parameters = Parameters
    deaf_to: ClassVar[type[Exception]] = Exception

    def orders(self, night: Night) -> NoReturn:  # noqa: ARG002 - a strategy's signature
        """Never."""
        while True:
            with suppress(self.deaf_to):
                time.sleep(0.05)
