"""What the exporter shows of the night at hand, of the one that should have begun, and of the nights that were in time.

The night is the oldest that has not ended, else the newest. A night is in time if it is done by its deadline,
`night_deadline_minutes` after it fell due. Nights that fell due before the first one was planned were never promised.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any

from sqlalchemy import Row, text
from sqlalchemy.orm import Session

from core.settings import Settings
from models.tables_runs import RUN_UNFINISHED
from schedules.calendar import dev_due_day, due_at, last_due_day
from services.metrics_runs import run_seconds

WINDOWS = {"1d": timedelta(days=1), "7d": timedelta(days=7), "30d": timedelta(days=30)}
_ONE_DAY = timedelta(days=1)
# In development a day may pass every few seconds.
_MOST_NIGHTS = 1_000

_NIGHT = text(
    """
    SELECT r.day, r.status, r.users, r.started_at, r.finished_at,
        coalesce(sum(b.users) FILTER (WHERE b.status = 'done'), 0) AS done,
        coalesce(sum(b.users) FILTER (WHERE b.status = 'failed'), 0) AS failed
    FROM (
        SELECT * FROM runs WHERE kind = 'nightly' AND status <> 'missed'
        ORDER BY status IN ('planned', 'running') DESC,
            CASE WHEN status IN ('planned', 'running') THEN day END, day DESC
        LIMIT 1
    ) r LEFT JOIN batches b ON b.run_id = r.id
    GROUP BY r.day, r.status, r.users, r.started_at, r.finished_at
    """
)
_NIGHTS = text(
    """
    SELECT min(first_day) AS first_day, max(day) AS last_day, min(created_at) AS began_at,
        min(day) FILTER (WHERE status = 'planned') AS planned,
        max(created_at) FILTER (WHERE status = 'missed') AS missed_at
    FROM runs WHERE kind = 'nightly'
    """
)
_DONE = text(
    "SELECT first_day, day, finished_at FROM runs WHERE kind = 'nightly' AND status = 'done' AND day >= :since"
)
_WAITING = text(
    "SELECT EXISTS (SELECT 1 FROM night_waits"
    " WHERE day > coalesce((SELECT max(day) FROM runs WHERE kind = 'nightly'), '-infinity'))"
)


@dataclass(frozen=True, slots=True)
class Night:
    """The night at hand.

    Attributes:
        running: it is planned or runs.
        seconds: since it started, until it ended; None before.
        users_per_second: done in that time.
        estimated_end: at that speed; None unless it runs and something is done.
        failed: users whose batch failed.
    """

    due: datetime
    deadline: datetime
    running: bool
    started: datetime | None
    finished: datetime | None
    users: int
    done: int
    failed: int
    seconds: float | None
    users_per_second: float | None
    estimated_end: datetime | None


@dataclass(frozen=True, slots=True)
class NightMetrics:
    """`night`: None if there was none; then nothing is due either, and `start_delay` is None.

    Attributes:
        start_delay: seconds since the oldest night that is due and has not started fell due.
        waiting: a night that is due waits for its closes.
        missed_at: when a night was last marked as missed.
        due, in_time: nights whose deadline passed within a window, and those of them that were done by then.
    """

    night: Night | None
    start_delay: float | None
    waiting: bool
    missed_at: datetime | None
    due: dict[str, int]
    in_time: dict[str, int]


def night_metrics(session: Session, *, now: datetime, settings: Settings) -> NightMetrics:
    """Read them."""
    nights = session.execute(_NIGHTS).one()
    waiting = session.execute(_WAITING).scalar_one()
    if nights.last_day is None:
        return NightMetrics(None, None, waiting, None, {}, {})
    calendar = _calendar(nights, now, settings)
    row = session.execute(_NIGHT).one_or_none()
    due, in_time = _in_time(session, nights, calendar, now, settings)
    return NightMetrics(
        night=None if row is None else _night(row, calendar.due_at(row.day), now, settings),
        start_delay=_start_delay(nights, calendar, now),
        waiting=waiting,
        missed_at=nights.missed_at,
        due=due,
        in_time=in_time,
    )


@dataclass(frozen=True, slots=True)
class _Calendar:
    """The newest day that is due, and when any day falls due."""

    last_due: date
    due_at: Callable[[date], datetime]


def _calendar(nights: Row[Any], now: datetime, settings: Settings) -> _Calendar:
    every = settings.dev_night_every
    if every is None:
        return _Calendar(last_due_day(now, settings.nightly_at), lambda day: due_at(day, settings.nightly_at))
    first, began = nights.first_day, nights.began_at
    return _Calendar(dev_due_day(first, began, now, every), lambda day: began + (day - first).days * every)


def _night(row: Row[Any], due: datetime, now: datetime, settings: Settings) -> Night:
    running = row.status in RUN_UNFINISHED
    done = int(row.done)
    seconds = run_seconds(row.started_at, row.finished_at, now)
    speed = done / seconds if seconds else None
    left = timedelta(seconds=(row.users - done) / speed) if speed and running else None
    return Night(
        due=due,
        deadline=due + timedelta(minutes=settings.night_deadline_minutes),
        running=running,
        started=row.started_at,
        finished=row.finished_at,
        users=row.users,
        done=done,
        failed=int(row.failed),
        seconds=seconds,
        users_per_second=speed,
        estimated_end=None if left is None else now + left,
    )


def _start_delay(nights: Row[Any], calendar: _Calendar, now: datetime) -> float:
    following = nights.last_day + _ONE_DAY
    waits = following if nights.planned is None else min(nights.planned, following)
    return max((now - calendar.due_at(waits)).total_seconds(), 0.0)


def _in_time(
    session: Session, nights: Row[Any], calendar: _Calendar, now: datetime, settings: Settings
) -> tuple[dict[str, int], dict[str, int]]:
    allowed = timedelta(minutes=settings.night_deadline_minutes)
    promised = list(_promised(nights, calendar, now - allowed - max(WINDOWS.values())))
    done = session.execute(_DONE, {"since": promised[-1][0]}).all() if promised else []
    ended = _ended(done, {day for day, _ in promised})
    due, in_time = dict.fromkeys(WINDOWS, 0), dict.fromkeys(WINDOWS, 0)
    for day, fell_due in promised:
        deadline = fell_due + allowed
        for window, length in WINDOWS.items():
            if now - length < deadline <= now:
                due[window] += 1
                in_time[window] += day in ended and ended[day] <= deadline
    return due, in_time


def _promised(nights: Row[Any], calendar: _Calendar, since: datetime) -> Iterator[tuple[date, datetime]]:
    """The days that fell due since then and since nights began, and when; the newest first."""
    day = calendar.last_due
    for _ in range(_MOST_NIGHTS):
        due = calendar.due_at(day)
        if due <= since or due < nights.began_at:
            return
        yield day, due
        day -= _ONE_DAY


def _ended(runs: Sequence[Row[Any]], days: set[date]) -> dict[date, datetime]:
    """When each of the days was done. A run may do several."""
    return {
        day: run.finished_at
        for run in runs
        for day in (run.day - _ONE_DAY * back for back in range((run.day - run.first_day).days + 1))
        if day in days
    }
