"""The state of every schedule: when it last ran, how that ended, and when it runs next."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any

from sqlalchemy import text
from sqlalchemy.orm import Session

from core.settings import Settings
from schedules.beat import schedules
from schedules.calendar import next_due
from services.price_wait import waiting_night

_RECORDS = text("SELECT name, last_run_at, last_result, last_error, runs FROM beat_ticks")
_NIGHTS = text(
    """
    SELECT id, day, status, created_at, finished_at, error,
        (SELECT min(created_at) FROM runs WHERE kind = 'nightly') AS began_at,
        (SELECT min(start_day) FROM simulations) AS first_start
    FROM runs WHERE kind = 'nightly' ORDER BY day DESC LIMIT 1
    """
)


@dataclass(frozen=True, slots=True)
class ScheduleView:
    """One schedule. `next_run` is None if nothing tells yet, and the latest moment of a night that waits for closes.

    `result` is None if it never ran and waits for nothing.
    """

    name: str
    every: str
    last_run: datetime | None
    result: str | None
    error: str | None
    next_run: datetime | None

    def as_json(self) -> dict[str, Any]:
        """Moments as ISO 8601."""
        return {
            "name": self.name,
            "every": self.every,
            "last_run": self.last_run.isoformat() if self.last_run else None,
            "result": self.result,
            "error": self.error,
            "next_run": self.next_run.isoformat() if self.next_run else None,
        }


def scheduler_status(session: Session, *, now: datetime, settings: Settings) -> list[ScheduleView]:
    """The nightly schedule first, then beat's table."""
    records = {row.name: row for row in session.execute(_RECORDS)}
    views = [_nightly(session, now, settings)]
    for schedule in schedules(settings):
        row = records.get(schedule.name)
        views.append(
            ScheduleView(
                schedule.name,
                f"{schedule.every.total_seconds():g} s",
                row.last_run_at if row else None,
                row.last_result if row else None,
                row.last_error if row else None,
                # One that is late runs at any moment.
                max(row.last_run_at + schedule.every, now) if row else None,
            )
        )
    return views


def _nightly(session: Session, now: datetime, settings: Settings) -> ScheduleView:
    row = session.execute(_NIGHTS).one_or_none()
    every = settings.dev_night_every
    moment = next_due(now, settings.nightly_at)[1] if every is None else None
    result = f"run {row.id} of {row.day}: {row.status}" if row is not None else None
    waiting = waiting_night(session, now=now, settings=settings)
    if waiting is not None:
        # It begins with the next tick after its closes or its deadline, whichever comes first.
        moment = max(waiting.deadline, now)
        result = "; ".join(part for part in (result, waiting.summary()) if part)
    if row is None:
        return ScheduleView("nightly", _pace(settings), None, result, None, moment)
    if every is not None and row.first_start is not None:
        moment = _next_dev_night(row.first_start, row.day, row.began_at, every)
    return ScheduleView("nightly", _pace(settings), row.finished_at or row.created_at, result, row.error, moment)


def next_night(session: Session, *, now: datetime, settings: Settings) -> tuple[date, datetime]:
    """The first night that is not due yet, and when it will be. Where days pass faster, the one after the newest."""
    every = settings.dev_night_every
    row = session.execute(_NIGHTS).one_or_none() if every is not None else None
    if every is None or row is None or row.first_start is None:
        return next_due(now, settings.nightly_at)
    return row.day + timedelta(days=1), _next_dev_night(row.first_start, row.day, row.began_at, every)


def _next_dev_night(first_start: date, newest: date, began_at: datetime, every: timedelta) -> datetime:
    """When the day after `newest` becomes due, where `first_start` was due at `began_at` and each day `every` later."""
    return began_at + ((newest - first_start).days + 1) * every


def _pace(settings: Settings) -> str:
    if settings.dev_night_every is not None:
        return f"{settings.dev_night_every.total_seconds():g} s (development)"
    return f"day at {settings.nightly_at:%H:%M} UTC"
