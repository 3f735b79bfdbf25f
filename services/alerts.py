"""Alerts: of each key at most one is active, and each raise and each clear leaves word in the outbox exactly once.

The word is written in the caller's transaction: either both are there or neither. That one of two processes raises an
alert is an index in the database, not a check in code. The loser waits for the other's commit, so an alert is best
raised near the end of a transaction, and several in the order of their keys.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import text
from sqlalchemy.orm import Session

from core.log import mask_secrets


@dataclass(frozen=True, slots=True)
class AlertView:
    """An active alert. `kind` groups keys, e.g. `closes_missing`; `detail` is one line for a person."""

    id: int
    key: str
    kind: str
    detail: str
    raised_at: datetime

    def as_json(self) -> dict[str, Any]:
        """The moment as ISO 8601."""
        return asdict(self) | {"raised_at": self.raised_at.isoformat()}


def raise_alert(session: Session, key: str, kind: str, detail: str, *, now: datetime) -> bool:
    """Raise the alert `key`; True if it is new. One that is active already keeps its beginning and gets the `detail`.

    Secrets of connection strings are masked in the detail, because others send it on.
    """
    values = {"key": key, "kind": kind, "detail": mask_secrets(detail), "now": now}
    return session.execute(_RAISE, values).scalar_one_or_none() is True


def clear_alert(session: Session, key: str, *, now: datetime) -> bool:
    """Clear the alert `key`; True if it was active."""
    return session.execute(_CLEAR, {"key": key, "now": now}).scalar_one_or_none() is not None


def active_alerts(session: Session) -> list[AlertView]:
    """All active alerts, the oldest first."""
    return [AlertView(*row) for row in session.execute(_ACTIVE)]


_PAYLOAD = "jsonb_build_object('alert', id, 'key', key, 'kind', kind, 'detail', detail, 'at', {at})"

# An update also answers, but with xmax set: that is how PostgreSQL tells it from an insert. A row of the same detail is
# locked and left as it is. If the active row is cleared meanwhile, the conflict is gone and the insert happens.
_RAISE = text(
    f"""
    WITH raised AS (
        INSERT INTO alerts (key, kind, detail, raised_at) VALUES (:key, :kind, :detail, :now)
        ON CONFLICT (key) WHERE cleared_at IS NULL DO UPDATE SET detail = excluded.detail
            WHERE alerts.detail <> excluded.detail
        RETURNING id, key, kind, detail, raised_at, xmax = 0 AS new
    ),
    told AS (
        INSERT INTO outbox (kind, key, payload)
        SELECT 'alert_raised', concat_ws(':', 'alert', id, 'raised'), {_PAYLOAD.format(at="raised_at")}
        FROM raised WHERE new
    )
    SELECT new FROM raised
    """  # noqa: S608 - our own constant; the values are bound
)

_CLEAR = text(
    f"""
    WITH cleared AS (
        UPDATE alerts SET cleared_at = :now WHERE key = :key AND cleared_at IS NULL
        RETURNING id, key, kind, detail, cleared_at
    ),
    told AS (
        INSERT INTO outbox (kind, key, payload)
        SELECT 'alert_cleared', concat_ws(':', 'alert', id, 'cleared'), {_PAYLOAD.format(at="cleared_at")}
        FROM cleared
    )
    SELECT id FROM cleared
    """  # noqa: S608 - our own constant; the values are bound
)

_ACTIVE = text("SELECT id, key, kind, detail, raised_at FROM alerts WHERE cleared_at IS NULL ORDER BY raised_at, id")
