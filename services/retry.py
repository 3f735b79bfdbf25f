"""What an error means for the batch it struck: a pure decision."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta

import psycopg
import sqlalchemy.exc

from core.errors import StaleClaimError

_BASE_SECONDS = 0.5
_CAP_SECONDS = 60.0
# Connection exceptions, insufficient resources, operator intervention, and the locks and snapshots that others held.
_TRANSIENT_CLASSES = ("08", "53", "57")
_TRANSIENT_STATES = ("40001", "40P01", "55P03", "25P03")


@dataclass(frozen=True, slots=True)
class Retry:
    """Try again after `delay`; a transient error counts no attempt against the batch."""

    delay: timedelta
    counts: bool


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Somebody else has the batch, or trying again cannot help."""


def decide_retry(error: BaseException, attempt: int) -> Retry | GiveUp:
    """What to do after `error` in the given attempt (from 1)."""
    if isinstance(error, StaleClaimError):
        return GiveUp()
    delay = timedelta(seconds=min(_BASE_SECONDS * 2 ** min(attempt - 1, 16), _CAP_SECONDS))
    return Retry(delay, counts=not is_transient(error))


def is_transient(error: BaseException) -> bool:
    """Whether the same work may succeed later without anybody changing anything."""
    if isinstance(error, sqlalchemy.exc.DBAPIError):
        return error.connection_invalidated or (error.orig is not None and is_transient(error.orig))
    if isinstance(error, psycopg.Error):
        state = error.sqlstate or ""
        if state:
            return state.startswith(_TRANSIENT_CLASSES) or state in _TRANSIENT_STATES
        return isinstance(error, psycopg.OperationalError)
    return isinstance(error, ConnectionError | TimeoutError)
