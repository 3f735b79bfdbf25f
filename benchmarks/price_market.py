"""The synthetic prices of the benchmark: what Binance would answer, window after window, the same on every machine.

Symbols begin at 10 to 500 units and move in each window by a whole number of ppm between -3,000 and +3,000, both drawn
from the raw words of PCG64(0): far within the band of a price that nothing is known of yet, so that none is held.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np

from core.errors import NightshiftError
from engine.ticks import PPM
from models.ticks import TICKS_PER_UNIT
from price_sources.binance import Binance
from price_sources.source import Answer, Ask
from services.following import Wanted
from services.price_store import Followed

SOURCE = "binance"
_BINANCE = Binance("http://127.0.0.1")
_STEP = 3_000
# So long after its beginning the answer of a window is here.
ANSWERED_AFTER = timedelta(seconds=2)


@dataclass(frozen=True, slots=True)
class Window:
    """What was asked, and the answer as it was received: JSON of all symbols."""

    ask: Ask
    body: bytes

    def read(self, now: datetime) -> Answer:
        """What it says."""
        return _BINANCE.read(self.ask, self.body, now)


def wanted_symbols(count: int) -> list[Wanted]:
    """Symbols whose order is that of their ids."""
    return [Wanted(f"SYN{number:05}", f"SYN{number:05}USDT") for number in range(1, count + 1)]


class Market:
    """A random walk of all assets that are followed."""

    def __init__(self, assets: Mapping[str, Followed]) -> None:
        self._codes = list(assets)
        self._bits = np.random.PCG64(0)
        self._prices = 10 * TICKS_PER_UNIT + self._drawn(490 * TICKS_PER_UNIT)

    def window(self, moment: datetime) -> Window:
        """The next one, which begins at `moment`."""
        self._prices += self._prices * (self._drawn(2 * _STEP + 1) - _STEP) // PPM
        units, ticks = np.divmod(self._prices, TICKS_PER_UNIT)
        rows = [
            {"symbol": code, "price": f"{unit}.{tick:08d}"}
            for code, unit, tick in zip(self._codes, units.tolist(), ticks.tolist(), strict=True)
        ]
        asks = _BINANCE.live(self._codes, moment)
        if len(asks) != 1:
            raise NightshiftError(f"a window of {len(rows)} symbols takes {len(asks)} requests instead of one")
        return Window(asks[0], json.dumps(rows, separators=(",", ":")).encode())

    def _drawn(self, bound: int) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
        """For each symbol a number below `bound`."""
        return (self._bits.random_raw(len(self._codes)) % np.uint64(bound)).astype(np.int64)
