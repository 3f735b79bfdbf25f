"""What is due at a moment: pure arithmetic on days, without a clock and without a database.

The night of day D becomes due at D+1, `nightly_at` (UTC), because it works with the closes of D. A moment that
is exactly the due moment counts as due. In development the next day becomes due every so often instead.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta

_DAY = timedelta(days=1)


def due_at(day: date, nightly_at: time) -> datetime:
    """The moment (UTC) at which the night of `day` becomes due."""
    return datetime.combine(day + _DAY, nightly_at.replace(tzinfo=None), UTC)


def last_due_day(now: datetime, nightly_at: time) -> date:
    """The newest day whose night is due at `now`.

    Raises:
        ValueError: `now` carries no timezone.
    """
    yesterday = _utc(now).date() - _DAY
    return yesterday if due_at(yesterday, nightly_at) <= now else yesterday - _DAY


def next_due(now: datetime, nightly_at: time) -> tuple[date, datetime]:
    """The first day whose night is not due yet at `now`, and the moment at which it will be.

    Raises:
        ValueError: `now` carries no timezone.
    """
    day = last_due_day(now, nightly_at) + _DAY
    return day, due_at(day, nightly_at)


def dev_due_day(first_day: date, started_at: datetime, now: datetime, every: timedelta) -> date:
    """The newest due day where `first_day` is due at `started_at`, and the day after each `every` later.

    Before `started_at` that is the day before `first_day`, however long before.

    Raises:
        ValueError: `every` is not positive, or a moment carries no timezone.
    """
    if every <= timedelta(0):
        raise ValueError("every must be positive")
    elapsed = _utc(now) - _utc(started_at)
    return first_day + timedelta(days=max(elapsed // every, -1))


def _utc(moment: datetime) -> datetime:
    if moment.tzinfo is None:
        raise ValueError("the moment must carry a timezone")
    return moment.astimezone(UTC)
