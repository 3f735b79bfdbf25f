"""Work that is done again: its batches, which never stand before nightly ones, and requests for more of it.

Batches come by the queue `reprocess`. Requests of other services come by `control`, where no batch is before them.
"""

from __future__ import annotations

from celery import shared_task

from services.requests import serve_request
from tasks.context import process_context
from tasks.messages import REPROCESS, REQUEST, RequestArguments
from tasks.results import BatchFailedError, Shown, result_of


@shared_task(name=REPROCESS, throws=(BatchFailedError,))
def advance_batch(batch_id: int) -> Shown:
    """Advance the users of one batch."""
    here = process_context()
    outcome = here.batches.advance(batch_id)
    here.counts.batch(outcome)
    return result_of(outcome)


@shared_task(name=REQUEST)
def request(**arguments: object) -> None:
    """Plan what another service asks for, or refuse it; the arguments are those of RequestArguments."""
    here = process_context()
    asked = RequestArguments.model_validate(arguments).request()
    serve_request(here.engine, here.publish, asked, now=here.clock(), settings=here.settings)
