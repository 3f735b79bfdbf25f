"""Queue `simulations`: the batches of nightly runs."""

from __future__ import annotations

from celery import shared_task

from tasks.context import process_context
from tasks.messages import SIMULATE
from tasks.results import BatchFailedError, Shown, result_of


@shared_task(name=SIMULATE, throws=(BatchFailedError,))
def advance_batch(batch_id: int) -> Shown:
    """Advance the users of one batch."""
    here = process_context()
    outcome = here.batches.advance(batch_id)
    here.counts.batch(outcome)
    return result_of(outcome)
