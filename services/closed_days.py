"""Days on which a market is closed: a close of such a day is used as any other, so somebody has to mean it.

A night trades in an asset on every day of which it has a close, whatever the calendar says; the calendar only says for
which closes it waits. So a file's closes of closed days are taken and told of, and a person who gives such a day has
to say that it is no slip. A calendar that this machine cannot read closes no day: nobody is kept from correcting a
price by a package that is not installed.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

from sqlalchemy import text
from sqlalchemy.orm import Session

from core.errors import UsageError
from schedules.markets import traded_on


@dataclass(frozen=True, slots=True)
class ClosedDays:
    """Closes of days on which their market is closed: how many, and the first of them."""

    closes: int
    symbol: str
    day: date
    calendar: str


def is_closed(calendar: str, day: date) -> bool:
    """Whether the market of this calendar is known to be closed on `day`."""
    try:
        return not traded_on(calendar, day)
    except UsageError:
        return False


def closed_in_file(session: Session) -> ClosedDays | None:
    """Those of `pg_temp.incoming_closes`, by the calendars of their assets; None if there are none."""
    found = [row for row in session.execute(_DAYS) if is_closed(row.calendar, row.day)]
    if not found:
        return None
    first = found[0]
    return ClosedDays(sum(row.closes for row in found), first.symbol, first.day, first.calendar)


_DAYS = text(
    """
    SELECT a.calendar, i.day, count(*) AS closes, min(i.symbol COLLATE "C") AS symbol
    FROM pg_temp.incoming_closes AS i JOIN assets AS a ON a.symbol = i.symbol
    WHERE a.calendar <> '24/7'
    GROUP BY i.day, a.calendar ORDER BY i.day, symbol
    """
)
