"""`a * b / c` on int64 equals Python's integers everywhere, ties and the very edge of int64 included."""

from __future__ import annotations

import random
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from engine.ticks import MAX, mul_div_floor, mul_div_round
from tests.oracle.examples import bounded
from tests.oracle.numbers import rhe

EDGES = [0, 1, 2, 3, 10**6, 10**8, 2**31, 2**32, 2**52, 2**53, 2**53 + 1, 2**61 - 1, 2**61, 2**62, MAX - 1, MAX]
near_powers = st.builds(lambda e, d: min(max(2**e + d, 0), MAX), st.integers(0, 63), st.integers(-3, 3))
factors = st.one_of(st.integers(0, MAX), st.integers(0, 10**9), st.sampled_from(EDGES), near_powers)
divisors = factors.filter(bool)


@st.composite
def ties(draw: st.DrawFn) -> tuple[int, int, int]:
    """a * b / c is a whole number and a half, or next to it."""
    c = 2 * draw(st.integers(1, 2**31 - 1))
    whole = draw(st.integers(0, 2**31))
    numerator = whole * c + c // 2 + draw(st.sampled_from([-1, 0, 0, 0, 1]))
    return (numerator, 1, c) if draw(st.booleans()) else (1, numerator, c)


@st.composite
def edges_of_int64(draw: st.DrawFn) -> tuple[int, int, int]:
    """a * b / c lies within a divisor of 2**63 - 1 or 2**63."""
    c = draw(st.one_of(st.integers(1, 10**9), divisors))
    b = draw(st.one_of(st.just(c), factors.filter(bool)))
    quotient = draw(st.sampled_from([MAX, MAX + 1]))
    a = quotient * c // b + draw(st.integers(-2, 2))
    return min(max(a, 0), MAX), b, c


triples = st.one_of(st.tuples(factors, factors, divisors), ties(), edges_of_int64())


def check(rows: list[tuple[int, int, int]]) -> None:
    a, b, c = (np.array(column, dtype=np.int64) for column in zip(*rows, strict=True))
    for function, exact in (
        (mul_div_floor, [x * y // z for x, y, z in rows]),
        (mul_div_round, [rhe(x * y, z) for x, y, z in rows]),
    ):
        overflow = np.zeros(len(rows), dtype=bool)
        overflow[::3] = True
        result = function(a, b, c, overflow)
        assert result.dtype == np.int64
        assert result.tolist() == [min(value, MAX) for value in exact]
        assert overflow.tolist() == [value > MAX or at % 3 == 0 for at, value in enumerate(exact)]
        assert function(a, b, c).tolist() == result.tolist()


@bounded(500)
@given(st.lists(triples, min_size=1, max_size=30))
def test_equals_integers(rows: list[tuple[int, int, int]]) -> None:
    check(rows)


def test_every_edge_with_every_edge() -> None:
    check([(a, b, c) for a in EDGES for b in EDGES for c in EDGES if c])


def test_half_a_million_products_of_all_magnitudes() -> None:
    generator = np.random.default_rng(7)

    def numbers() -> NDArray[np.int64]:
        return np.asarray(generator.integers(0, MAX, 170_000) >> generator.integers(0, 63, 170_000))

    for c in (np.full(170_000, 10**8), np.full(170_000, 10**6), numbers() + 1):
        check(list(zip(numbers().tolist(), numbers().tolist(), c.tolist(), strict=True)))


def test_beside_multiples_of_huge_divisors() -> None:
    """There the float estimate may be one off, and one divisor more or less is what a wrapped remainder hides."""
    pick = random.Random(1)
    rows = []
    for _ in range(20_000):
        c = MAX - pick.randrange(2 ** pick.randint(1, 62))
        b = pick.randrange(2**47, 2**62)
        a = pick.randrange(2 ** pick.randint(1, 48)) * c // b + pick.randrange(2)
        rows.append((min(a, MAX), b, c))
    check(rows)


def test_the_last_value_that_fits_and_the_first_that_does_not() -> None:
    # (2**63 - 1) + 1/2 is odd and a half: it rounds up and out. 2**63 - 1 and a third rounds down and stays.
    halves = (MAX * 2 + 1) // 3
    assert halves * 3 == MAX * 2 + 1
    for numerator, divisor, floor_out, round_out in ((3, 2, False, True), (1, 1, False, False)):
        a = np.array([halves if divisor == 2 else MAX], dtype=np.int64)
        flags = np.zeros(1, dtype=bool), np.zeros(1, dtype=bool)
        assert mul_div_floor(a, np.array([numerator]), np.array([divisor]), flags[0]).tolist() == [MAX]
        assert mul_div_round(a, np.array([numerator]), np.array([divisor]), flags[1]).tolist() == [MAX]
        assert (flags[0][0], flags[1][0]) == (floor_out, round_out)


@pytest.mark.parametrize("function", [mul_div_floor, mul_div_round])
@pytest.mark.parametrize("huge", [1, 2**62])
def test_shapes_broadcast(function: Callable[..., NDArray[np.int64]], huge: int) -> None:
    a = np.array([[3], [huge]], dtype=np.int64)
    b = np.array([5, 7, huge], dtype=np.int64)
    overflow = np.zeros((2, 3), dtype=bool)
    result = function(a, b, 4, overflow)
    for at in np.ndindex(2, 3):
        product = int(a[at[0], 0]) * int(b[at[1]])
        exact = product // 4 if function is mul_div_floor else rhe(product, 4)
        assert int(result[at]) == min(exact, MAX)
        assert bool(overflow[at]) == (exact > MAX)
    assert function(np.zeros((0, 3), dtype=np.int64), b, 4, np.zeros((0, 3), dtype=bool)).shape == (0, 3)
    assert int(function(huge, huge, huge)) == huge
