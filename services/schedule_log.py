"""When each schedule last ran, and how that ended: one row a schedule, overwritten; what operators see comes from here."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import text
from sqlalchemy.orm import Session

_RECORD = text(
    """
    INSERT INTO beat_ticks (name, last_run_at, last_result, last_error, runs)
    VALUES (:name, :now, :result, :error, 1)
    ON CONFLICT (name) DO UPDATE SET last_run_at = greatest(beat_ticks.last_run_at, excluded.last_run_at),
        last_result = excluded.last_result, last_error = excluded.last_error, runs = beat_ticks.runs + 1
    """
)


def record(session: Session, name: str, *, now: datetime, result: str | None = None, error: str | None = None) -> None:
    """Record one run of the schedule `name` (of schedules/beat.py)."""
    session.execute(_RECORD, {"name": name, "now": now, "result": result, "error": error})
