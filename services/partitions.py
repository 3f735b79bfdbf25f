"""Partitions ahead of time: the tables of the coming days exist before a night or a price needs them.

Planning makes whatever a run writes to, so nothing depends on this; it only takes the DDL out of the way of the work.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from sqlalchemy import Engine

from core.database import session_scope
from models.partitions import MONTHLY, ensure_day_partitions, ensure_month_partitions
from services.tick import record_run

DAYS_AHEAD = 7
MONTHS_AHEAD = 2


def ensure_ahead(engine: Engine, *, now: datetime) -> list[str]:
    """Make the missing partitions from today on, 7 days and 2 months ahead; the names of those made."""
    today = now.date()
    days = [today + timedelta(days=offset) for offset in range(DAYS_AHEAD + 1)]
    months = [today.replace(day=1)]
    for _ in range(MONTHS_AHEAD):
        months.append((months[-1] + timedelta(days=31)).replace(day=1))
    with session_scope(engine) as session:
        connection = session.connection()
        made = ensure_day_partitions(connection, days)
        for table in MONTHLY:
            made += ensure_month_partitions(connection, table, months)
    record_run(engine, "ensure_partitions", now=now, result=f"{len(made)} made")
    return made
