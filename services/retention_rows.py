"""Rows that are of no use any more, deleted a few thousand at a time: each part is a commit, and nobody waits for it.

Guarantees: what is not finished is never deleted, nor what others still ask for: the newest window of a source and the
last days for which its closes were asked, from which planning goes on.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Connection, Engine, text

from core.settings import Settings

CHUNK_ROWS = 20_000


@dataclass(frozen=True, slots=True)
class Expiry:
    """Rows of a table that end by `before`.

    Attributes:
        old: the SQL condition on `t`, with `:before`.
        key: the columns that tell rows apart.
    """

    table: str
    key: str
    old: str
    before: datetime

    def count(self, connection: Connection) -> int:
        """How many there are."""
        query = text(f"SELECT count(*) FROM {self.table} t WHERE {self.old}")  # noqa: S608 (names of ours)
        return int(connection.execute(query, {"before": self.before}).scalar_one())

    def delete(self, engine: Engine) -> Iterator[int]:
        """Delete them part by part, each in a transaction of its own; yields how many each part was."""
        statement = text(
            f"DELETE FROM {self.table} WHERE ({self.key}) IN"  # noqa: S608 (names of ours)
            f" (SELECT {self.key} FROM {self.table} t WHERE {self.old} LIMIT :rows)"
        )
        values: dict[str, Any] = {"before": self.before, "rows": CHUNK_ROWS}
        while True:
            with engine.begin() as connection:
                deleted = connection.execute(statement, values).rowcount
            if deleted:
                yield deleted
            if deleted < CHUNK_ROWS:
                return


def expiries(now: datetime, settings: Settings) -> list[Expiry]:
    """What there is to delete at `now`."""
    windows = now - timedelta(days=settings.price_fill_days + settings.keep_window_days)
    return [
        Expiry("outbox", "id", _OUTBOX, now - timedelta(days=settings.keep_outbox_days)),
        Expiry("price_windows", "source, starts_at", _WINDOWS, windows),
        Expiry("price_chunks", "id", _CHUNKS, windows),
        Expiry(
            "portfolio_revisions",
            "run_id, simulation_id",
            _REVISIONS,
            now - timedelta(days=settings.keep_revision_days),
        ),
    ]


# Written in order of their time, so the key says where to stop; what is older and still pending are few.
_OUTBOX = """
t.id <= coalesce((SELECT id FROM outbox WHERE created_at >= :before ORDER BY id LIMIT 1), 9223372036854775807)
    AND (t.sent_at < :before OR t.given_up_at < :before)
"""
_WINDOWS = """
t.starts_at < :before AND t.status <> 'planned'
    AND t.starts_at < (SELECT max(n.starts_at) FROM price_windows n WHERE n.source = t.source)
    AND t.starts_at < coalesce((
        SELECT max(n.starts_at) FROM price_windows n WHERE n.source = t.source AND n.status = 'done'
    ), t.starts_at + interval '1 second')
"""
_CHUNKS = """
t.last < :before AND t.status IN ('done', 'failed') AND t.first < (
    SELECT max(n.first) FROM price_chunks n WHERE n.source = t.source AND n.kind = t.kind
)
"""
_REVISIONS = """
t.run_id IN (
    SELECT id FROM runs WHERE kind = 'reprocess' AND status NOT IN ('planned', 'running') AND finished_at < :before
)
"""
