"""What every source yields: closes in exact ticks, and rows that were refused, with the reason."""

from __future__ import annotations

import re
from datetime import date
from decimal import ROUND_HALF_EVEN, Context, Decimal
from typing import NamedTuple

DECIMALS = 8
MAX_TICKS = 2**63 - 1
# Far beyond any price and its digits; keeps a hostile number from costing more than its row.
_LONGEST_NUMBER = 400
_TICK = Decimal(1).scaleb(-DECIMALS)
_HALF_EVEN = Context(prec=64, rounding=ROUND_HALF_EVEN)
_number = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,3})?").fullmatch
_not_a_number = re.compile(r"[+-]?(?:nan|inf|infinity)", re.IGNORECASE).fullmatch


class NotPositiveError(ValueError):
    """A number, but no price: zero, negative, or so small that it rounds to zero."""


class CloseRow(NamedTuple):
    """An asset's close of a day. Prices in ticks of 1e-8; volume in units, whatever its precision; None: not given."""

    line: int
    symbol: str
    day: date
    close: int
    open: int | None
    high: int | None
    low: int | None
    volume: Decimal | None


class BadRow(NamedTuple):
    """A row that was refused: its line in the file, from 1, and why, in words of one line."""

    line: int
    reason: str


def shown(text: str) -> str:
    """`text` quoted for a message: on one line, short, and without control characters."""
    return ascii(text if len(text) <= 40 else text[:37] + "...")


def decimal_from_text(text: str) -> Decimal:
    """The exact number that `text` writes in ASCII digits.

    Raises:
        ValueError: the reason, to be put after the name of the column.
    """
    if len(text) > _LONGEST_NUMBER or not _number(text):
        reason = "is not finite" if _not_a_number(text) else "is not a number"
        raise ValueError(f"{reason}: {shown(text)}")
    return Decimal(text)


def price_from_text(text: str) -> int:
    """The price in ticks, exactly; more than 8 decimals are rounded half to even. Never through a binary float.

    Raises:
        NotPositiveError: zero, negative, or so small that it rounds to zero; the reason, as below.
        ValueError: the reason, to be put after the name of the column: no finite number, or too large for int64.
    """
    price = decimal_from_text(text)
    if price <= 0:
        raise NotPositiveError(f"is {'negative' if price < 0 else 'zero'}: {shown(text)}")
    # Compared by magnitude first: quantize would raise beyond its context's precision.
    if price.adjusted() <= len(str(MAX_TICKS)) - DECIMALS:
        ticks = int(price.quantize(_TICK, context=_HALF_EVEN).scaleb(DECIMALS, _HALF_EVEN))
        if ticks == 0:
            raise NotPositiveError(f"rounds to zero at {DECIMALS} decimals: {shown(text)}")
        if ticks <= MAX_TICKS:
            return ticks
    raise ValueError(f"is out of range, at most 92233720368.54775807: {shown(text)}")


def volume_from_text(text: str) -> Decimal:
    """The volume, exactly as written.

    Raises:
        ValueError: the reason, to be put after the name of the column: no finite number, negative, or 1e30 and more.
    """
    volume = decimal_from_text(text)
    if volume < 0:
        raise ValueError(f"is negative: {shown(text)}")
    if volume and volume.adjusted() >= 30:
        raise ValueError(f"is out of range: {shown(text)}")
    return volume
