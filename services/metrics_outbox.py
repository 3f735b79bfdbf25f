"""What waits in the outbox to be sent, by kind. Where nobody is to be told anything, nothing can be late."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import text
from sqlalchemy.orm import Session

from core.settings import Settings

KINDS = ("run_finished", "day_missed", "alert_raised", "alert_cleared")
"""Shown even if there is none of them."""

# By the database's clock, which wrote the moment.
_PENDING = text(
    """
    SELECT kind, count(*) FILTER (WHERE given_up_at IS NULL) AS pending, count(given_up_at) AS given_up,
        extract(epoch FROM clock_timestamp() - min(created_at) FILTER (WHERE given_up_at IS NULL))::float AS age
    FROM outbox WHERE sent_at IS NULL GROUP BY kind
    """
)


@dataclass(frozen=True, slots=True)
class OutboxMetrics:
    """Notifications of a kind that are not sent, and of those `given_up`, which never will be.

    `age`: seconds since the oldest pending one was written; None if nobody is to be told anything.
    """

    kind: str
    pending: int
    given_up: int
    age: float | None


def outbox_metrics(session: Session, settings: Settings) -> list[OutboxMetrics]:
    """Of all kinds."""
    kinds = {kind: OutboxMetrics(kind, 0, 0, 0.0 if settings.notifies else None) for kind in KINDS}
    for row in session.execute(_PENDING):
        age = max(row.age or 0.0, 0.0) if settings.notifies else None
        kinds[row.kind] = OutboxMetrics(row.kind, row.pending, row.given_up, age)
    return [kinds[kind] for kind in sorted(kinds)]
