"""Ticks: a money amount, price or quantity as an exact integer of 1e-8 in the database, a `Decimal` in Python.

Nothing is ever rounded on the way in or out: a value that is not a whole number of ticks, or does not fit, is refused.
Arithmetic on such columns in SQL is arithmetic on ticks; only sums and differences keep the scale.
"""

from __future__ import annotations

from decimal import Context, Decimal, Inexact
from typing import Any

from sqlalchemy import BigInteger, Dialect
from sqlalchemy.types import TypeDecorator

DECIMALS = 8
TICKS_PER_UNIT = 10**DECIMALS
MAX_TICKS = 2**63 - 1
# Its own context: the caller's precision must not decide what money is. Inexact traps instead of rounding.
_EXACT = Context(prec=64, traps=[Inexact])


def to_ticks(value: Decimal | int) -> int:
    """The exact number of ticks in `value` (in units).

    Raises:
        ValueError: NaN, infinite, more than 8 decimals, beyond the range of int64, or a binary float.
    """
    if isinstance(value, bool) or not isinstance(value, Decimal | int):
        raise ValueError(f"{value!r} is not a Decimal: an amount never passes through a binary float")  # noqa: TRY004
    amount = Decimal(value)
    if not amount.is_finite():
        raise ValueError(f"{value} is not an amount: it must be finite")
    # Compared before scaling: a huge exponent would otherwise be expanded digit by digit.
    if amount and amount.adjusted() > len(str(MAX_TICKS)) - DECIMALS:
        raise ValueError(f"{value} is out of range: at most 92233720368.54775807")
    if amount and amount.adjusted() < -DECIMALS:
        raise ValueError(f"{value} has more than {DECIMALS} decimals")
    try:
        scaled = amount.scaleb(DECIMALS, _EXACT)
    except Inexact:
        raise ValueError(f"{value} has more than {DECIMALS} decimals") from None
    ticks = int(scaled)
    if ticks != scaled:
        raise ValueError(f"{value} has more than {DECIMALS} decimals")
    if abs(ticks) > MAX_TICKS:
        raise ValueError(f"{value} is out of range: at most 92233720368.54775807")
    return ticks


def from_ticks(ticks: int | Decimal) -> Decimal:
    """The amount (in units, always with 8 decimals) of an exact number of ticks."""
    return Decimal(ticks).scaleb(-DECIMALS, _EXACT)


class Ticks(TypeDecorator[Decimal]):
    """BIGINT of ticks in PostgreSQL, `Decimal` of units in Python."""

    impl = BigInteger
    cache_ok = True

    @property
    def python_type(self) -> type[Any]:
        """What a person handles."""
        return Decimal

    def process_bind_param(self, value: Decimal | int | None, dialect: Dialect) -> int | None:  # noqa: ARG002
        """Units to ticks; ValueError as `to_ticks`."""
        return None if value is None else to_ticks(value)

    def process_result_value(self, value: Any, dialect: Dialect) -> Decimal | None:  # noqa: ARG002
        """Ticks to units."""
        # The sum of a BIGINT column arrives as a NUMERIC of ticks: a Decimal, not an int.
        return None if value is None else from_ticks(value)
