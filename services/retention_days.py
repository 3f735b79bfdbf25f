"""Which portfolio days are kept: every one from a day on, and before it the last day of each month.

Guarantees: a day that is not kept is neither read nor written by anybody, whether or not its partition is still there.
The newest row of a simulation is kept all the same: in `portfolio_archive` where its day is not. So whoever was left
out goes on from it, and work that is done again from a kept close comes out as if every day were there.

Whoever may write a day that far back holds `RETENTION_LOCK` in shared mode from when he asks until he commits; the day
moves under the exclusive one, and only when no run that is open needs a day before it (services.retention_horizon).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta

from sqlalchemy import text
from sqlalchemy.orm import Session

from core.clock import day_from_number
from core.errors import UsageError
from services.locks import Connection

# Any constant of our own.
RETENTION_LOCK = 0x4E53_5245_5445
_ONE_DAY = timedelta(days=1)
_NEVER = date(1, 1, 1)
_DAILY_FROM = "SELECT daily_from FROM retention"


@dataclass(frozen=True, slots=True)
class KeptDays:
    """Every day from `daily_from` on, and before it the last day of each month."""

    daily_from: date = _NEVER

    def __contains__(self, day: date | int) -> bool:
        """Whether a day, or the day of that number, is kept."""
        when = day_from_number(day) if isinstance(day, int) else day
        return when >= self.daily_from or (when + _ONE_DAY).day == 1

    def first_to_redo(self, day: date) -> date:
        """From which day on to begin, if `day` is to be done again: the close before it must be kept."""
        return day if day - _ONE_DAY in self else day.replace(day=1)


def kept_days(session: Session) -> KeptDays:
    """What is kept as the session sees it; it may be less a moment later."""
    return _of(session.execute(text(_DAILY_FROM)).scalar_one_or_none())


def hold_kept_days(connection: Connection) -> KeptDays:
    """What is kept until the transaction ends."""
    connection.execute("SELECT pg_advisory_xact_lock_shared(%s)", (RETENTION_LOCK,))
    row = connection.execute(_DAILY_FROM.encode()).fetchone()
    day = None if row is None else row[0]
    return _of(day if isinstance(day, date) else None)


def _of(daily_from: date | None) -> KeptDays:
    return KeptDays(daily_from or _NEVER)


def check_kept(session: Session, first_day: date, first_start: date) -> None:
    """Refuse to begin on a day before which no close is kept; whoever starts on that day needs none.

    Raises:
        UsageError: with the days on which work that is done again can begin.
    """
    if first_start >= first_day:
        return
    kept, oldest = kept_days(session), _oldest(session)
    if first_day - _ONE_DAY not in kept:
        every = kept.daily_from if kept.daily_from - _ONE_DAY in kept else kept.daily_from + _ONE_DAY
        raise UsageError(
            f"the close of {first_day - _ONE_DAY} is no longer kept: begin on {kept.first_to_redo(first_day)}, after"
            f" the close of the month before, or on any day from {every} on"
        )
    if oldest is not None and first_day <= oldest:
        first = oldest + _ONE_DAY
        raise UsageError(f"the days before {oldest} are no longer kept: --from {first} is the first that can be done")


def _oldest(session: Session) -> date | None:
    """The first day that still has rows, whoever took the others away; None without any."""
    for name, day in session.execute(_PARTITIONS):
        # The name is a day's, by the condition under which it was found.
        if session.execute(text(f"SELECT EXISTS (SELECT FROM {name})")).scalar_one():  # noqa: S608
            return date.fromisoformat(day)
    return None


def kept_sql(day: str) -> str:
    """The SQL condition that a day, an expression of type date, is kept."""
    return f"({day} >= {DAILY_FROM_SQL} OR extract(day FROM {day} + 1) = 1)"


DAILY_FROM_SQL = f"coalesce((SELECT daily_from FROM retention), DATE '{_NEVER.isoformat()}')"  # noqa: S608 (a constant)

REACH_BACK = text(
    f"""
    UPDATE run_simulations k SET first_day = greatest(s.start_day, date_trunc('month', k.first_day)::date)
    FROM simulations s
    WHERE k.run_id = :run AND s.user_id = k.user_id AND s.id = k.simulation_id
      AND s.start_day < k.first_day AND NOT {kept_sql("(k.first_day - 1)")}
      AND NOT EXISTS (
          SELECT FROM portfolio_archive a
          WHERE a.user_id = k.user_id AND a.simulation_id = k.simulation_id AND a.day = k.first_day - 1
      )
    """  # noqa: S608 (constants)
)
"""Has the simulations of a run begin where the close before is kept: the first day of the month, or their start."""

# Partitions have no index on their day: they are asked in turn until one has a row.
_PARTITIONS = text(
    """
    SELECT c.relname, right(c.relname, 8) AS day FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
    WHERE i.inhparent = 'portfolio_days'::regclass AND NOT i.inhdetachpending
      AND c.relname ~ '^portfolio_days_[0-9]+$' ORDER BY day
    """
)
