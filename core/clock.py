"""The clock: read at the edge, passed on as `now`.

Days are UTC dates. Arrays and binary COPY hold a day as an int32 of days since 2000-01-01, which is PostgreSQL's own
`date` representation, so that no conversion stands between the engine and the wire.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

from core.settings import get_settings

EPOCH = date(2000, 1, 1)


def utc_now() -> datetime:
    """The present moment plus `NIGHTSHIFT_CLOCK_OFFSET`, timezone-aware, UTC."""
    return datetime.now(UTC) + get_settings().clock_offset


def day_number(day: date) -> int:
    """Days since 2000-01-01."""
    return (day - EPOCH).days


def day_from_number(number: int) -> date:
    """The inverse of `day_number`."""
    return EPOCH + timedelta(days=int(number))
