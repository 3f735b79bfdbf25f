"""Old runs become one row each: their batches go into totals, and what they named is forgotten.

Guarantees: a run's totals, the sums that the metrics show and the end of its batches are one commit, so that no counter
goes back and none counts twice. The newest runs, which the metrics show one by one, keep their batches however old they
are, and so does a run that is not over.

What a run named (`run_simulations`) goes with its batches, except for users who are left out as a whole: when they come
back, they are owed what the run did for others. Whose batches were done and whose failed stays known (services.targets
chooses by it) as ranges of users; of a run that named simulations, those in failed batches stay known, if they are few.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Engine, Row, text
from sqlalchemy.orm import Session

from core.database import session_scope
from services.metrics_batches import batch_sums
from services.metrics_runs import NEWEST

MOST_FAILED = 10_000
"""So many simulations at most that were named and failed are kept in the row of their run."""
_SUMMED = ("batches", "attempts", "publications", "republications", "users")
_TIMES = ("durations", "waits")


def runs_to_summarise(connection: Connection, before: datetime, limit: int | None = None) -> list[int]:
    """The runs that ended before then and still have their batches, oldest first, at most `limit`."""
    return list(connection.execute(_OLD, {"before": before, "newest": NEWEST, "limit": limit}).scalars())


def summarise_run(engine: Engine, run_id: int) -> int:
    """Write what its batches came to and delete them; how many there were. Nothing if somebody else has done it."""
    with session_scope(engine) as session:
        # Whoever summarises another run at the same time would overwrite the totals.
        session.execute(text("UPDATE retention SET summaries = summaries + 1"))
        if session.execute(_SUMMARISE, {"run": run_id, "most": MOST_FAILED}).one_or_none() is None:
            return 0
        _add_to_totals(session, batch_sums(session, [run_id]))
        session.execute(_FORGET, {"runs": [run_id]})
        deleted: int = session.execute(_DELETE_BATCHES, {"run": run_id}).rowcount  # type: ignore[attr-defined]
        return deleted


def forget_owed(engine: Engine) -> int:
    """Delete what old runs named of users who are no longer left out as a whole; how many rows."""
    with engine.begin() as connection:
        runs = list(connection.execute(_STILL_NAMED).scalars())
        return connection.execute(_FORGET, {"runs": runs}).rowcount if runs else 0


def ended_before(now: datetime, days: int) -> datetime:
    """The moment before which a run must have ended to be older than so many days."""
    return now - timedelta(days=days)


def _add_to_totals(session: Session, sums: Sequence[Row[Any]]) -> None:
    for row in sums:
        more = row._asdict()
        known = session.execute(_KNOWN, {"kind": row.kind, "status": row.status}).one_or_none()
        total = more if known is None else _sum(known._asdict(), more)
        session.execute(_WRITE, total | {"stages": json.dumps(total["stages"] or {})})


def _sum(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """Two rows of the same kind and status as one."""
    total = {name: one[name] for name in ("kind", "status")}
    total |= {name: one[name] + other[name] for name in _SUMMED}
    for name in _TIMES:
        total[name] = [a + b for a, b in zip(one[name], other[name], strict=True)]
        total |= {f"{name}{what}": one[f"{name}{what}"] + other[f"{name}{what}"] for what in ("_count", "_micros")}
    stages = dict(one["stages"] or {})
    for stage, micros in (other["stages"] or {}).items():
        stages[stage] = stages.get(stage, 0) + micros
    return total | {"stages": stages}


_OLD = text(
    """
    SELECT id FROM runs r
    WHERE finished_at < :before AND summary IS NULL AND status NOT IN ('planned', 'running')
      AND id NOT IN (SELECT id FROM runs ORDER BY id DESC LIMIT :newest)
      AND id <> coalesce((
          SELECT id FROM runs WHERE kind = 'nightly' AND status <> 'missed' ORDER BY day DESC LIMIT 1
      ), 0)
    ORDER BY id LIMIT :limit
    """
)
_SUMMARISE = text(
    """
    UPDATE runs r SET summary = jsonb_build_object(
        'batches', b.batches, 'batches_done', b.done, 'batches_failed', b.failed, 'users_done', b.users_done,
        'done', CASE WHEN NOT n.named THEN b.done_users END, 'failed', CASE WHEN NOT n.named THEN b.failed_users END,
        'failed_simulations', CASE WHEN n.named THEN f.simulations END
    )
    FROM (
        SELECT count(*) FILTER (WHERE status <> 'split') AS batches, count(*) FILTER (WHERE status = 'done') AS done,
            count(*) FILTER (WHERE status = 'failed') AS failed,
            coalesce(sum(users) FILTER (WHERE status = 'done'), 0) AS users_done,
            range_agg(int8range(user_lo, user_hi)) FILTER (WHERE status = 'done')::text AS done_users,
            range_agg(int8range(user_lo, user_hi)) FILTER (WHERE status = 'failed')::text AS failed_users
        FROM batches WHERE run_id = :run
    ) AS b, (
        SELECT EXISTS (SELECT FROM run_simulations WHERE run_id = :run) AS named
    ) AS n, (
        SELECT CASE WHEN count(*) <= :most THEN jsonb_agg(simulation_id ORDER BY simulation_id) END AS simulations
        FROM (
            SELECT DISTINCT k.simulation_id FROM batches b
            JOIN run_simulations k ON k.run_id = b.run_id AND k.user_id >= b.user_lo AND k.user_id < b.user_hi
            WHERE b.run_id = :run AND b.status = 'failed' LIMIT :most + 1
        ) AS each
    ) AS f
    WHERE r.id = :run AND r.summary IS NULL AND r.status NOT IN ('planned', 'running')
    RETURNING r.id
    """
)
_DELETE_BATCHES = text("DELETE FROM batches WHERE run_id = :run")
_OWED = """EXISTS (
    SELECT FROM quarantine q WHERE q.user_id = k.user_id AND q.simulation_id IS NULL AND q.cleared_at IS NULL
)"""
_FORGET = text(f"DELETE FROM run_simulations k WHERE k.run_id = ANY(:runs) AND NOT {_OWED}")  # noqa: S608 (a constant)
# A walk from run to run over the key: what is left of old ones is little, beside what new ones name.
_STILL_NAMED = text(
    """
    WITH RECURSIVE named (run_id) AS (
        SELECT min(run_id) FROM run_simulations
        UNION ALL
        SELECT (SELECT min(k.run_id) FROM run_simulations k WHERE k.run_id > named.run_id)
        FROM named WHERE run_id IS NOT NULL
    )
    SELECT r.id FROM named JOIN runs r ON r.id = named.run_id WHERE r.summary IS NOT NULL
    """
)
_KNOWN = text("SELECT * FROM batch_totals WHERE kind = :kind AND status = :status")
_COLUMNS = (
    "kind", "status", *_SUMMED, "durations", "durations_count", "durations_micros", "waits", "waits_count",
    "waits_micros", "stages",
)  # fmt: skip
_WRITE = text(
    f"INSERT INTO batch_totals ({', '.join(_COLUMNS)})"  # noqa: S608 (names of ours)
    f" VALUES ({', '.join(f':{name}' for name in _COLUMNS)}) ON CONFLICT (kind, status) DO UPDATE"
    f" SET {', '.join(f'{name} = excluded.{name}' for name in _COLUMNS[2:])}"
)
