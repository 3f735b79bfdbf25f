"""Partitions ahead of time: the tables of the coming days exist before a night or a price needs them.

Guarantees: no reader and no writer waits. Each partition is a transaction of its own, and its locks are waited for
half a second at most and then again later: whoever makes partitions at the same moment, planning above all, waits for
one of ours and not for all. Planning makes whatever a run writes to, so nothing depends on this; it only takes the DDL
out of the way of the work. What has been made when this is killed is there, and empty.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import date, datetime, timedelta
from functools import partial
from typing import TypeVar

from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import OperationalError
from tenacity import Retrying, retry_if_exception, stop_after_attempt, wait_fixed

from core.log import get_logger
from models.partitions import (
    MONTHLY,
    Partition,
    day_partition,
    ensure_day_partitions,
    ensure_month_partitions,
    ensure_partitions,
    missing_partitions,
    month_partition,
)
from services.tick import record_run

log = get_logger(__name__)
_T = TypeVar("_T")

DAYS_AHEAD = 7
MONTHS_AHEAD = 2
LOCK_TIMEOUT = "SET LOCAL lock_timeout = '500ms'"
# Nothing is lost with a partition that nobody has written to, and whoever does that commits after it.
_HURRY = "SET LOCAL synchronous_commit = off"
_LOCK_NOT_AVAILABLE = "55P03"
_ATTEMPTS = 3
# Each of half a second and a pause: for about a minute.
_PATIENT_ATTEMPTS = 60
_PAUSE_SECONDS = 0.5


def missing_ahead(connection: Connection, now: datetime) -> list[Partition]:
    """Those from today on, 7 days and 2 months ahead, that there are not."""
    days, months = _ahead(now.date())
    wanted = [day_partition(day) for day in days]
    wanted += [month_partition(table, month) for table in MONTHLY for month in months]
    return missing_partitions(connection, wanted)


def ensure_ahead(engine: Engine, *, now: datetime) -> list[str]:
    """Make the missing partitions from today on, 7 days and 2 months ahead; the names of those made.

    Those of a table whose locks others hold are left to the next time.
    """
    days, months = _ahead(now.date())
    makers = [[partial(ensure_day_partitions, days=[day]) for day in days]]
    makers += [[partial(ensure_month_partitions, table=table, months=[month]) for month in months] for table in MONTHLY]
    made = [name for of_table in makers for name in _made(engine, of_table)]
    record_run(engine, "ensure_partitions", now=now, result=f"{len(made)} made")
    return made


def ensure_days(
    engine: Engine, days: Sequence[date], *, told: Callable[[int, int], None] = lambda _made, _missing: None
) -> list[str]:
    """Make the missing partitions that nights of `days` write to; the names of those made.

    Of thousands of days that takes minutes: to attach one takes PostgreSQL the longer, the more there are.

    Args:
        told: called with how many have been made and how many were missing, before the first and after each of them.

    Raises:
        NightshiftError: a table of such a name exists and is no partition.
        OperationalError: others have held the locks of a table for a minute (`lock_was_held`). What was made stays.
    """
    months = sorted({day.replace(day=1) for day in days})
    wanted = [day_partition(day) for day in sorted(set(days))]
    wanted += [month_partition("trades", month) for month in months]
    with engine.connect() as connection:
        missing = missing_partitions(connection, wanted)
    made: list[str] = []
    for partition in missing:
        told(len(made), len(missing))
        make = partial(ensure_partitions, wanted=[partition])
        made += patiently(partial(_in_transaction, engine, make, _HURRY), attempts=_PATIENT_ATTEMPTS)
    told(len(missing), len(missing))
    return made


def _ahead(today: date) -> tuple[list[date], list[date]]:
    days = [today + timedelta(days=offset) for offset in range(DAYS_AHEAD + 1)]
    months = [today.replace(day=1)]
    for _ in range(MONTHS_AHEAD):
        months.append((months[-1] + timedelta(days=31)).replace(day=1))
    return days, months


def _made(engine: Engine, makers: Iterable[Callable[[Connection], list[str]]]) -> list[str]:
    """Those that were made of a table's; none after one whose locks were held."""
    made: list[str] = []
    for make in makers:
        try:
            made += patiently(partial(_in_transaction, engine, make))
        except OperationalError as error:
            if not lock_was_held(error):
                raise
            log.warning("partitions were not made: somebody holds the locks of their table; the next time does it")
            break
    return made


def _in_transaction(engine: Engine, make: Callable[[Connection], list[str]], *chosen: str) -> list[str]:
    with engine.begin() as connection:
        for setting in (LOCK_TIMEOUT, *chosen):
            connection.execute(text(setting))
        return make(connection)


def patiently(once: Callable[[], _T], *, attempts: int = _ATTEMPTS) -> _T:
    """`once`, again a moment later where a lock that it wanted was held too long; what it raises in the end."""
    retrying = Retrying(
        retry=retry_if_exception(lock_was_held),
        stop=stop_after_attempt(attempts),
        wait=wait_fixed(_PAUSE_SECONDS),
        reraise=True,
    )
    return retrying(once)


def lock_was_held(error: BaseException) -> bool:
    """Whether a statement gave up because others held a lock for longer than it was to wait."""
    return isinstance(error, OperationalError) and getattr(error.orig, "sqlstate", None) == _LOCK_NOT_AVAILABLE
