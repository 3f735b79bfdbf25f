"""The calendar: a day becomes due once, at one moment, whatever the hour, the zone or the pace."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schedules.calendar import dev_due_day, due_at, last_due_day, next_due

AT = time(0, 1)
SECOND = timedelta(seconds=1)
moments = st.builds(
    lambda seconds, zone: datetime.fromtimestamp(seconds, UTC).astimezone(zone),
    st.integers(0, 4_000_000_000),
    st.timezones(),
)
times = st.times()


@given(now=moments, nightly_at=times)
def test_the_due_moment_lies_between_the_last_due_day_and_the_next(now: datetime, nightly_at: time) -> None:
    last = last_due_day(now, nightly_at)
    following, moment = next_due(now, nightly_at)
    assert due_at(last, nightly_at) <= now < moment
    assert following == last + timedelta(days=1)
    assert moment == due_at(following, nightly_at)
    assert moment - due_at(last, nightly_at) == timedelta(days=1)


def test_the_night_of_a_day_is_due_the_morning_after() -> None:
    due = datetime(2024, 3, 1, 0, 1, tzinfo=UTC)
    assert due_at(date(2024, 2, 29), AT) == due
    assert last_due_day(due, AT) == date(2024, 2, 29)
    assert last_due_day(due - SECOND, AT) == date(2024, 2, 28)
    assert next_due(due - SECOND, AT) == (date(2024, 2, 29), due)
    # The same moment read on a clock in Tokyo is the same moment.
    assert last_due_day(due.astimezone(timezone(timedelta(hours=9))), AT) == date(2024, 2, 29)


def test_in_development_the_next_day_becomes_due_every_so_often() -> None:
    start, every, first = datetime(2026, 1, 1, 12, tzinfo=UTC), timedelta(minutes=5), date(2024, 1, 2)
    assert dev_due_day(first, start, start - SECOND, every) == date(2024, 1, 1)
    assert dev_due_day(first, start, start - timedelta(days=9), every) == date(2024, 1, 1)
    assert dev_due_day(first, start, start, every) == first
    assert dev_due_day(first, start, start + every - SECOND, every) == first
    assert dev_due_day(first, start, start + 3 * every, every) == date(2024, 1, 5)


def test_what_cannot_be_meant_is_refused() -> None:
    naive = datetime(2024, 1, 1)  # noqa: DTZ001 - the point of the test
    aware = datetime(2024, 1, 1, tzinfo=UTC)
    with pytest.raises(ValueError, match="timezone"):
        last_due_day(naive, AT)
    with pytest.raises(ValueError, match="timezone"):
        dev_due_day(date(2024, 1, 1), aware, naive, timedelta(hours=1))
    with pytest.raises(ValueError, match="positive"):
        dev_due_day(date(2024, 1, 1), aware, aware, timedelta(0))
