"""Markets: when they trade, to the day, as the exchanges really did."""

from __future__ import annotations

import csv
import gzip
import subprocess
import sys
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from core.errors import UsageError
from schedules import markets
from schedules.markets import check_calendar, traded_on

ROOT = Path(__file__).resolve().parents[2]
SAMPLES = ROOT / "samples" / "us_stocks_daily.csv.gz"
ONE_DAY = timedelta(days=1)


@pytest.fixture
def no_package(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As on a machine where exchange-calendars is not installed."""
    markets._exchanges.cache_clear()
    markets._sessions.cache_clear()
    monkeypatch.setitem(sys.modules, "exchange_calendars", None)
    yield
    markets._exchanges.cache_clear()


@given(day=st.dates())
def test_two_calendars_need_no_package(day: date) -> None:
    assert traded_on("24/7", day)
    assert traded_on("weekdays", day) == (day.isoweekday() <= 5)


def test_the_days_of_new_york_are_those_of_its_recorded_closes() -> None:
    with gzip.open(SAMPLES, "rt") as file:
        recorded = {date.fromisoformat(row["day"]) for row in csv.DictReader(file)}
    first, last = min(recorded), max(recorded)
    days = [first + ONE_DAY * number for number in range((last - first).days + 1)]
    assert len(recorded) == 756
    assert [day for day in days if traded_on("XNYS", day)] == sorted(recorded)


@pytest.mark.parametrize(
    ("calendar", "day", "traded"),
    [
        ("XNYS", "2025-11-27", False),  # Thanksgiving
        ("XNYS", "2025-11-28", True),  # a half day after it
        ("XNYS", "2025-01-09", False),  # a day of mourning, which no rule tells
        ("XNYS", "2001-09-12", False),
        ("XLON", "2025-12-26", False),
        ("XETR", "2025-12-26", False),
        ("XTKS", "2025-01-02", False),
        ("XSAU", "2025-01-05", True),  # a Sunday
        ("XSAU", "2025-01-03", False),  # a Friday
        ("NYSE", "2025-11-27", False),  # another name of XNYS
    ],
)
def test_holidays_are_those_of_the_exchange(calendar: str, day: str, traded: bool) -> None:
    assert traded_on(calendar, date.fromisoformat(day)) is traded


@pytest.mark.parametrize("year", [1, 1950, 2090, 2400, 9999])
def test_beyond_what_the_package_knows_of_an_exchange_weekdays_count(year: int) -> None:
    """The package knows Shanghai from 1990 to the year that is announced."""
    days = [date(year, 5, 1) + ONE_DAY * number for number in range(14)]
    assert [traded_on("XSHG", day) for day in days] == [traded_on("weekdays", day) for day in days]
    assert not traded_on("XSHG", date(2025, 5, 1))


@pytest.mark.parametrize("name", ["24/7", "weekdays", "XNYS", "XLON", "XTKS", "XHKG"])
def test_known_calendars_are_allowed(name: str) -> None:
    check_calendar(name)


@pytest.mark.parametrize("name", ["", "xnys", "XXXX", "24/5", "us_futures", "weekday", "XNYS ", "X\0YS"])
def test_an_unknown_calendar_is_refused_with_what_is_allowed(name: str) -> None:
    for ask in (lambda: check_calendar(name), lambda: traded_on(name, date(2025, 1, 1))):
        with pytest.raises(UsageError, match=r"unknown calendar .*24/7, weekdays or an exchange") as caught:
            ask()
        assert len(str(caught.value).splitlines()) == 1


@pytest.mark.usefixtures("no_package")
def test_without_the_package_an_exchange_is_refused_with_how_to_get_it() -> None:
    for ask in (lambda: check_calendar("XNYS"), lambda: traded_on("XNYS", date(2025, 1, 1))):
        with pytest.raises(UsageError, match=r"pip install 'nightshift\[exchanges\]'"):
            ask()
    check_calendar("weekdays")
    assert traded_on("24/7", date(2025, 1, 1))


def test_pandas_is_loaded_by_an_exchange_only_and_its_warnings_stay_inside() -> None:
    program = """
import sys, warnings
from datetime import date
warnings.simplefilter("error")
from schedules.markets import traded_on
assert traded_on("weekdays", date(2025, 1, 3)) and "pandas" not in sys.modules
assert traded_on("XNYS", date(2025, 1, 3)) and "pandas" in sys.modules
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
