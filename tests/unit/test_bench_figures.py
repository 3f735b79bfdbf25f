"""Figures of the benchmarks: a ratio that was measured in pairs comes with an interval that keeps its promise."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.figures import interval_of_ratios, spread


def test_the_mean_of_ratios_is_geometric() -> None:
    assert interval_of_ratios([0.5, 2.0])["mean"] == 1.0
    assert interval_of_ratios([1.25]) == {"low": 1.25, "mean": 1.25, "high": 1.25}


def test_the_true_ratio_is_within_the_interval_as_often_as_is_said() -> None:
    draws = np.random.default_rng(7).lognormal(mean=np.log(1.02), sigma=0.1, size=(2_000, 20))
    intervals = [interval_of_ratios(list(pairs), digits=9) for pairs in draws]
    hit = sum(its["low"] <= 1.02 <= its["high"] for its in intervals) / len(intervals)
    assert 0.92 < hit < 0.96


def test_a_spread_needs_a_value() -> None:
    assert spread([3.0, 1.0, 2.0]) == {"min": 1.0, "median": 2.0, "max": 3.0}
    with pytest.raises(ValueError, match="empty"):
        spread([])
