"""Queue `maintenance`: housekeeping that no night waits for."""

from __future__ import annotations

from celery import shared_task

from schedules.beat import ENSURE_PARTITIONS, MAINTAIN
from services import partitions, retention
from tasks.context import process_context
from tasks.results import Shown

# Begins no step after so many; what is left is for the next message.
_SECONDS = 5.0


@shared_task(name=ENSURE_PARTITIONS)
def ensure_partitions() -> Shown:
    """Make the partitions of the coming days and months."""
    here = process_context()
    made = partitions.ensure_ahead(here.engine, now=here.clock())
    return Shown(f"{len(made)} made")


# One step may take long: to freeze a day of millions, gently. A message that comes again meanwhile finds it at work.
@shared_task(name=MAINTAIN, soft_time_limit=600, time_limit=660)
def maintain() -> Shown:
    """Make what is missing, drop what is no longer kept, freeze what will not change any more."""
    here = process_context()
    done = retention.maintain(here.engine, now=here.clock(), settings=here.settings, seconds=_SECONDS)
    return Shown(done.summary())
