"""The end of a window: done when all its chunks are, filled when the source's history has been asked for all of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime

from sqlalchemy import text
from sqlalchemy.orm import Session

from price_sources.source import Kind
from services.alerts import clear_alert
from services.price_chunks import ClaimedChunk
from services.price_store import Stored


def finish_window(
    session: Session, claim: ClaimedChunk, stored: Stored, counts: Mapping[str, int], *, now: datetime
) -> datetime | None:
    """Note what the finished chunk brought; the beginning of the live window that is done with it, if one is."""
    values = {"source": claim.source, "first": claim.first, "last": claim.last, "now": now}
    if claim.kind == Kind.FILL:
        session.execute(_FILLED, values)
        return None
    if claim.kind == Kind.CLOSES:
        return None
    values |= {"ticks": stored.ticks, "held": stored.held, "counts": json.dumps(dict(counts))}
    session.execute(_ADD, values)
    if session.execute(_DONE, values).one_or_none() is None:
        return None
    clear_alert(session, f"prices:{claim.source}", now=now)
    return claim.first


def fail_fill(session: Session, claim: ClaimedChunk, error: str, *, now: datetime) -> None:
    """Let the windows of a fill that is given up count as failed again; they get another turn after the others."""
    if claim.kind == Kind.FILL:
        values = {"source": claim.source, "first": claim.first, "last": claim.last, "now": now}
        session.execute(_FILL_FAILED, values | {"error": f"{FILL_FAILED}{error}"})


FILL_FAILED = "not filled: "
"""How the error of a window begins whose fill was given up."""

_ADD = text(
    """
    UPDATE price_windows SET ticks = ticks + :ticks, held = held + :held, counts = (
        SELECT jsonb_object_agg(key, total) FROM (
            SELECT key, sum(value::int) AS total FROM (
                SELECT * FROM jsonb_each_text(coalesce(counts, '{}')) UNION ALL
                SELECT * FROM jsonb_each_text(CAST(:counts AS jsonb))
            ) AS each GROUP BY key
        ) AS totals
    )
    WHERE source = :source AND starts_at = :first
    """
)
_DONE = text(
    """
    UPDATE price_windows w SET status = 'done', finished_at = :now
    WHERE source = :source AND starts_at = :first AND status = 'planned' AND NOT EXISTS (
        SELECT FROM price_chunks c
        WHERE c.source = w.source AND c.kind = 'live' AND c.first = w.starts_at AND c.status <> 'done'
    )
    RETURNING starts_at
    """
)
_FILLED = text(
    """
    UPDATE price_windows w SET status = 'filled', finished_at = :now
    WHERE source = :source AND status = 'filling' AND starts_at >= :first AND starts_at < :last AND NOT EXISTS (
        SELECT FROM price_chunks c
        WHERE c.source = w.source AND c.kind = 'fill' AND c.first = :first
            AND c.status IN ('planned', 'queued', 'running')
    )
    """
)
_FILL_FAILED = text(
    """
    UPDATE price_windows SET status = 'failed', finished_at = :now, error = :error
    WHERE source = :source AND status = 'filling' AND starts_at >= :first AND starts_at < :last
    """
)
