"""Exact arithmetic on int64 ticks.

`a * b / c` needs a 128-bit product. Instead of computing it, estimate the quotient in float64 and take the remainder in
wrapping int64: `r = a*b - q*c` is exact modulo 2**64, and it is small because the estimate is close, so the wrapped
value is the true one. `floor(r / c)` then corrects the estimate. The few elements for which "small" is not certain (see
`_div_mod`) go through Python integers.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

TICKS = 10**8
PPM = 10**6
MAX = 2**63 - 1

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

# The estimate's relative error is at most 5 roundings of 2**-53, hence |r| <= a*b * 5 * 2**-53 + c. With a*b < 2**112
# and c < 2**62 that is below 2**63, so the wrapped remainder is the true one; the bounds are halved for the float test.
_SAFE_PRODUCT = 2.0**111
_SAFE_DIVISOR = 2**61
_SAFE_QUOTIENT = 2.0**62
# Below this the estimate is off by less than a third before it is truncated, so the quotient by at most one.
_OFF_BY_ONE = 2.0**49


def mul_div_floor(a: ArrayLike, b: ArrayLike, c: ArrayLike, overflow: Bools | None = None) -> Ints:
    """`floor(a * b / c)`, exact, elementwise with broadcasting.

    Args:
        a: int64, >= 0.
        b: int64, >= 0.
        c: int64, > 0.
        overflow: bool array of the result's shape; True is stored where the result does not fit int64.

    Returns:
        int64; `MAX` where the result does not fit.
    """
    return _div_mod(a, b, c, overflow).quotient


def mul_div_round(a: ArrayLike, b: ArrayLike, c: ArrayLike, overflow: Bools | None = None) -> Ints:
    """`a * b / c` rounded half to even; otherwise as `mul_div_floor`."""
    parts = _div_mod(a, b, c, overflow)
    quotient, remainder, divisor = parts.quotient, parts.remainder, parts.divisor
    # 2 * remainder > divisor, or = and the quotient is odd; written so that nothing can overflow.
    up = remainder + (quotient & 1) > divisor - remainder
    if parts.huge:
        full = quotient == MAX
        if overflow is not None:
            overflow |= up & full
        up &= ~full
    return np.asarray(quotient + up, dtype=np.int64)


def mul_div_add_floor(a: Ints, b: int, add: Ints, c: Ints, overflow: Bools | None = None) -> Ints:
    """`floor((a * b + add) / c)` for `add >= 0`; otherwise as `mul_div_floor`."""
    parts = _div_mod(a, b, c, overflow)
    missing = parts.divisor - parts.remainder
    carry = np.where(add >= missing, 1 + (add - np.minimum(missing, add)) // parts.divisor, 0)
    return add_checked(parts.quotient, carry, overflow)


def add_checked(a: Ints, b: Ints, overflow: Bools | None = None) -> Ints:
    """`a + b` for operands >= 0; `MAX`, and True in `overflow`, where the sum does not fit."""
    total = a + b
    wrapped = total < 0
    if wrapped.any():
        total[wrapped] = MAX
        if overflow is not None:
            overflow |= wrapped
    return total


class _Parts(NamedTuple):
    quotient: Ints
    remainder: Ints
    divisor: Ints
    huge: bool  # some element went through `_exactly`


def _div_mod(a: ArrayLike, b: ArrayLike, c: ArrayLike, overflow: Bools | None) -> _Parts:
    left, right, divisor = (np.asarray(x, dtype=np.int64) for x in (a, b, c))
    with np.errstate(over="ignore", invalid="ignore"):
        product = np.asarray(np.multiply(left, right, dtype=np.float64))
        estimate = np.asarray(product / divisor)
        largest = float(estimate.max(initial=0.0))
        largest_divisor = int(divisor.max(initial=0)) if divisor.ndim else int(divisor)
        # No product is larger than the largest quotient times the largest divisor; looking for it costs a pass.
        huge = largest >= _SAFE_QUOTIENT or largest_divisor >= _SAFE_DIVISOR
        huge = huge or (largest * largest_divisor >= _SAFE_PRODUCT and product.max(initial=0.0) >= _SAFE_PRODUCT)
        unsafe = None
        if huge:
            unsafe = ~((product < _SAFE_PRODUCT) & (divisor < _SAFE_DIVISOR) & (estimate < _SAFE_QUOTIENT))
            estimate = np.where(unsafe, 0.0, estimate)
        quotient = np.asarray(estimate.astype(np.int64))
        remainder = np.asarray(left * right - quotient * divisor)
        if divisor.ndim and largest < _OFF_BY_ONE:
            # A division by an array costs ten times as much as these comparisons.
            correction = (remainder >= divisor).astype(np.int64) - (remainder < 0)
        else:
            correction = np.asarray(remainder // divisor)
        quotient = np.asarray(quotient + correction)
        remainder = np.asarray(remainder - correction * divisor)
    if unsafe is not None:
        _exactly(left, right, divisor, unsafe, quotient, remainder, overflow)
    return _Parts(quotient, remainder, divisor, unsafe is not None)


def _exactly(a: Ints, b: Ints, c: Ints, where: Bools, quotient: Ints, remainder: Ints, overflow: Bools | None) -> None:
    """Recompute the elements of `where` in place with Python integers."""
    a, b, c, where = np.broadcast_arrays(a, b, c, where)
    for index in map(tuple, np.argwhere(where)):
        exact, rest = divmod(int(a[index]) * int(b[index]), int(c[index]))
        fits = exact <= MAX
        quotient[index] = exact if fits else MAX
        remainder[index] = rest if fits else 0
        if not fits and overflow is not None:
            overflow[index] = True
