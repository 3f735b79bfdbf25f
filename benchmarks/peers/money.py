"""The arithmetic of docs/ledger.md on Python integers: exact, and without loops."""

from __future__ import annotations

T = 10**8
M = 10**6
MAX = 2**63 - 1


def rounded(numerator: int, denominator: int) -> int:
    """`numerator / denominator`, both >= 0, rounded half to even."""
    quotient, remainder = divmod(numerator, denominator)
    twice = 2 * remainder
    if twice > denominator or (twice == denominator and quotient & 1):
        return quotient + 1
    return quotient


def afford(budget: int, price: int, fee_ppm: int) -> int:
    """The largest quantity whose notional and fee are at most `budget`.

    First the largest such notional: the quotient fits, and of the larger ones only the next can, since a fee rounds by
    at most half a tick. Then the largest quantity that rounds to it: half a tick more rounds down if it is even.
    """
    if budget <= 0:
        return 0
    notional = budget * M // (M + fee_ppm)
    if notional + 1 + rounded((notional + 1) * fee_ppm, M) <= budget:
        notional += 1
    quantity = (notional * T + T // 2 - (notional & 1)) // price
    return quantity if rounded(quantity * price, T) else 0
