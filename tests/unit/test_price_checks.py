"""A price that jumped is held until the next window or a second source says the same; every decision is explained."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.price_checks import (
    UNKNOWN_DEVIATION,
    Believed,
    Held,
    Verdict,
    band,
    decide,
    next_variance,
)
from tests.oracle.crypto import crypto_closes, needs_crypto
from tests.oracle.strategies import EPOCH

START = datetime(2026, 3, 1, tzinfo=UTC)
WINDOW = timedelta(minutes=5)
CALM = Believed(START, 100_00000000, 0.02**2)


def test_the_first_price_of_an_asset_is_believed() -> None:
    assert decide("binance", START, 1, None, []).accepted


def test_a_small_move_is_believed_and_a_large_one_is_held() -> None:
    small = decide("binance", START + WINDOW, 104_00000000, CALM, [])
    assert (small.accepted, small.jump_ppm, small.band_ppm) == (True, 40_000, 50_000)
    large = decide("binance", START + WINDOW, 106_00000000, CALM, [])
    assert (large.accepted, large.jump_ppm) == (False, 60_000)


def test_a_restless_asset_may_move_further() -> None:
    restless = CALM._replace(variance=1.5**2)
    assert decide("binance", START + WINDOW, 140_00000000, restless, []).accepted
    assert not decide("binance", START + WINDOW, 250_00000000, restless, []).accepted


def test_after_a_pause_an_asset_may_have_moved_further() -> None:
    assert decide("binance", START + timedelta(days=1), 115_00000000, CALM, []).accepted
    assert band(CALM.variance, timedelta(days=1)) == pytest.approx(0.16)
    assert band(CALM.variance, -timedelta(days=1)) == band(CALM.variance, timedelta(days=1))


@pytest.mark.parametrize("price", [50_00000000, 200_00000000])
def test_the_next_window_confirms_a_jump_in_either_direction(price: int) -> None:
    held = [Held(7, "binance", START + WINDOW, price)]
    decision = decide("binance", START + 2 * WINDOW, price + 1, CALM, held)
    assert (decision.accepted, decision.verdicts) == (True, ((7, Verdict.CONFIRMED),))


def test_the_same_window_fetched_twice_confirms_nothing() -> None:
    held = [Held(7, "binance", START + WINDOW, 200_00000000)]
    decision = decide("binance", START + WINDOW, 200_00000000, CALM, held)
    assert (decision.accepted, decision.verdicts) == (False, ())


def test_a_second_source_confirms_a_jump_in_the_same_window() -> None:
    held = [Held(7, "binance", START + WINDOW, 200_00000000)]
    decision = decide("coingecko", START + WINDOW, 201_00000000, CALM, held)
    assert (decision.accepted, decision.verdicts) == (True, ((7, Verdict.CONFIRMED),))


def test_a_price_that_came_back_refutes_the_jump() -> None:
    held = [Held(7, "binance", START + WINDOW, 200_00000000)]
    decision = decide("binance", START + 2 * WINDOW, 101_00000000, CALM, held)
    assert (decision.accepted, decision.verdicts) == (True, ((7, Verdict.REVERTED),))


def test_another_jump_supersedes_that_of_the_same_source_only() -> None:
    held = [Held(7, "binance", START + WINDOW, 200_00000000), Held(8, "osrs", START + WINDOW, 400_00000000)]
    decision = decide("binance", START + 2 * WINDOW, 50_00000000, CALM, held)
    assert (decision.accepted, decision.verdicts) == (False, ((7, Verdict.SUPERSEDED),))


def test_the_variance_follows_the_asset() -> None:
    believed = CALM
    for number in range(1, 200):
        price = 100_00000000 if number % 2 else 120_00000000
        ts = START + number * timedelta(days=1)
        believed = Believed(ts, price, next_variance(believed, ts, price))
    assert math.sqrt(believed.variance or 0) == pytest.approx(math.log(1.2), rel=0.01)


def test_of_nothing_known_a_usual_deviation_is_assumed() -> None:
    first = CALM._replace(variance=None)
    assert next_variance(first, START + WINDOW, first.price) == UNKNOWN_DEVIATION**2


@given(st.integers(1, 2**63 - 1), st.integers(1, 2**63 - 1), st.none() | st.floats(0, 10), st.integers(-(10**6), 10**6))
def test_any_two_prices_are_judged(price: int, before: int, variance: float | None, seconds: int) -> None:
    ts = START + timedelta(seconds=seconds)
    decision = decide("any", ts, price, Believed(START, before, variance), [])
    assert decision.accepted == (decision.jump_ppm <= decision.band_ppm) or decision.jump_ppm == decision.band_ppm
    assert 0 <= decision.jump_ppm < 2**63


@needs_crypto
def test_of_recorded_daily_moves_few_are_held() -> None:
    """Fifty coins, 2018 to 2025: the extremes are among those held, and ordinary days are not."""
    days, held = 0, set()
    for symbol, series in crypto_closes().items():
        believed: Believed | None = None
        for number, close in sorted(series.items()):
            day = EPOCH + timedelta(days=number)
            ts = datetime(day.year, day.month, day.day, tzinfo=UTC)
            days += believed is not None
            if not decide("binance", ts, close, believed, []).accepted:
                held.add((symbol, day.isoformat()))
            believed = Believed(ts, close, next_variance(believed, ts, close) if believed else None)
    assert {("DOGEUSDT", "2021-01-28"), ("BTCUSDT", "2020-03-12")} <= held
    assert 0 < len(held) < days / 1000
