"""The windows of a source of prices, newest first, by key."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import text
from sqlalchemy.orm import Session


@dataclass(frozen=True, slots=True)
class WindowView:
    """A window: how many prices it brought, how many were held back, and how many were not used, by reason."""

    starts_at: datetime
    status: str
    finished_at: datetime | None
    ticks: int
    held: int
    counts: dict[str, int] | None
    error: str | None


def windows_before(session: Session, source: str, *, before: datetime | None, limit: int = 24) -> list[WindowView]:
    """The newest windows of a source, or those that began before a moment."""
    values = {"source": source, "before": before, "limit": limit}
    return [WindowView(**row._asdict()) for row in session.execute(_WINDOWS, values)]


_WINDOWS = text(
    """
    SELECT starts_at, status, finished_at, ticks, held, counts, error FROM price_windows
    WHERE source = :source AND starts_at < coalesce(CAST(:before AS timestamptz), 'infinity')
    ORDER BY starts_at DESC LIMIT :limit
    """
)
