"""Many nights planned at once, as after years: their partitions first, and only then the nights.

Guarantees: the planning lock is held for moments only. Partitions are made without it, each in a transaction of its
own; then fifty days at a time are planned in one. Killed anywhere, this leaves empty partitions and whole runs, those
of the oldest days: the same call goes on from there.

No run has more than fifty days: a batch is one transaction, which has a minute and locks what it writes to.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, datetime
from functools import partial

from sqlalchemy import Engine
from sqlalchemy.exc import OperationalError

from core.database import session_scope
from core.errors import NightshiftError
from core.settings import Settings
from services.partitions import ensure_days, lock_was_held
from services.planning import missing_nights, plan_nights

DAYS_AT_ONCE = 50

Told = Callable[[str, int, int], None]
"""Called with `partitions` or `nights`, how many of them there are, and of how many."""


def catch_up(
    engine: Engine,
    *,
    through: date,
    now: datetime,
    settings: Settings,
    requested_by: str,
    each: bool = False,
    told: Told = lambda _what, _done, _total: None,
) -> list[int]:
    """Plan all missing nights through a day: a run for every fifty of them, or with `each` for each; the new runs' ids.

    Empty if that day is planned already.

    Raises:
        UsageError: as `services.planning.plan_nights`.
        NightshiftError: others have held the locks of a table for a minute. The partitions that were made stay.
    """
    with session_scope(engine) as session:
        missing = missing_nights(session, through=through, now=now)
    try:
        ensure_days(engine, missing, told=partial(told, "partitions"))
    except OperationalError as error:
        if not lock_was_held(error):
            raise
        raise NightshiftError(
            "partitions were not made: for a minute somebody has held the locks of portfolio_days or trades"
            " (pg_locks says who); once they are free, the same command goes on"
        ) from None
    planned: list[int] = []
    for start in range(0, len(missing), DAYS_AT_ONCE):
        told("nights", start, len(missing))
        last = missing[start : start + DAYS_AT_ONCE][-1]
        with session_scope(engine) as session:
            planned += plan_nights(
                session, through=last, now=now, settings=settings, requested_by=requested_by, each=each
            )
    return planned
