"""The outbox: what is due, who sends it, and how that ended. Written with the facts that it tells of.

Guarantees: an attempt is counted before it begins, so that a message which ends its sender is given up in the end. Who
takes a message has it alone until `not_before`, by which time it counts as dead; so a message is sent at least once,
and twice only if its sender died between the sending and the mark. Both have the same `idempotency_key`. No digest is
taken while a night runs, unless that takes very long.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import text
from sqlalchemy.orm import Session

from core.errors import UsageError

STALE_DAYS = 3
# A night takes seconds to minutes. One that takes longer is in trouble, and nobody's mail waits for its end.
NIGHT_GOES_FIRST = timedelta(minutes=15)


@dataclass(frozen=True, slots=True)
class Claimed:
    """A message that its taker sends; `attempt` from 1, `delivered` names the channels that have it."""

    id: int
    kind: str
    key: str
    payload: Mapping[str, Any]
    created_at: datetime
    attempt: int
    delivered: frozenset[str]

    @property
    def idempotency_key(self) -> str:
        """The same in each attempt, and another in each installation: they may share a mailbox."""
        return hashlib.sha256(f"{self.key} {self.created_at.timestamp()}".encode()).hexdigest()[:32]


@dataclass(frozen=True, slots=True)
class OutboxView:
    """A message as people see it; `state` is waiting, retrying, sent or given up."""

    id: int
    kind: str
    key: str
    state: str
    attempts: int
    created_at: datetime
    sent_at: datetime | None
    not_before: datetime | None
    error: str | None

    def as_json(self) -> dict[str, Any]:
        """Moments as ISO 8601."""
        return {name: v.isoformat() if isinstance(v, datetime) else v for name, v in asdict(self).items()}


def write(session: Session, kind: str, key: str, payload: Mapping[str, object]) -> None:
    """Leave word of something; of the same key only once."""
    session.execute(_WRITE, {"kind": kind, "key": key, "payload": json.dumps(payload)})


def claim(session: Session, kinds: Sequence[str], *, now: datetime, dead_at: datetime) -> Claimed | None:
    """Take the first message of these kinds that is due; None if there is none. The caller commits before it sends."""
    values = {"kinds": list(kinds), "now": now, "dead_at": dead_at, "began": now - NIGHT_GOES_FIRST}
    row = session.execute(_CLAIM, values).one_or_none()
    return None if row is None else Claimed(**row._asdict() | {"delivered": frozenset(row.delivered)})


def digests_wait(session: Session, *, now: datetime) -> bool:
    """Whether there are digests that are not taken because a night runs."""
    values = {"now": now, "began": now - NIGHT_GOES_FIRST}
    return bool(session.execute(_DIGESTS_WAIT, values).scalar_one())


def mark_delivered(session: Session, message: Claimed, channel: str, *, last: bool, now: datetime) -> None:
    """Write down that a channel has taken it; after the last one it is sent."""
    session.execute(_DELIVERED, {"id": message.id, "channel": channel, "last": last, "now": now})


def mark_failed(session: Session, message: Claimed, error: str, *, retry_at: datetime | None, now: datetime) -> None:
    """Write down why it was not sent, and when to try again; None: never."""
    session.execute(_FAILED, {"id": message.id, "error": error, "retry_at": retry_at, "now": now})


def put_back(session: Session, message: Claimed, *, until: datetime) -> None:
    """Undo the claim: it was not tried, and is due again at `until`."""
    session.execute(_PUT_BACK, {"id": message.id, "until": until})


def give_up_stale(session: Session, *, now: datetime) -> int:
    """Give up what nobody tried to send while it was news: a first channel should not get the alerts of a year."""
    values = {"now": now, "days": STALE_DAYS, "error": f"not sent within {STALE_DAYS} days: no news any more"}
    return len(session.execute(_STALE, values).all())


def list_outbox(session: Session, *, given_up: bool = False, everything: bool = False, limit: int) -> list[OutboxView]:
    """What is not sent, the newest first; only what is given up, or everything."""
    which = "true" if everything else "given_up_at IS NOT NULL AND sent_at IS NULL" if given_up else "sent_at IS NULL"
    return [OutboxView(*row) for row in session.execute(text(_LIST.format(which=which)), {"limit": limit})]


def retry(session: Session, ids: Sequence[int] | None) -> int:
    """Have these tried again at once, or all that are given up; how many.

    Raises:
        UsageError: one of them is not there, or is sent.
    """
    done = session.execute(_RETRY, {"ids": None if ids is None else list(ids)}).scalars().all()
    missing = sorted(set(ids or ()) - set(done))
    if missing:
        raise UsageError(f"there is no unsent notification {missing[0]}: nightshift notifications list shows them")
    return len(done)


_WRITE = text(
    "INSERT INTO outbox (kind, key, payload) VALUES (:kind, :key, CAST(:payload AS jsonb)) ON CONFLICT (key) DO NOTHING"
)
_NIGHT_RUNS = """EXISTS (
    SELECT FROM runs WHERE kind = 'nightly' AND status = 'running' AND started_at BETWEEN :began AND :now
)"""
# While a night runs, nothing that is greater than false: so the index ends before the first of a million digests.
_CLAIM = text(
    f"""
    UPDATE outbox SET attempts = attempts + 1, not_before = :dead_at
    WHERE id = (
        SELECT id FROM outbox
        WHERE sent_at IS NULL AND given_up_at IS NULL AND kind = ANY (:kinds)
          AND (not_before IS NULL OR not_before <= :now)
          AND (kind = 'digest') <= (SELECT NOT {_NIGHT_RUNS})
        ORDER BY (kind = 'digest'), id LIMIT 1 FOR UPDATE SKIP LOCKED
    )
    RETURNING id, kind, key, payload, created_at, attempts AS attempt, delivered
    """  # noqa: S608 - our own constant
)
_DIGESTS_WAIT = text(
    f"""
    SELECT {_NIGHT_RUNS} AND EXISTS (
        SELECT FROM outbox WHERE sent_at IS NULL AND given_up_at IS NULL AND kind = 'digest'
    )
    """  # noqa: S608 - our own constant
)
_DELIVERED = text(
    """
    UPDATE outbox SET
        delivered = CASE WHEN delivered @> ARRAY[:channel] THEN delivered ELSE array_append(delivered, :channel) END,
        sent_at = CASE WHEN :last THEN CAST(:now AS timestamptz) END,
        not_before = CASE WHEN NOT :last THEN not_before END,
        error = CASE WHEN NOT :last THEN error END
    WHERE id = :id AND sent_at IS NULL
    """
)
_FAILED = text(
    """
    UPDATE outbox SET error = :error, not_before = CAST(:retry_at AS timestamptz),
        given_up_at = CASE WHEN CAST(:retry_at AS timestamptz) IS NULL THEN CAST(:now AS timestamptz) END
    WHERE id = :id AND sent_at IS NULL
    """
)
_PUT_BACK = text(
    "UPDATE outbox SET attempts = attempts - 1, not_before = :until WHERE id = :id AND sent_at IS NULL AND attempts > 0"
)
# By the database's clock, which made `created_at`: ours may be set ahead.
_STALE = text(
    """
    UPDATE outbox SET given_up_at = :now, error = :error
    WHERE sent_at IS NULL AND given_up_at IS NULL AND attempts = 0 AND error IS NULL
      AND created_at < now() - make_interval(days => :days)
    RETURNING id
    """
)
_LIST = """
    SELECT id, kind, key,
        CASE WHEN sent_at IS NOT NULL THEN 'sent' WHEN given_up_at IS NOT NULL THEN 'given up'
             WHEN attempts > 0 THEN 'retrying' ELSE 'waiting' END,
        attempts, created_at, sent_at, not_before, error
    FROM outbox WHERE {which} ORDER BY id DESC LIMIT :limit
"""
_RETRY = text(
    """
    UPDATE outbox SET given_up_at = NULL, attempts = 0, not_before = NULL
    WHERE sent_at IS NULL AND CASE WHEN CAST(:ids AS bigint[]) IS NULL THEN given_up_at IS NOT NULL
        ELSE id = ANY (:ids) END
    RETURNING id
    """
)
