"""How old the newest backup is, and the newest that was proven; from the table of backups."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import text
from sqlalchemy.orm import Session

from core.settings import Settings

_READ = text(
    """
    SELECT max(started_at) FILTER (WHERE state = 'done' OR state = 'removed') AS newest,
        max(started_at) FILTER (WHERE verified_at IS NOT NULL) AS proven,
        count(*) FILTER (WHERE state = 'failed') AS failed,
        count(*) FILTER (WHERE state = 'done' AND verify_error IS NOT NULL) AS damaged
    FROM backups
    """
)
_NEWEST = text(
    """
    SELECT bytes, extract(epoch FROM finished_at - started_at)::float AS seconds, verify_seconds
    FROM backups WHERE state = 'done' ORDER BY started_at DESC LIMIT 1
    """
)


@dataclass(frozen=True, slots=True)
class BackupMetrics:
    """Backups. None: there is none.

    `interval`: seconds between two that are made by themselves, None if none are. `newest`, `proven`: the moment of the
    newest backup's snapshot, and of the newest that was restored and found equal. `size`, `seconds`, `verify_seconds`:
    of the newest. `failed`: that ever did. `damaged`: that are kept and did not stand their verification.
    """

    interval: float | None
    newest: datetime | None
    proven: datetime | None
    size: int | None
    seconds: float | None
    verify_seconds: float | None
    failed: int
    damaged: int


def backup_metrics(session: Session, settings: Settings) -> BackupMetrics:
    """All of them."""
    row = session.execute(_READ).one()
    newest = session.execute(_NEWEST).one_or_none()
    size, seconds, verify_seconds = newest if newest is not None else (None, None, None)
    interval = settings.backup_hours * 3600 if settings.backup_to else None
    return BackupMetrics(interval, row.newest, row.proven, size, seconds, verify_seconds, row.failed, row.damaged)
