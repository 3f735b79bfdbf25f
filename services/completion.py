"""The end of a run: exactly once, after its last batch, by whoever notices first.

Each worker looks after its own commit, so of two that commit their last batches at once, the later look sees both. The
status changes in one guarded UPDATE; totals, leaderboard and notification belong to its transaction. A worker that dies
between its commit and its look leaves a run that the next tick finishes.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import Engine, Row, text
from sqlalchemy.orm import Session

from core.database import session_scope
from core.log import get_logger
from services.leaderboards import board_of_night, boards_of_reprocess
from services.locks import Connection
from services.notify_digests import plan_digests
from services.notify_runs import tell_of_run

log = get_logger(__name__)

_FINISHABLE = text(
    """
    SELECT id FROM runs r
    WHERE status = 'running'
      AND NOT EXISTS (SELECT 1 FROM batches b WHERE b.run_id = r.id AND b.status IN ('planned', 'queued', 'running'))
    ORDER BY id
    """
)
_CANCEL_BATCHES = text(
    """
    UPDATE batches b SET status = 'cancelled', finished_at = :now
    FROM runs r WHERE r.id = b.run_id AND r.cancel_requested AND r.status IN ('planned', 'running')
      AND b.status IN ('planned', 'queued')
    """
)
_START_CANCELLED = text("UPDATE runs SET status = 'running' WHERE status = 'planned' AND cancel_requested")
# Digests are added as unsigned numbers modulo 2**64 and stored as the signed bigint of the same bits.
_FINISH = text(
    """
    WITH t AS (
        SELECT coalesce(sum(simulations), 0) AS simulations, coalesce(sum(rows), 0) AS rows,
               coalesce(sum(trades), 0) AS trades, coalesce(sum(quarantined), 0) AS quarantined,
               coalesce(sum(total_equity), 0) AS total_equity, coalesce(sum(total_fees), 0) AS total_fees,
               mod(coalesce(sum(digest), 0) + 18446744073709551616 * count(*), 18446744073709551616) AS digest,
               count(*) FILTER (WHERE status = 'failed') AS failed,
               count(*) FILTER (WHERE status = 'cancelled') AS cancelled
        FROM batches WHERE run_id = :run
    )
    UPDATE runs SET
        status = CASE WHEN t.failed > 0 THEN 'failed' WHEN t.cancelled > 0 THEN 'cancelled' ELSE 'done' END,
        finished_at = :now, simulations = t.simulations, rows = t.rows, trades = t.trades, quarantined = t.quarantined,
        total_equity = t.total_equity, total_fees = t.total_fees,
        digest = CASE WHEN t.digest >= 9223372036854775808 THEN t.digest - 18446744073709551616 ELSE t.digest END,
        error = CASE WHEN t.failed > 0 THEN t.failed || ' batches failed' END
    FROM t WHERE runs.id = :run AND runs.status = 'running'
    RETURNING runs.*
    """
)


# One look for a worker that has committed a batch, instead of the three transactions of `finish_runs`: a night has
# hundreds of batches, and one of them is the last.
_MAY_END = """
SELECT r.cancel_requested OR NOT EXISTS (
    SELECT 1 FROM batches b WHERE b.run_id = r.id AND b.status IN ('planned', 'queued', 'running')
)
FROM runs r WHERE r.id = %s
"""


def may_end(connection: Connection, run_id: int) -> bool:
    """Whether `finish_runs` might have something to do for a run of which a batch has just ended."""
    row = connection.execute(_MAY_END, (run_id,)).fetchone()
    return row is not None and row[0] is True


def finish_runs(engine: Engine, *, now: datetime) -> list[int]:
    """Finish every running run whose batches have all ended; the ids of those that this call finished."""
    with session_scope(engine) as session:
        session.execute(_START_CANCELLED)
        session.execute(_CANCEL_BATCHES, {"now": now})
    with session_scope(engine) as session:
        candidates = list(session.execute(_FINISHABLE).scalars())
    finished = []
    for run_id in candidates:
        with session_scope(engine) as session:
            run = session.execute(_FINISH, {"run": run_id, "now": now}).one_or_none()
            if run is None:
                continue
            _write_leaderboard(session, run)
            tell_of_run(session, run)
            plan_digests(session, run_id)
        finished.append(run_id)
        log.info("run finished", run=run_id, day=run.day, status=run.status, rows=run.rows, trades=run.trades)
    return finished


def _write_leaderboard(session: Session, run: Row[Any]) -> None:
    if run.kind == "reprocess":
        # Whatever became of the run: the batches that are done have changed what they have changed.
        boards_of_reprocess(session, run.id)
    elif run.status == "done":
        board_of_night(session, run)
