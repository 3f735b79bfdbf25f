"""Queue `simulations`: the batches of nightly runs."""

from __future__ import annotations

from celery import shared_task

from tasks.context import process_context
from tasks.messages import SIMULATE


@shared_task(name=SIMULATE)
def advance_batch(batch_id: int) -> None:
    """Advance the users of one batch."""
    here = process_context()
    here.counts.batch(here.batches.advance(batch_id))
