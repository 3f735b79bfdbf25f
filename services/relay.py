"""The relay: planned batches become messages.

A batch is published only when its run may start. Nights run in order, so a night waits for the one before it to end.
Work that is done again waits for nothing: whatever runs beside it, the days come out right (services.replacing).

The batches of a night are published all at once. Of ad-hoc work, only so many are queued or in work at a time, so that
a request of one user does not stand behind one of a million: whenever one of them ends, the next is that of the run
with the fewest of them, and among equals of the run that has waited longest. A run that is paused gets none.

Rows are marked in the transaction in which they are locked and published; if it is lost the messages are sent once
more, and a message too many costs a look at a row.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Engine, Row, text

from core import tracing
from core.database import session_scope
from core.queues import Queue
from core.settings import get_settings
from services.locks import RELAY_LOCK
from services.publishing import BatchMessage, Publisher

PUBLISH_LIMIT = 5000
# No retry waits longer; what seems to has a clock that was set back.
_LONGEST_WAIT = timedelta(minutes=2)

_START_RUNS = text(
    """
    UPDATE runs SET status = 'running', started_at = :now
    WHERE status = 'planned' AND NOT cancel_requested AND NOT paused
      AND (kind <> 'nightly' OR NOT EXISTS (
          SELECT 1 FROM runs earlier
          WHERE earlier.kind = 'nightly' AND earlier.status IN ('planned', 'running') AND earlier.day < runs.day
      ))
    """
)
_DUE = "(b.not_before IS NULL OR b.not_before NOT BETWEEN :now AND :now + :longest)"
_COLUMNS = "b.id, b.run_id, b.user_lo, b.user_hi, r.kind, r.first_day, r.day"
_NIGHTLY = text(
    f"""
    SELECT {_COLUMNS} FROM batches b JOIN runs r ON r.id = b.run_id
    WHERE b.status = 'planned' AND r.status = 'running' AND NOT r.cancel_requested AND r.kind = 'nightly' AND {_DUE}
    ORDER BY b.run_id, b.seq LIMIT :limit
    FOR UPDATE OF b SKIP LOCKED
    """  # noqa: S608 (our own constants)
)
# Moments in the future are those of a clock that was set back, or of another machine's: they say nothing.
_ADHOC = text(
    f"""
    WITH active AS MATERIALIZED (
        SELECT r.id, NOT r.cancel_requested AND NOT r.paused AS wanted, a.in_flight, a.last
        FROM runs r CROSS JOIN LATERAL (
            SELECT count(*) FILTER (WHERE status = 'running' OR (status = 'queued' AND NOT r.paused)) AS in_flight,
                max(queued_at) FILTER (WHERE queued_at <= :now) AS last
            FROM batches WHERE run_id = r.id
        ) AS a WHERE r.kind = 'reprocess' AND r.status = 'running'
    ),
    chosen AS MATERIALIZED (
        SELECT next.id, a.in_flight + next.number AS turn, a.last
        FROM active a CROSS JOIN LATERAL (
            SELECT b.id, row_number() OVER (ORDER BY b.seq) AS number
            FROM batches b WHERE b.run_id = a.id AND b.status = 'planned' AND {_DUE}
            ORDER BY b.seq LIMIT :in_flight
        ) AS next
        WHERE a.wanted
        ORDER BY turn, a.last NULLS FIRST, a.id
        LIMIT greatest(:in_flight - (SELECT coalesce(sum(in_flight), 0) FROM active), 0)
    )
    SELECT {_COLUMNS} FROM chosen JOIN batches b ON b.id = chosen.id JOIN runs r ON r.id = b.run_id
    WHERE b.status = 'planned' ORDER BY chosen.turn, chosen.last NULLS FIRST, b.run_id
    FOR UPDATE OF b SKIP LOCKED
    """  # noqa: S608 (our own constants)
)
_MARK_QUEUED = text(
    "UPDATE batches SET status = 'queued', queued_at = :now, publications = publications + 1 WHERE id = ANY(:ids)"
)


def publish_planned(engine: Engine, publish: Publisher, *, now: datetime, in_flight: int | None = None) -> int:
    """Start the runs that may start, and publish what is planned of the running ones; how many batches were published.

    Every batch of a night, and then as many of ad-hoc work that `in_flight` of them are queued or in work; None: as
    many as the settings of this process allow.

    Raises:
        PublishError: Redis did not take them; they stay planned.
    """
    with tracing.span("publish"):
        published = _publish_nights(engine, publish, now)
        published += publish_adhoc(engine, publish, now=now, in_flight=in_flight)
        tracing.annotate(batches=published)
    return published


def _publish_nights(engine: Engine, publish: Publisher, now: datetime) -> int:
    with session_scope(engine) as session:
        session.execute(_START_RUNS, {"now": now})
    published = 0
    while True:
        with session_scope(engine) as session:
            rows = session.execute(_NIGHTLY, {"now": now, "limit": PUBLISH_LIMIT, "longest": _LONGEST_WAIT}).all()
            if not rows:
                break
            publish([message_for(row) for row in rows])
            session.execute(_MARK_QUEUED, {"now": now, "ids": [row.id for row in rows]})
        published += len(rows)
    return published


def publish_adhoc(engine: Engine, publish: Publisher, *, now: datetime, in_flight: int | None = None) -> int:
    """The part of `publish_planned` that is of ad-hoc work that has been started, for whenever a batch of it ends.

    Raises:
        PublishError: Redis did not take them; they stay planned.
    """
    limit = get_settings().reprocess_in_flight if in_flight is None else in_flight
    with session_scope(engine) as session:
        # One at a time: two would both take what is free.
        session.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": RELAY_LOCK})
        rows = session.execute(_ADHOC, {"now": now, "in_flight": limit, "longest": _LONGEST_WAIT}).all()
        if rows:
            publish([message_for(row) for row in rows])
            session.execute(_MARK_QUEUED, {"now": now, "ids": [row.id for row in rows]})
    return len(rows)


def message_for(row: Row[Any]) -> BatchMessage:
    """The message of a row with the columns id, run_id, user_lo, user_hi, kind, first_day, day."""
    days = f"{row.day}" if row.first_day == row.day else f"{row.first_day} to {row.day}"
    queue = Queue.SIMULATIONS if row.kind == "nightly" else Queue.REPROCESS
    return BatchMessage(row.id, queue, f"run {row.run_id} · {days} · users {row.user_lo}–{row.user_hi - 1}")
