"""The life of a chunk: published, claimed, done or planned again. The rows are the outbox; a message is a wake-up call.

A claim is good for a while (`lease_until`): a worker that dies leaves a chunk that the tick plans again, and one that
comes back late finds that its claim is no longer the newest and writes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Engine, text
from sqlalchemy.orm import Session

from core.database import session_scope
from core.errors import StaleClaimError
from core.settings import Settings
from services.publishing import ChunkMessage, Publisher

# So many of a source wait or are at work: a long fill must not stand before the next window.
_IN_FLIGHT = 8
# A message that nobody has taken for so long is lost.
_LOST = timedelta(seconds=30)
_LONGEST_WAIT = timedelta(minutes=10)
_SPARE = timedelta(seconds=5)
_MAX_ERROR = 300


@dataclass(frozen=True, slots=True)
class ClaimedChunk:
    """A chunk as it was claimed. The end of its lease is the fence: a later claim has a later one."""

    id: int
    source: str
    kind: str
    first: datetime
    last: datetime
    asset_ids: list[int]
    attempts: int
    lease_until: datetime


def publish_chunks(engine: Engine, publish: Publisher, *, now: datetime) -> int:
    """Publish planned chunks, live ones first; how many.

    Raises:
        PublishError: Redis did not take them; they stay planned.
    """
    with session_scope(engine) as session:
        session.execute(_REVIVE, {"now": now, "lost": now - _LOST})
        rows = session.execute(_TAKE, {"now": now, "longest": _LONGEST_WAIT, "in_flight": _IN_FLIGHT}).all()
        if not rows:
            return 0
        publish([ChunkMessage(row.id, _label(row.source, row.kind, row.first, row.assets)) for row in rows])
        session.execute(_QUEUED, {"now": now, "ids": [row.id for row in rows]})
    return len(rows)


def claim_chunk(
    session: Session, chunk_id: int, *, worker: str, now: datetime, settings: Settings
) -> ClaimedChunk | None:
    """Claim the chunk; None if it is done, failed, taken, not due, or its window is over."""
    lease = now + timedelta(seconds=settings.hard_time_limit) + _SPARE
    row = session.execute(_CLAIM, {"id": chunk_id, "worker": worker, "now": now, "lease": lease}).one_or_none()
    return None if row is None else ClaimedChunk(*row)


def finish_chunk(session: Session, claim: ClaimedChunk, *, now: datetime, error: str | None = None) -> None:
    """Mark the chunk done, or with an error failed, in the transaction that wrote its prices.

    Raises:
        StaleClaimError: somebody else has claimed it, or its window is over.
    """
    values = {"status": "done" if error is None else "failed", "error": _short(error), "now": now}
    _fenced(session, _FINISH, claim, values)


def put_back(
    session: Session,
    claim: ClaimedChunk,
    *,
    now: datetime,
    error: str,
    wait: float | None = None,
    left: Sequence[int] | None = None,
) -> None:
    """Plan the chunk again, later the oftener it failed; with `left` only what is left of it, which counts as progress.

    Args:
        wait: seconds for which the source wants to be left alone.

    Raises:
        StaleClaimError: as `finish_chunk`.
    """
    attempts = 0 if left is not None else claim.attempts
    delay = min(timedelta(seconds=max(2 ** min(attempts, 10), wait or 0)), _LONGEST_WAIT)
    values = {
        "error": _short(error),
        "not_before": now + delay,
        "assets": list(left if left is not None else claim.asset_ids),
        "reset": left is not None,
    }
    _fenced(session, _PUT_BACK, claim, values)


def _fenced(session: Session, statement: object, claim: ClaimedChunk, values: Mapping[str, object]) -> None:
    result = session.execute(statement, {**values, "id": claim.id, "lease": claim.lease_until})  # type: ignore[call-overload]
    if result.rowcount != 1:
        raise StaleClaimError(f"chunk {claim.id} of {claim.source} was claimed by somebody else, or its window is over")


def _short(error: str | None) -> str | None:
    return None if error is None else error[:_MAX_ERROR]


def _label(source: str, kind: str, first: datetime, assets: int) -> str:
    return f"{source} · {kind} · {first:%Y-%m-%d %H:%M} · {assets} assets"


_REVIVE = text(
    """
    UPDATE price_chunks SET status = 'planned'
    WHERE (status = 'running' AND lease_until < :now) OR (status = 'queued' AND queued_at < :lost)
    """
)
_TAKE = text(
    """
    WITH places AS (
        SELECT source, count(*) FILTER (WHERE status IN ('queued', 'running')) AS taken
        FROM price_chunks WHERE status IN ('planned', 'queued', 'running') GROUP BY source
    ), waiting AS (
        SELECT id, source, row_number() OVER (PARTITION BY source ORDER BY kind = 'fill', kind = 'closes', id) AS place
        FROM price_chunks
        WHERE status = 'planned'
            AND (not_before IS NULL OR not_before NOT BETWEEN :now AND :now + CAST(:longest AS interval))
    )
    SELECT c.id, c.source, c.kind, c.first, cardinality(c.asset_ids) AS assets
    FROM price_chunks c JOIN waiting w ON w.id = c.id JOIN places p ON p.source = c.source
    WHERE (w.place + p.taken <= :in_flight OR c.kind = 'live') AND c.status = 'planned'
    ORDER BY c.kind = 'fill', c.kind = 'closes', c.id
    FOR UPDATE OF c SKIP LOCKED
    """
)
_QUEUED = text("UPDATE price_chunks SET status = 'queued', queued_at = :now WHERE id = ANY(:ids)")
_CLAIM = text(
    """
    UPDATE price_chunks SET status = 'running', attempts = attempts + 1, lease_until = :lease, worker = :worker
    WHERE id = :id AND (status IN ('planned', 'queued') OR (status = 'running' AND lease_until < :now))
        AND (kind <> 'live' OR last > :now)
    RETURNING id, source, kind, first, last, asset_ids, attempts, lease_until
    """
)
_FINISH = text(
    """
    UPDATE price_chunks SET status = :status, error = :error, finished_at = :now, lease_until = NULL
    WHERE id = :id AND status = 'running' AND lease_until = :lease
    """
)
_PUT_BACK = text(
    """
    UPDATE price_chunks SET status = 'planned', error = :error, not_before = :not_before, asset_ids = :assets,
        attempts = CASE WHEN :reset THEN 0 ELSE attempts END, lease_until = NULL
    WHERE id = :id AND status = 'running' AND lease_until = :lease
    """
)
