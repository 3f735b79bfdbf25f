"""Queue `reprocess`: the batches of reprocess runs, which never stand before nightly ones."""

from __future__ import annotations

from celery import shared_task

from tasks.context import process_context
from tasks.messages import REPROCESS


@shared_task(name=REPROCESS)
def advance_batch(batch_id: int) -> None:
    """Advance the users of one batch."""
    process_context().batches.advance(batch_id)
