"""Queue `reprocess`: the batches of reprocess runs, which never stand before nightly ones."""

from __future__ import annotations

from celery import shared_task

from services.batches import advance_batch as advance
from tasks.context import process_context
from tasks.messages import REPROCESS


@shared_task(name=REPROCESS)
def advance_batch(batch_id: int) -> None:
    """Advance the users of one batch."""
    here = process_context()
    advance(here.engine, batch_id, worker=here.worker, publish=here.publish, clock=here.clock, settings=here.settings)
