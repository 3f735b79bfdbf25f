"""The calendar: what became of each night of a year, read from index to index, without a look at a batch."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta
from enum import StrEnum

from sqlalchemy import text
from sqlalchemy.orm import Session

WEEKS = 53
_ONE_DAY = timedelta(days=1)


class NightState(StrEnum):
    """What became of a night; each has a letter of its own, so that nobody needs the colours."""

    DONE = "done"
    QUARANTINED = "quarantined"
    """It is done, and left simulations in quarantine."""
    RUNNING = "running"
    PLANNED = "planned"
    FAILED = "failed"
    CANCELLED = "cancelled"
    MISSED = "missed"
    NONE = "none"
    """No run has had this day."""

    @property
    def letter(self) -> str:
        """One character."""
        return _LETTERS[self]


_LETTERS = {
    NightState.DONE: "D",
    NightState.QUARANTINED: "Q",
    NightState.RUNNING: "R",
    NightState.PLANNED: "P",
    NightState.FAILED: "F",
    NightState.CANCELLED: "C",
    NightState.MISSED: "M",
    NightState.NONE: "·",
}


@dataclass(frozen=True, slots=True)
class CalendarNight:
    """A day, and the run that had it, if one had."""

    day: date
    state: NightState
    run_id: int | None
    quarantined: int


@dataclass(frozen=True, slots=True)
class Calendar:
    """Weeks from Monday to Sunday, the oldest first; None: before the first or after the last day.

    Attributes:
        newest: the newest day that any night has; None before the first night.
        older: whether there are nights before these weeks.
    """

    first: date
    last: date
    weeks: list[list[CalendarNight | None]]
    newest: date | None
    older: bool

    @property
    def counts(self) -> dict[NightState, int]:
        """How many nights of these weeks are in each state; those without a run are not counted."""
        states = [night.state for week in self.weeks for night in week if night is not None]
        return {state: states.count(state) for state in NightState if state is not NightState.NONE}


def calendar_of_nights(session: Session, *, until: date | None, today: date) -> Calendar:
    """The year through `until`; None: through the newest night, or of a young system through today."""
    ends = session.execute(_ENDS).one()
    last = until or ends.newest or today
    first = last - timedelta(days=last.weekday(), weeks=WEEKS - 1)
    nights = {
        night.day: night
        for row in session.execute(_NIGHTS, {"first": first, "last": last})
        for night in _days_of(row.id, row.first_day, row.day, row.status, row.quarantined or 0)
    }
    weeks = [[_at(nights, first + timedelta(days=7 * week + day), last) for day in range(7)] for week in range(WEEKS)]
    return Calendar(first, last, weeks, ends.newest, older=ends.oldest is not None and ends.oldest < first)


def _at(nights: dict[date, CalendarNight], day: date, last: date) -> CalendarNight | None:
    return None if day > last else nights.get(day, CalendarNight(day, NightState.NONE, None, 0))


def _days_of(run_id: int, first_day: date, last_day: date, status: str, quarantined: int) -> list[CalendarNight]:
    state = NightState.QUARANTINED if status == "done" and quarantined else NightState(status)
    days = range((last_day - first_day).days + 1)
    return [CalendarNight(first_day + back * _ONE_DAY, state, run_id, quarantined) for back in days]


_ENDS = text(
    """
    SELECT (SELECT day FROM runs WHERE kind = 'nightly' ORDER BY day DESC LIMIT 1) AS newest,
        (SELECT day FROM runs WHERE kind = 'nightly' ORDER BY day LIMIT 1) AS oldest
    """
)
# A run that does several nights is found by its last one, which may lie behind these weeks.
_NIGHTS = text(
    """
    SELECT id, first_day, day, status, quarantined FROM runs
    WHERE kind = 'nightly' AND day >= :first AND first_day <= :last ORDER BY day
    """
)
