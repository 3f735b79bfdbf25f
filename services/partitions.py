"""Partitions ahead of time: the tables of the coming days exist before a night or a price needs them.

Guarantees: no reader and no writer waits. Each partition is a transaction of its own, and its locks are waited for
half a second at most and then again later: whoever makes partitions at the same moment, planning above all, waits for
one of ours and not for all. Planning makes whatever a run writes to, so nothing depends on this; it only takes the DDL
out of the way of the work.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
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
    missing_partitions,
    month_partition,
)
from services.tick import record_run

log = get_logger(__name__)
_T = TypeVar("_T")

DAYS_AHEAD = 7
MONTHS_AHEAD = 2
LOCK_TIMEOUT = "SET LOCAL lock_timeout = '500ms'"
_LOCK_NOT_AVAILABLE = "55P03"
_ATTEMPTS = 3
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


def _in_transaction(engine: Engine, make: Callable[[Connection], list[str]]) -> list[str]:
    with engine.begin() as connection:
        connection.execute(text(LOCK_TIMEOUT))
        return make(connection)


def patiently(once: Callable[[], _T]) -> _T:
    """`once`, again a moment later where a lock that it wanted was held too long; what it raises in the end."""
    retrying = Retrying(
        retry=retry_if_exception(lock_was_held),
        stop=stop_after_attempt(_ATTEMPTS),
        wait=wait_fixed(_PAUSE_SECONDS),
        reraise=True,
    )
    return retrying(once)


def lock_was_held(error: BaseException) -> bool:
    """Whether a statement gave up because others held a lock for longer than it was to wait."""
    return isinstance(error, OperationalError) and getattr(error.orig, "sqlstate", None) == _LOCK_NOT_AVAILABLE
