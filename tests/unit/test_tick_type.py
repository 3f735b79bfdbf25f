"""An amount goes into the database exactly, or not at all."""

from __future__ import annotations

from decimal import Decimal, localcontext

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from models.ticks import MAX_TICKS, from_ticks, to_ticks


@given(st.integers(-MAX_TICKS, MAX_TICKS))
@example(MAX_TICKS)
@example(-MAX_TICKS)
@example(0)
@example(1)
def test_every_number_of_ticks_comes_back_whatever_the_callers_precision(ticks: int) -> None:
    with localcontext(prec=3):
        amount = from_ticks(ticks)
        assert to_ticks(amount) == ticks
    assert amount == Decimal(ticks) / 10**8
    assert amount.as_tuple().exponent == -8


@pytest.mark.parametrize(
    ("value", "ticks"),
    [
        (Decimal("1.5"), 150_000_000),
        (3, 3 * 10**8),
        (Decimal("1.000000010000000000000000000000"), 100_000_001),
        (Decimal("92233720368.54775807"), MAX_TICKS),
        (Decimal("-92233720368.54775807"), -MAX_TICKS),
        (Decimal("1E+10"), 10**18),
        (Decimal("0E-400"), 0),
        (Decimal("-0"), 0),
    ],
)
def test_an_exact_amount_is_taken(value: Decimal | int, ticks: int) -> None:
    assert to_ticks(value) == ticks


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (Decimal("0.000000001"), "more than 8 decimals"),
        (Decimal("123.123456789"), "more than 8 decimals"),
        (Decimal("1E-999999"), "more than 8 decimals"),
        (Decimal("1." + "0" * 80 + "1"), "more than 8 decimals"),
        (Decimal("NaN"), "finite"),
        (Decimal("sNaN"), "finite"),
        (Decimal("Infinity"), "finite"),
        (Decimal("92233720368.54775808"), "out of range"),
        (Decimal("-92233720368.54775808"), "out of range"),
        (Decimal("1E+999999"), "out of range"),
        (10**30, "out of range"),
        (0.5, "not a Decimal"),
        (True, "not a Decimal"),
    ],
)
def test_anything_else_is_refused_in_one_line(value: Decimal, reason: str) -> None:
    with pytest.raises(ValueError, match=reason) as caught:
        to_ticks(value)
    assert "\n" not in str(caught.value)
