"""How prices come in: which source knows which asset, what is fetched and when, what is held back, what alarms.

A window is five minutes of a source; a chunk is one message's part of what is to be fetched. As with batches, the rows
are the outbox of the messages, and that a window is fetched once is a constraint.
"""

from __future__ import annotations

from datetime import date, datetime

from sqlalchemy import CheckConstraint, ForeignKey, Identity, Index, UniqueConstraint, func, text
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Amount, Base, Big, IntArray, Json, Small, one_of

WINDOW_STATUSES = ("planned", "done", "failed", "filling", "filled")
WINDOW_OPEN = ("planned", "failed", "filling")
CHUNK_KINDS = ("live", "fill", "closes")
CHUNK_STATUSES = ("planned", "queued", "running", "done", "failed")
CHUNK_UNFINISHED = ("planned", "queued", "running")
HELD_KINDS = ("tick", "close")
HELD_STATUSES = ("held", "confirmed", "reverted", "superseded", "accepted", "rejected")


class AssetSource(Base):
    """A source that knows an asset, and what the source calls it."""

    __tablename__ = "asset_sources"
    __table_args__ = (UniqueConstraint("source", "code"),)

    source: Mapped[str] = mapped_column(primary_key=True)
    asset_id: Mapped[int] = mapped_column(ForeignKey("assets.id"), primary_key=True, autoincrement=False)
    code: Mapped[str]


class PriceWindow(Base):
    """Five minutes of a source: planned, then done or failed; a failed one is filled later from the source's history.

    `counts`: how many prices were refused or missing, by reason.
    """

    __tablename__ = "price_windows"
    __table_args__ = (
        Index("ix_price_windows_source_starts_at_open", "source", "starts_at",
              postgresql_where=text(one_of("status", WINDOW_OPEN))),
        CheckConstraint(one_of("status", WINDOW_STATUSES), name="status"),
    )  # fmt: skip

    source: Mapped[str] = mapped_column(primary_key=True)
    starts_at: Mapped[datetime] = mapped_column(primary_key=True)
    status: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    finished_at: Mapped[datetime | None]
    ticks: Mapped[int] = mapped_column(server_default=text("0"))
    held: Mapped[int] = mapped_column(server_default=text("0"))
    counts: Mapped[Json | None]
    error: Mapped[str | None]


class PriceChunk(Base):
    """Assets whose prices of `[first, last)` one message fetches from a source."""

    __tablename__ = "price_chunks"
    __table_args__ = (
        UniqueConstraint("source", "kind", "first", "seq"),
        Index("ix_price_chunks_status_unfinished", "status", postgresql_where=text(one_of("status", CHUNK_UNFINISHED))),
        CheckConstraint(one_of("kind", CHUNK_KINDS), name="kind"),
        CheckConstraint(one_of("status", CHUNK_STATUSES), name="status"),
        CheckConstraint("first < last", name="range"),
    )

    id: Mapped[Big] = mapped_column(Identity(), primary_key=True)
    source: Mapped[str]
    kind: Mapped[str]
    first: Mapped[datetime]
    last: Mapped[datetime]
    seq: Mapped[int]
    asset_ids: Mapped[IntArray]
    status: Mapped[str] = mapped_column(server_default=text("'planned'"))
    attempts: Mapped[Small] = mapped_column(server_default=text("0"))
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    not_before: Mapped[datetime | None]
    queued_at: Mapped[datetime | None]
    # Until then its worker may be at it; afterwards that worker is dead.
    lease_until: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    worker: Mapped[str | None]
    error: Mapped[str | None]


class LatestPrice(Base):
    """The newest accepted price of an asset, and how much it moves: what a next price is compared to.

    `variance` is that of the logarithmic return over a day, from recent prices; NULL: nothing is known yet.
    """

    __tablename__ = "latest_prices"

    asset_id: Mapped[int] = mapped_column(ForeignKey("assets.id"), primary_key=True, autoincrement=False)
    ts: Mapped[datetime]
    price: Mapped[Amount]
    source: Mapped[str]
    variance: Mapped[float | None]


class HeldPrice(Base):
    """A price that jumped too far to be believed at once: it waits for the next window, a second source or a person."""

    __tablename__ = "held_prices"
    __table_args__ = (
        UniqueConstraint("asset_id", "source", "kind", "ts"),
        Index("ix_held_prices_asset_id_held", "asset_id", postgresql_where=text("status = 'held'")),
        CheckConstraint(one_of("kind", HELD_KINDS), name="kind"),
        CheckConstraint(one_of("status", HELD_STATUSES), name="status"),
    )

    id: Mapped[Big] = mapped_column(Identity(), primary_key=True)
    asset_id: Mapped[int] = mapped_column(ForeignKey("assets.id"))
    source: Mapped[str]
    kind: Mapped[str]
    # Of a close: the beginning of its day.
    ts: Mapped[datetime]
    price: Mapped[Amount]
    reference: Mapped[Amount]
    # Millionths of the reference: how far it jumped, and how far it might have.
    jump_ppm: Mapped[Big]
    band_ppm: Mapped[Big]
    status: Mapped[str] = mapped_column(server_default=text("'held'"))
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    decided_at: Mapped[datetime | None]
    decided_by: Mapped[str | None]


class NightWait(Base):
    """A night that waits for its closes, and the assets whose closes it waits for."""

    __tablename__ = "night_waits"

    day: Mapped[date] = mapped_column(primary_key=True)
    since: Mapped[datetime]
    asset_ids: Mapped[IntArray]


class Alert(Base):
    """Something an operator should know of, from when it was raised until it was cleared; one at a time of a key."""

    __tablename__ = "alerts"
    __table_args__ = (Index("uq_alerts_key_active", "key", unique=True, postgresql_where=text("cleared_at IS NULL")),)

    id: Mapped[Big] = mapped_column(Identity(), primary_key=True)
    key: Mapped[str]
    kind: Mapped[str]
    detail: Mapped[str]
    raised_at: Mapped[datetime]
    cleared_at: Mapped[datetime | None]
