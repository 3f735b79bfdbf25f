"""Figures as the benchmarks report them."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence

Spread = dict[str, float]
"""What was measured several times: {"min", "median", "max"}."""

Interval = dict[str, float]
"""What the truth of a ratio is like: {"low", "mean", "high"}."""

_NORMAL_95 = statistics.NormalDist().inv_cdf(0.975)


def spread(values: Iterable[float], digits: int = 4) -> Spread:
    """The spread of at least one value, rounded."""
    measured = list(values)
    return {
        "min": round(min(measured), digits),
        "median": round(statistics.median(measured), digits),
        "max": round(max(measured), digits),
    }


def interval_of_ratios(ratios: Sequence[float], digits: int = 4) -> Interval:
    """The geometric mean of ratios that were measured in pairs, and where the true one is with a certainty of 95 %.

    By the normal distribution of the mean of their logarithms: from about ten pairs on it is no more than a tenth too
    narrow. Of less than two pairs there is no interval: its ends are the mean.
    """
    logarithms = [math.log(ratio) for ratio in ratios]
    middle = statistics.fmean(logarithms)
    apart = 0.0
    if len(logarithms) > 1:
        apart = _NORMAL_95 * statistics.stdev(logarithms) / math.sqrt(len(logarithms))
    return {
        "low": round(math.exp(middle - apart), digits),
        "mean": round(math.exp(middle), digits),
        "high": round(math.exp(middle + apart), digits),
    }
