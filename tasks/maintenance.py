"""Queue `maintenance`: housekeeping that no night waits for."""

from __future__ import annotations

from celery import shared_task

from schedules.beat import ENSURE_PARTITIONS
from services import partitions
from tasks.context import process_context


@shared_task(name=ENSURE_PARTITIONS)
def ensure_partitions() -> None:
    """Make the partitions of the coming days and months."""
    here = process_context()
    partitions.ensure_ahead(here.engine, now=here.clock())
