"""The audit trail: who did what, from where, and what came of it. Appended, never changed.

An action and its row appear in one transaction. No secret is in it: passwords and tokens are never handed over, and
texts of errors are masked.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlalchemy import text
from sqlalchemy.orm import Session

from core.log import mask_secrets

_LONGEST = 500


class Result(StrEnum):
    """What came of it."""

    DONE = "done"
    REFUSED = "refused"
    """It was not allowed."""
    FAILED = "failed"
    """It was allowed, and could not be done."""


@dataclass(frozen=True, slots=True)
class Actor:
    """Somebody: the name of an account, or of a user of the command line; None: nobody known. `address`: from where."""

    who: str | None
    address: str | None


@dataclass(frozen=True, slots=True)
class AuditView:
    """A row of the trail; see models.tables_access.AuditEntry."""

    id: int
    at: datetime
    who: str | None
    address: str | None
    action: str
    target: str | None
    detail: dict[str, Any] | None
    result: str
    error: str | None


def record(
    session: Session,
    actor: Actor,
    action: str,
    *,
    now: datetime,
    target: str | None = None,
    detail: Mapping[str, Any] | None = None,
    result: Result = Result.DONE,
    error: str | None = None,
) -> None:
    """Append a row. `detail` is what JSON can hold; long texts are cut."""
    values = {
        "at": now,
        "who": actor.who,
        "address": None if actor.address is None else actor.address[:100],
        "action": action,
        "target": None if target is None else target[:_LONGEST],
        "detail": None if detail is None else json.dumps(dict(detail)),
        "result": str(result),
        "error": None if error is None else mask_secrets(error)[:_LONGEST],
    }
    session.execute(_RECORD, values)


def audit_before(session: Session, *, before: int | None = None, limit: int = 50) -> list[AuditView]:
    """The newest rows, or those older than the row `before`, newest first."""
    rows = session.execute(_BEFORE, {"before": before, "limit": limit})
    return [AuditView(**row._asdict()) for row in rows]


_RECORD = text(
    """
    INSERT INTO audit_trail (at, who, address, action, target, detail, result, error)
    VALUES (:at, :who, :address, :action, :target, :detail, :result, :error)
    """
)
_BEFORE = text(
    """
    SELECT id, at, who, address, action, target, detail, result, error FROM audit_trail
    WHERE id < coalesce(:before, 9223372036854775807) ORDER BY id DESC LIMIT :limit
    """
)
