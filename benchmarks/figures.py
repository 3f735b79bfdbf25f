"""Figures as the benchmarks report them."""

from __future__ import annotations

import statistics
from collections.abc import Iterable

Spread = dict[str, float]
"""What was measured several times: {"min", "median", "max"}."""


def spread(values: Iterable[float], digits: int = 4) -> Spread:
    """The spread of at least one value, rounded."""
    measured = list(values)
    return {
        "min": round(min(measured), digits),
        "median": round(statistics.median(measured), digits),
        "max": round(max(measured), digits),
    }
