"""The beat table, on one screen: what is sent, how often.

Beat is a heartbeat only; what is due, the database knows. So nothing here names a time of day: a tick that is late,
lost or sent twice changes nothing but time. A message expires before the next one is sent, so that an outage of the
workers leaves one tick behind and not a thousand.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

from core.queues import Queue
from core.settings import Settings

TICK = "control.tick"
ENSURE_PARTITIONS = "maintenance.ensure_partitions"
MAINTAIN = "maintenance.maintain"
BACK_UP = "maintenance.back_up"
DELIVER = "notifications.deliver"


@dataclass(frozen=True, slots=True)
class Schedule:
    """One line of the table: a task, its queue, and how often it is sent."""

    name: str
    task: str
    queue: Queue
    every: timedelta


def schedules(settings: Settings) -> tuple[Schedule, ...]:
    """The table. A schedule's name is also its key in `beat_ticks`, where each run of it is recorded."""
    table: tuple[Schedule, ...] = (
        Schedule("tick", TICK, Queue.CONTROL, timedelta(seconds=settings.tick_seconds)),
        Schedule("ensure_partitions", ENSURE_PARTITIONS, Queue.MAINTENANCE, timedelta(hours=1)),
        Schedule("maintain", MAINTAIN, Queue.MAINTENANCE, timedelta(minutes=10)),
    )
    if settings.backup_to:
        table = (*table, Schedule("backups", BACK_UP, Queue.MAINTENANCE, timedelta(minutes=5)))
    if not settings.notifies:
        return table
    return (*table, Schedule("notifications", DELIVER, Queue.NOTIFICATIONS, timedelta(seconds=10)))
