"""A request from another service: planned and published as the command does it, or refused with a line in the log.

Guarantees: a request that is refused leaves nothing behind and is not tried again. One that is lost on its way, or
meets a server that is away, is for its sender to repeat: with a key, however often it comes, it is one run.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime

from sqlalchemy import Engine

from core.database import session_scope
from core.errors import UsageError
from core.log import get_logger
from core.settings import Settings
from services.publishing import Publisher
from services.relay import publish_planned
from services.reprocessing import Requested, request
from services.scopes import Only, ReprocessScope

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class ReprocessRequest:
    """What the other service asks for; see services.reprocessing.request."""

    scope: ReprocessScope
    first_day: date | None
    only: Only
    reason: str
    requested_by: str
    key: str | None


def serve_request(
    engine: Engine, publish: Publisher, asked: ReprocessRequest, *, now: datetime, settings: Settings
) -> Requested | None:
    """Plan the run and publish what may start of it; None if the request is refused.

    Raises:
        PublishError: Redis did not take the batches; they stay planned, and the next tick publishes them.
    """
    try:
        with session_scope(engine) as session:
            requested = request(
                session, asked.scope, first_day=asked.first_day, only=asked.only, reason=asked.reason,
                requested_by=asked.requested_by, now=now, settings=settings, key=asked.key,
            )  # fmt: skip
    except UsageError as error:
        log.warning("request refused", error=str(error), requested_by=asked.requested_by[:200], key=asked.key)
        return None
    log.info(
        "request planned", run=requested.run, simulations=requested.simulations, requested_by=asked.requested_by,
        repeated=requested.repeated,
    )  # fmt: skip
    if requested.run is not None:
        publish_planned(engine, publish, now=now, in_flight=settings.reprocess_in_flight)
    return requested
