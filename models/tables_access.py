"""Who may look and act on the status page: accounts, their sessions, and the trail of what everybody did.

No password and no token is here: of a password there is an argon2 hash, of a session's token a SHA-256. The trail names
people and not accounts, so that it outlives them.
"""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import CheckConstraint, ForeignKey, Identity, Index, func
from sqlalchemy.orm import Mapped, mapped_column

from models.base import Base, Big, Json, one_of

ROLES = ("viewer", "operator")
RESULTS = ("done", "refused", "failed")


class Operator(Base):
    """An account of the status page. A viewer looks, an operator acts, too."""

    __tablename__ = "operators"
    __table_args__ = (CheckConstraint(one_of("role", ROLES), name="role"),)

    id: Mapped[Big] = mapped_column(Identity(), primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    role: Mapped[str]
    password_hash: Mapped[str]
    created_at: Mapped[datetime] = mapped_column(server_default=func.now())
    password_set_at: Mapped[datetime] = mapped_column(server_default=func.now())


class WebSession(Base):
    """A login that lasts. It goes with its account; `token_hash` is hexadecimal."""

    __tablename__ = "web_sessions"
    __table_args__ = (
        Index("ix_web_sessions_operator_id", "operator_id"),
        Index("ix_web_sessions_expires_at", "expires_at"),
    )

    token_hash: Mapped[str] = mapped_column(primary_key=True)
    operator_id: Mapped[Big] = mapped_column(ForeignKey("operators.id", ondelete="CASCADE"))
    created_at: Mapped[datetime]
    seen_at: Mapped[datetime]
    expires_at: Mapped[datetime]


class AuditEntry(Base):
    """Something that somebody did, or was not allowed to do, and what came of it.

    Attributes:
        who: the account's name; NULL: nobody was logged in, or the name is that of no account.
        address: from where; NULL: from the command line.
        target: what it was about, e.g. `run 7`.
        detail: what was asked for.
        error: why it was refused or failed.
    """

    __tablename__ = "audit_trail"
    __table_args__ = (CheckConstraint(one_of("result", RESULTS), name="result"),)

    id: Mapped[Big] = mapped_column(Identity(), primary_key=True)
    at: Mapped[datetime]
    who: Mapped[str | None]
    address: Mapped[str | None]
    action: Mapped[str]
    target: Mapped[str | None]
    detail: Mapped[Json | None]
    result: Mapped[str]
    error: Mapped[str | None]
