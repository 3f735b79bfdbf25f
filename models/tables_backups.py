"""What became of each backup: when it was made, how large it is, whether it was restored and found equal."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import CheckConstraint, Identity, Index
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base, Big, one_of

BACKUP_STATES = ("running", "done", "failed", "removed")


class Backup(Base):
    """A backup. The store says which exist; this table also which failed, and what a failed verification found.

    Attributes:
        place: the directory or bucket; without secrets.
        name: what the store calls it.
        bytes: of all its files as they are stored.
        error: why making it failed.
        verified_at: when it was last restored and found equal to what it was made from.
        verify_error: what the last verification found, NULL after one that found nothing.
    """

    __tablename__ = "backups"
    __table_args__ = (
        CheckConstraint(one_of("state", BACKUP_STATES), name="state"),
        Index("uq_backups_place_name", "place", "name", unique=True),
        Index("ix_backups_started_at", "started_at"),
    )

    id: Mapped[Big] = mapped_column(Identity(), primary_key=True)
    place: Mapped[str]
    name: Mapped[str]
    state: Mapped[str]
    started_at: Mapped[datetime]
    finished_at: Mapped[datetime | None]
    bytes: Mapped[Big | None]
    error: Mapped[str | None]
    verified_at: Mapped[datetime | None]
    verify_seconds: Mapped[float | None]
    verify_error: Mapped[str | None]
