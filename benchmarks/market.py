"""The synthetic market of the benchmarks: closes on every day of the week, the same on every machine.

Assets begin at 10 to 500 units and move each day by a whole number of ppm between -30,000 and +30,000, both drawn from
the raw words of PCG64(0). A real exchange rests at weekends, and a night without trades says little.
"""

from __future__ import annotations

from datetime import date, timedelta
from pathlib import Path

import numpy as np

from engine.ticks import PPM

FIRST_DAY = date(2023, 1, 1)
# Longer than the longest window that a sample simulation looks back.
DAYS_BEFORE = 260
_STEP = 30_000
_CENTS = 100


def write_market(path: Path, days: int, assets: int) -> date:
    """Write a CSV of closes of `assets` assets on DAYS_BEFORE + `days` days.

    Returns: the first day with DAYS_BEFORE days before it.
    """
    bits = np.random.PCG64(0)
    cents = (bits.random_raw(assets) % np.uint64(490 * _CENTS)).astype(np.int64) + 10 * _CENTS
    lines = ["symbol,day,close"]
    for offset in range(DAYS_BEFORE + days):
        day = FIRST_DAY + timedelta(days=offset)
        step = (bits.random_raw(assets) % np.uint64(2 * _STEP + 1)).astype(np.int64) - _STEP
        cents = np.maximum(cents + cents * step // PPM, 1)
        prices = [f"{close // _CENTS}.{close % _CENTS:02}" for close in cents.tolist()]
        lines += [f"SYN{asset:02},{day},{price}" for asset, price in enumerate(prices)]
    path.write_text("\n".join(lines) + "\n", encoding="ascii")
    return FIRST_DAY + timedelta(days=DAYS_BEFORE)
