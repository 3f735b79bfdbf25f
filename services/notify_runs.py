"""Word of a run's end, for administrators: it failed, was cancelled, left somebody out, recovered, or was late.

Guarantees: one word of each run, whatever of these is true of it, in the transaction that ends it. A run that went as
it should tells nobody.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Row, text
from sqlalchemy.orm import Session

from core.settings import Settings, get_settings
from schedules.calendar import due_at
from services.notify_outbox import write

_TROUBLE = {"retries": "attempts in vain", "splits": "batches divided", "put_back": "batches put back"}


def tell_of_run(session: Session, run: Row[Any], *, settings: Settings | None = None) -> bool:
    """Leave word in the outbox of a run's end, if there is anything to tell; whether there was.

    Args:
        session: of the transaction that ends the run.
        run: its row, ended.
        settings: None: those of this process.
    """
    payload: dict[str, object] = {
        "run": run.id, "day": str(run.day), "status": run.status, "quarantined": int(run.quarantined),
    }  # fmt: skip
    trouble = session.execute(_COUNTED, {"run": run.id}).one()._asdict()
    late = _minutes_late(session, run, settings or get_settings())
    if run.status == "done" and not run.quarantined and not late and not _recovered(run, trouble):
        return False
    payload |= trouble | ({"late_minutes": late} if late else {})
    if run.kind == "reprocess":
        payload["changed"] = session.execute(_CHANGED, {"run": run.id}).scalar_one()
    write(session, "run_finished", f"run:{run.id}:{run.status}", payload)
    return True


def trouble_of(payload: Mapping[str, Any]) -> str:
    """What a run recovered from, in words; empty if nothing."""
    return ", ".join(f"{words}: {payload[name]}" for name, words in _TROUBLE.items() if payload.get(name))


def _recovered(run: Row[Any], trouble: Mapping[str, int]) -> bool:
    # Ad-hoc work is put back whenever a night comes, or somebody pauses it: that is no trouble.
    return any(count for name, count in trouble.items() if run.kind == "nightly" or name != "put_back")


def _minutes_late(session: Session, run: Row[Any], settings: Settings) -> int:
    """So many minutes after its deadline a night ended, rounded up; 0 if it was in time, or was never promised."""
    if run.kind != "nightly":
        return 0
    first = session.execute(_FIRST).one()
    every = settings.dev_night_every
    due: datetime = (
        due_at(run.day, settings.nightly_at) if every is None else first.began_at + (run.day - first.day).days * every
    )
    if due < first.began_at:
        return 0
    deadline = due + timedelta(minutes=settings.night_deadline_minutes)
    late: timedelta = run.finished_at - deadline
    return max(math.ceil(late / timedelta(minutes=1)), 0)


# An attempt that is not counted, because nobody was to blame, and a message that was lost leave a publication too many.
_COUNTED = text(
    """
    SELECT coalesce(sum(greatest(attempts - 1, 0)), 0) AS retries, count(*) FILTER (WHERE status = 'split') AS splits,
        coalesce(sum(greatest(publications - greatest(attempts, 1), 0)), 0) AS put_back
    FROM batches WHERE run_id = :run
    """
)
_CHANGED = text("SELECT count(*) FROM portfolio_revisions WHERE run_id = :run")
# What fell due before the first night was planned was promised to nobody (services.metrics_night).
_FIRST = text("SELECT min(created_at) AS began_at, min(first_day) AS day FROM runs WHERE kind = 'nightly'")
