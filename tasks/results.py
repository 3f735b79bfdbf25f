"""What Flower shows of a batch: counts if it is done, FAILURE and the error if it failed, RETRY if it comes again.

How a task ends changes nothing for its message: each way it is acknowledged, and only the relay publishes it again.
Neither exception is logged by Celery: the batch has said what happened.
"""

from __future__ import annotations

from celery.exceptions import Retry

from core.errors import NightshiftError
from services.batches import BatchOutcome, Outcome


class BatchFailedError(NightshiftError):
    """The batch failed for good."""


class BatchRetriedError(NightshiftError):
    """The attempt failed; the batch is planned again."""


class Shown:
    """A result that reads as it is written: a text would be shown in quotes."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return self._text


_NEEDLESS = {
    Outcome.TAKEN: "nothing to do: another worker has it",
    Outcome.NOT_DUE: "nothing to do: done, cancelled or not due",
    Outcome.DIVIDED: "divided, to find whom it fails for",
}


def result_of(outcome: BatchOutcome) -> Shown:
    """What the task of a batch returns.

    Raises:
        BatchFailedError: the batch failed.
        Retry: it will come again; celery.exceptions.Retry sends nothing by itself.
    """
    if outcome.outcome is Outcome.FAILED:
        raise BatchFailedError(outcome.detail)
    if outcome.outcome is Outcome.RETRIED:
        raise Retry(outcome.detail, BatchRetriedError(outcome.detail))
    if outcome.outcome is not Outcome.DONE:
        return Shown(": ".join(filter(None, (_NEEDLESS[outcome.outcome], outcome.detail))))
    counts = [(outcome.users, "users"), (outcome.rows, "rows"), (outcome.trades, "trades")]
    counts += [(outcome.quarantined, "quarantined")] if outcome.quarantined else []
    return Shown(" · ".join(f"{count:,} {name}" for count, name in counts))
