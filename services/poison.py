"""Finding the user who breaks a batch: divide until he stands alone, quarantine him, and have everybody else done.

Bounded: a planned batch and a single user get `max_attempts` each, the levels between them one, because dividing an
innocent batch costs nothing while quarantining an innocent user does; and a run in which more than `max_poison_users`
had to be quarantined like that is broken itself: its batches then fail instead of blaming everybody in turn.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime

from core.settings import Settings
from services.locks import Connection


@dataclass(frozen=True, slots=True)
class Suspect:
    """A batch that used up its attempts."""

    id: int
    run_id: int
    day: date
    user_lo: int
    user_hi: int
    attempts: int


REASON_ERROR = "error"
REASON_WORKER_LOST = "worker_lost"


def allowed_attempts(*, planned: bool, users: int, settings: Settings) -> int:
    """How often a batch may be tried; `planned`: it is no part of another."""
    return settings.max_attempts if planned or users == 1 else 1


def divide(
    connection: Connection, suspect: Suspect, *, reason: str, detail: str, now: datetime, settings: Settings
) -> str:
    """Replace the batch by its halves, or quarantine its only user; the batch's new status.

    One transaction, guarded by the attempts: whoever claimed the batch meanwhile keeps it (returns "").
    """
    values = {"id": suspect.id, "attempts": suspect.attempts, "now": now, "detail": detail}
    with connection.transaction():
        # Also makes the numbers of children unique beside somebody who divides another batch of this run.
        connection.execute("SELECT 1 FROM runs WHERE id = %s FOR UPDATE", (suspect.run_id,))
        users = _users(connection, suspect)
        status = _verdict(connection, suspect, len(users), settings)
        quarantined = 1 if status == "done" else 0
        changed = connection.execute(_END, values | {"status": status, "quarantined": quarantined}).rowcount
        if changed != 1:
            return ""
        if status == "done":
            who = (users[0], suspect.day, reason, detail, suspect.run_id, suspect.id, now)
            connection.execute(_QUARANTINE, who)
        elif status == "split":
            middle = users[len(users) // 2]
            halves = [
                (suspect.user_lo, middle, len(users) // 2),
                (middle, suspect.user_hi, len(users) - len(users) // 2),
            ]
            for lo, hi, count in halves:
                connection.execute(_CHILD, (suspect.run_id, suspect.run_id, suspect.id, lo, hi, count))
    return status


def _users(connection: Connection, suspect: Suspect) -> list[int]:
    """The users of the batch that have simulations, of a scoped run those of its scope; in order."""
    rows = connection.execute(_USERS_OF_SCOPE, (suspect.run_id, suspect.user_lo, suspect.user_hi)).fetchall()
    if not rows:
        rows = connection.execute(_USERS, (suspect.user_lo, suspect.user_hi, suspect.day)).fetchall()
    return [int(str(row[0])) for row in rows]


def _verdict(connection: Connection, suspect: Suspect, users: int, settings: Settings) -> str:
    if users > 1:
        return "split"
    row = connection.execute(
        "SELECT count(*) FROM quarantine WHERE run_id = %s AND reason IN (%s, %s)",
        (suspect.run_id, REASON_ERROR, REASON_WORKER_LOST),
    ).fetchone()
    poisoned = int(str(row[0])) if row else 0
    return "failed" if users == 0 or poisoned >= settings.max_poison_users else "done"


_USERS_OF_SCOPE = """
SELECT DISTINCT user_id FROM run_simulations WHERE run_id = %s AND user_id >= %s AND user_id < %s ORDER BY 1
"""
_USERS = """
SELECT DISTINCT user_id FROM simulations WHERE user_id >= %s AND user_id < %s AND start_day <= %s ORDER BY 1
"""
_END = """
UPDATE batches
SET status = %(status)s, finished_at = %(now)s, error = %(detail)s, quarantined = %(quarantined)s
WHERE id = %(id)s AND attempts = %(attempts)s AND status IN ('planned', 'queued', 'running')
"""
_QUARANTINE = """
INSERT INTO quarantine (user_id, simulation_id, day, reason, detail, run_id, batch_id, created_at)
VALUES (%s, NULL, %s, %s, %s, %s, %s, %s)
ON CONFLICT (user_id, simulation_id) WHERE cleared_at IS NULL DO NOTHING
"""
_CHILD = """
INSERT INTO batches (run_id, seq, parent_id, user_lo, user_hi, users, status)
VALUES (%s, (SELECT max(seq) + 1 FROM batches WHERE run_id = %s), %s, %s, %s, %s, 'planned')
"""
