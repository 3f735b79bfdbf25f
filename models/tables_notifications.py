"""What is to be sent, and who asked to be a user: the outbox, and the keys of registrations."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Identity, Index, func, text
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base, Big, Json, Small, TextArray


class OutboxMessage(Base):
    """A notification to be sent. `key` makes writing it idempotent.

    Attributes:
        not_before: not to be tried before; while it is being sent, the moment from which on its sender counts as dead.
        attempts: those begun.
        delivered: the channels that have it, where it goes to several.
        given_up_at: nobody tries any more; `error` says why.
    """

    __tablename__ = "outbox"
    __table_args__ = (
        Index("ix_outbox_id_unsent", "id", postgresql_where=text("sent_at IS NULL")),
        # Digests come last: a million of them must not stand before word of a failed night.
        Index(
            "ix_outbox_due",
            text("(kind = 'digest')"),
            "id",
            postgresql_where=text("sent_at IS NULL AND given_up_at IS NULL"),
        ),
    )

    id: Mapped[Big] = mapped_column(Identity(), primary_key=True)
    kind: Mapped[str]
    key: Mapped[str] = mapped_column(unique=True)
    payload: Mapped[Json]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    sent_at: Mapped[datetime | None]
    attempts: Mapped[Small] = mapped_column(server_default=text("0"))
    not_before: Mapped[datetime | None]
    error: Mapped[str | None]
    delivered: Mapped[TextArray] = mapped_column(server_default=text("'{}'"))
    given_up_at: Mapped[datetime | None]


class Registration(Base):
    """A request to make a user: the same key twice is the same request."""

    __tablename__ = "registrations"

    key: Mapped[str] = mapped_column(primary_key=True)
    user_id: Mapped[Big]
    simulation_id: Mapped[Big | None]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
