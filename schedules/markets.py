"""Markets: on which days an asset's market trades, by the name of its calendar. Without a clock.

`24/7` trades every day, `weekdays` from Monday to Friday; anything else is an exchange by its MIC, e.g. `XNYS`, whose
holidays come from the optional package exchange-calendars. Days are UTC dates: of an exchange the date by which it
calls its session, wherever it is. A day of which the package knows nothing counts as traded if it is a weekday, so that
a price is looked for there rather than given up.
"""

from __future__ import annotations

import warnings
from datetime import date
from functools import lru_cache
from types import ModuleType

from core.errors import UsageError

ALWAYS = "24/7"
WEEKDAYS = "weekdays"

# Every exchange of the package knows it, so that one which cannot read it can read nothing.
_CHECKED_YEAR = 2025

# What the package and pandas below it raise beyond an exchange's bounds, or where the two do not fit each other.
_UNREADABLE = (ArithmeticError, AttributeError, LookupError, NotImplementedError, TypeError, ValueError)


def traded_on(calendar: str, day: date) -> bool:
    """Whether the market of this calendar trades on `day`.

    Raises:
        UsageError: there is no such calendar, or exchange-calendars is needed and not installed.
    """
    if calendar == ALWAYS:
        return True
    if calendar != WEEKDAYS:
        sessions = _sessions(_exchange(calendar), day.year)
        if sessions is not None:
            return day in sessions
    return day.weekday() < 5


def check_calendar(name: str) -> None:
    """Check the name of a calendar before it is written to an asset.

    Raises:
        UsageError: there is no such calendar, its holidays cannot be read, or exchange-calendars is not installed.
    """
    if name not in {ALWAYS, WEEKDAYS} and _sessions(_exchange(name), _CHECKED_YEAR) is None:
        raise UsageError(
            f"calendar {name!r}: the installed exchange-calendars cannot read it; weekdays is the next best"
        )


def _exchange(name: str) -> str:
    """The name, if it is an exchange's."""
    if name not in _exchanges():
        raise UsageError(
            f"unknown calendar {name!r}: use {ALWAYS}, {WEEKDAYS} or an exchange by its MIC code, e.g. XNYS or XLON"
        )
    return name


@lru_cache(maxsize=1)
def _exchanges() -> frozenset[str]:
    # Its names that are no codes mean what ours mean: 24/5 is weekdays.
    return frozenset(name for name in _package().get_calendar_names() if name.isalpha() and name.isupper())


# By the year, so that a day is answered the same whenever the process began: by default the package ends a year from
# now. Exchanges of which it knows few years are then read as far as it goes.
@lru_cache(maxsize=256)
def _sessions(exchange: str, year: int) -> frozenset[date] | None:
    """The days of the year on which an exchange trades; None if the package cannot tell."""
    package = _package()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            sessions = package.get_calendar(exchange, start=f"{year}-01-01", end=f"{year}-12-31").sessions
        except _UNREADABLE:
            return None
        return frozenset(session.date() for session in sessions)


def _package() -> ModuleType:
    """exchange-calendars. It brings pandas along, which takes half a second: imported when first needed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            import exchange_calendars  # noqa: PLC0415
        except ImportError:
            raise UsageError(
                "the calendars of exchanges come with an optional package: pip install 'nightshift[exchanges]'"
            ) from None
    return exchange_calendars  # type: ignore[no-any-return]
