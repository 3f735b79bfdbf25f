"""Statistics of equity curves against plain arithmetic, written down a second time."""

from __future__ import annotations

import math
import statistics
from datetime import date, timedelta
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.frame import State
from engine.statistics import record_day
from services.report_statistics import (
    Running,
    cagr,
    daily_returns,
    performance,
    turnover,
    win_rate,
    worst_drawdown,
)

START = date(2024, 1, 1)
amounts = st.integers(0, 10**15)
curves = st.lists(amounts, min_size=1, max_size=60)


def days(count: int) -> list[date]:
    return [START + timedelta(days=number) for number in range(count)]


def running(initial: int, equity: list[int]) -> Running:
    """What the engine's rows would hold."""
    numbers, none = np.array([initial], dtype=np.int64), np.zeros((1, 0), dtype=np.int64)
    state = State(
        cash=numbers.copy(), equity=numbers.copy(), peak=numbers.copy(), nights=np.zeros(1, dtype=np.int32),
        return_mean=np.zeros(1), return_m2=np.zeros(1), max_drawdown=np.zeros(1),
        quantities=none, cost_basis=none, strategy_state=none,
    )  # fmt: skip
    for value in equity:
        record_day(state, np.array([value], dtype=np.int64))
    return Running(
        int(state.nights[0]), float(state.return_mean[0]), float(state.return_m2[0]), float(state.max_drawdown[0])
    )


def exact_returns(initial: int, equity: list[int]) -> list[Fraction]:
    found, before = [], initial
    for value in equity:
        found.append(Fraction(value - before, before) if before else Fraction(0))
        before = value
    return found


@settings(max_examples=200)
@given(st.integers(1, 10**15), curves)
def test_ratios_are_those_of_exact_arithmetic(initial: int, equity: list[int]) -> None:
    found = performance(initial, days(len(equity)), equity, running(initial, equity))
    exact = exact_returns(initial, equity)
    mean = float(sum(exact, Fraction(0)) / len(exact))
    below = float(sum((min(value, Fraction(0)) ** 2 for value in exact), Fraction(0)) / len(exact))
    assert found.total_return == pytest.approx(float(Fraction(equity[-1], initial) - 1), rel=1e-9, abs=1e-12)
    if len(exact) < 2:
        assert (found.volatility, found.sharpe, found.sortino) == (None, None, None)
        return
    variance = float(statistics.variance(exact))
    assert found.volatility == pytest.approx(math.sqrt(variance * 365), rel=1e-6, abs=1e-9)
    if below:
        assert found.sortino == pytest.approx(mean / math.sqrt(below) * math.sqrt(365), rel=1e-9, abs=1e-9)
    else:
        assert found.sortino is None
    if variance == 0:
        assert found.sharpe is None or len(set(equity)) > 1
    elif math.sqrt(variance) > 1e-6 * abs(mean):
        assert found.sharpe == pytest.approx(mean / math.sqrt(variance) * math.sqrt(365), rel=1e-5, abs=1e-9)


@settings(max_examples=200)
@given(amounts, curves)
def test_the_worst_drawdown_is_the_worst_of_all_pairs_of_days(initial: int, equity: list[int]) -> None:
    found = worst_drawdown(initial, days(len(equity)), equity)
    curve = [initial, *equity]
    falls = [
        Fraction(curve[top] - curve[bottom], curve[top])
        for top in range(len(curve))
        for bottom in range(top, len(curve))
        if curve[top]
    ]
    deepest = max(falls, default=Fraction(0))
    assert running(initial, equity).max_drawdown == (found.depth if found else 0.0)
    if found is None:
        assert deepest <= 0
        return
    assert found.depth == pytest.approx(float(deepest))
    top = 0 if found.peak_day is None else (found.peak_day - START).days + 1
    bottom = (found.trough_day - START).days + 1
    assert curve[top] == max(curve[: bottom + 1])
    assert float(Fraction(curve[top] - curve[bottom], curve[top])) == pytest.approx(found.depth)
    again = [at for at in range(bottom, len(curve)) if curve[at] >= curve[top]]
    assert found.recovered_day == (days(len(equity))[again[0] - 1] if again else None)


def test_an_example_that_can_be_checked_by_hand() -> None:
    equity = [110, 121, 60, 90, 121, 130]
    found = worst_drawdown(100, days(6), equity)
    assert found is not None
    assert (found.peak_day, found.trough_day, found.recovered_day) == (days(6)[1], days(6)[2], days(6)[4])
    assert found.depth == pytest.approx(61 / 121)
    falling = worst_drawdown(100, days(2), [90, 80])
    assert falling is not None
    assert (falling.peak_day, falling.recovered_day) == (None, None)
    assert daily_returns(100, [110, 0, 5]) == [0.1, -1.0, 0.0]


def test_a_year_is_needed_to_speak_of_a_year() -> None:
    assert cagr(0.1, 364) is None
    assert cagr(0.1, 365) == pytest.approx(0.1)
    assert cagr(0.21, 730) == pytest.approx(0.1)
    assert cagr(None, 730) is None
    assert cagr(-1.0, 730) == -1.0
    equity = [100 + number % 10 for number in range(730)]
    found = performance(100, days(730), equity, running(100, equity))
    assert found.cagr is not None
    assert found.calmar == pytest.approx(found.cagr / found.max_drawdown)
    rising = list(range(101, 501))
    assert performance(100, days(400), rising, running(100, rising)).calmar is None


def test_nothing_is_made_of_nothing() -> None:
    still = [100] * 5
    found = performance(100, days(5), still, running(100, still))
    assert (found.total_return, found.volatility) == (0.0, 0.0)
    assert (found.sharpe, found.sortino, found.drawdown) == (None, None, None)
    assert performance(0, days(2), [0, 0], running(0, [0, 0])).total_return is None
    assert win_rate([]) is None
    assert win_rate([Decimal(1), Decimal(0), Decimal(-1), Decimal(2)]) == 0.5
    assert turnover(Decimal(50), Decimal(30), [Decimal(100), Decimal(200)]) == pytest.approx(0.2)
    assert turnover(Decimal(50), Decimal(30), [Decimal(0)]) is None
    assert turnover(Decimal(0), Decimal(0), []) is None


def test_without_every_day_what_needs_them_is_not_known() -> None:
    equity = [110, 90, 100]
    kept = performance(100, days(3)[1:], equity[1:], running(100, equity))
    whole = performance(100, days(3), equity, running(100, equity))
    assert (kept.sortino, kept.drawdown) == (None, None)
    assert whole.sortino is not None
    assert (kept.volatility, kept.sharpe, kept.max_drawdown) == (whole.volatility, whole.sharpe, whole.max_drawdown)
