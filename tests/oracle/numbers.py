"""Exact rounding and the bounds of a tick. Nothing here is clever: Python integers do not overflow."""

from __future__ import annotations

from enum import Enum

T = 10**8
M = 10**6
MAX = 2**63 - 1


class Reason(Enum):
    """Why a simulation has no row, in the order in which the reasons are looked for."""

    MALFORMED = "malformed"
    UNKNOWN_ASSET = "unknown asset"
    NO_CLOSE = "no close"
    OVERFLOW = "overflow"


class QuarantineError(Exception):
    """The simulation cannot be advanced. `asset_id` is 0 where no asset is to blame."""

    def __init__(self, reason: Reason, asset_id: int = 0) -> None:
        super().__init__(reason.value)
        self.reason = reason
        self.asset_id = asset_id


def rhe(numerator: int, denominator: int) -> int:
    """`numerator / denominator` rounded half to even; `numerator >= 0`, `denominator > 0`."""
    quotient, remainder = divmod(numerator, denominator)
    if 2 * remainder > denominator or (2 * remainder == denominator and quotient % 2 == 1):
        return quotient + 1
    return quotient


def fit(value: int) -> int:
    """The value, if its absolute value is at most 2**63 - 1; otherwise the simulation is quarantined."""
    if abs(value) > MAX:
        raise QuarantineError(Reason.OVERFLOW)
    return value


def saturate(value: int) -> int:
    """The value, or 2**63 - 1 where it is larger."""
    return min(value, MAX)


def notional(quantity: int, price: int) -> int:
    """Ticks of money for a quantity at a price. Not checked to fit."""
    return rhe(quantity * price, T)


def purchase_fee(amount: int, fee_buy_ppm: int) -> int:
    """The fee of a purchase with this notional."""
    return rhe(amount * fee_buy_ppm, M)


def sale_fee(amount: int, quantity: int, fee_sell_ppm: int, fee_sell_cap: int) -> int:
    """The fee of a sale of this quantity with this notional; a cap of 0 is none."""
    fee = rhe(amount * fee_sell_ppm, M)
    if fee_sell_cap > 0:
        return min(fee, saturate(rhe(fee_sell_cap * quantity, T)))
    return fee


def afford(budget: int, price: int, fee_buy_ppm: int) -> int:
    """The largest quantity whose notional and fee are at most `budget`; 0 if that notional is 0. Not checked to fit."""
    if budget <= 0:
        return 0

    def within(quantity: int) -> bool:
        amount = notional(quantity, price)
        return amount + purchase_fee(amount, fee_buy_ppm) <= budget

    high = 1
    while within(high):
        high *= 2
    low = 0
    while high - low > 1:
        middle = (low + high) // 2
        if within(middle):
            low = middle
        else:
            high = middle
    return low if notional(low, price) > 0 else 0
