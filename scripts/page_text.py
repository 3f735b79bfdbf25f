"""Figures as the pages write them; what is not defined stays None, which a page shows as a dash."""

from __future__ import annotations

from datetime import date
from decimal import Decimal


def exact(value: Decimal | None) -> str | None:
    """All of an amount's decimals but zeros at the end: 1,250.5, 0.00000001."""
    if value is None:
        return None
    text = f"{value:,f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def money(value: Decimal | None) -> str | None:
    """Two decimals; all of them where two would say 0 and it is not."""
    if value is None:
        return None
    return exact(value) if value and abs(value) < Decimal("0.005") else f"{value:,.2f}"


def percent(value: float | None) -> str | None:
    """A share as percents, two decimals."""
    return None if value is None else f"{100 * value:,.2f} %"


def ratio(value: float | None) -> str | None:
    """Two decimals."""
    return None if value is None else f"{value:,.2f}"


def seconds(value: float | None) -> str | None:
    """A duration: 12 ms, 3.4 s, 2 min 05 s."""
    if value is None:
        return None
    if value >= 60:
        return f"{int(value // 60)} min {int(value % 60):02d} s"
    return f"{1000 * value:.0f} ms" if value < 1 else f"{value:.1f} s"


def days(first: date, last: date) -> str:
    """A day, or a range of them."""
    return f"{first}" if first == last else f"{first} to {last}"
