"""Accounts of the status page: made, removed and given passwords by whoever may use the command line.

Guarantees: a password is kept as an argon2id hash only; a name that is unknown takes as long to refuse as a wrong
password; an account that is removed, or gets another password, is logged out everywhere.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from sqlalchemy import text
from sqlalchemy.orm import Session

from core.errors import UsageError
from models.tables_access import ROLES

SHORTEST, LONGEST = 12, 200
_NAME = re.compile(r"[a-z0-9][a-z0-9._@-]{0,63}")
# The library's defaults are those of RFC 9106 for small machines: 64 MiB, three passes.
_hasher = PasswordHasher()


@dataclass(frozen=True, slots=True)
class OperatorView:
    """An account; `sessions`: how many logins of it last, `seen_at`: when it last showed up in one of them."""

    id: int
    name: str
    role: str
    created_at: datetime
    password_set_at: datetime
    sessions: int
    seen_at: datetime | None


@dataclass(frozen=True, slots=True)
class Account:
    """Who proved to be whom."""

    id: int
    name: str
    role: str


def add_operator(session: Session, name: str, role: str, password: str, *, now: datetime) -> int:
    """Make an account; its id.

    Raises:
        UsageError: the name or the role cannot be, the name is taken, or the password is too short or too long.
    """
    if not _NAME.fullmatch(name):
        raise UsageError(f"{name!a} cannot be a name: small letters, digits and . _ @ -, at most 64 of them")
    if role not in ROLES:
        raise UsageError(f"{role!a} is no role: {' or '.join(ROLES)}")
    values = {"name": name, "role": role, "hash": _hash(password), "now": now}
    made: int | None = session.execute(_ADD, values).scalar_one_or_none()
    if made is None:
        raise UsageError(f"there is an operator {name} already: nightshift operators list")
    return made


def set_password(session: Session, name: str, password: str, *, now: datetime) -> None:
    """Give the account another password, and end its sessions; UsageError as `add_operator`, or if there is none."""
    values = {"name": name, "hash": _hash(password), "now": now}
    operator_id = session.execute(_SET_PASSWORD, values).scalar_one_or_none()
    if operator_id is None:
        raise _unknown(name)
    session.execute(_END_SESSIONS, {"id": operator_id})


def remove_operator(session: Session, name: str) -> None:
    """Remove the account and its sessions; what it did stays in the audit trail. UsageError if there is none."""
    if session.execute(_REMOVE, {"name": name}).scalar_one_or_none() is None:
        raise _unknown(name)


def list_operators(session: Session, now: datetime) -> list[OperatorView]:
    """All accounts by name."""
    return [OperatorView(**row._asdict()) for row in session.execute(_LIST, {"now": now})]


def check_password(session: Session, name: str, password: str) -> Account | None:
    """The account, if it has this password. A hash of older parameters is renewed."""
    row = session.execute(_FIND, {"name": name}).one_or_none()
    try:
        _hasher.verify(row.password_hash if row else _nobody(), password[:LONGEST])
    except (VerificationError, InvalidHashError):
        return None
    if row is None or len(password) > LONGEST:
        return None
    if _hasher.check_needs_rehash(row.password_hash):
        session.execute(_RENEW, {"id": row.id, "hash": _hasher.hash(password)})
    return Account(row.id, row.name, row.role)


def is_operator(session: Session, name: str) -> bool:
    """Whether there is an account of this name."""
    return session.execute(_FIND, {"name": name}).one_or_none() is not None


def _hash(password: str) -> str:
    if not SHORTEST <= len(password) <= LONGEST:
        raise UsageError(f"a password has {SHORTEST} to {LONGEST} characters")
    return _hasher.hash(password)


@lru_cache(maxsize=1)
def _nobody() -> str:
    """A hash to compare with where there is no account, so that it takes as long."""
    return _hasher.hash("nobody")


def _unknown(name: str) -> UsageError:
    return UsageError(f"there is no operator {name!a}: nightshift operators list")


_ADD = text(
    """
    INSERT INTO operators (name, role, password_hash, created_at, password_set_at)
    VALUES (:name, :role, :hash, :now, :now) ON CONFLICT (name) DO NOTHING RETURNING id
    """
)
_SET_PASSWORD = text(
    "UPDATE operators SET password_hash = :hash, password_set_at = :now WHERE name = :name RETURNING id"
)
_RENEW = text("UPDATE operators SET password_hash = :hash WHERE id = :id")
_END_SESSIONS = text("DELETE FROM web_sessions WHERE operator_id = :id")
_REMOVE = text("DELETE FROM operators WHERE name = :name RETURNING id")
_FIND = text("SELECT id, name, role, password_hash FROM operators WHERE name = :name")
_LIST = text(
    """
    SELECT o.id, o.name, o.role, o.created_at, o.password_set_at,
        count(s.token_hash) FILTER (WHERE s.expires_at > :now) AS sessions, max(s.seen_at) AS seen_at
    FROM operators o LEFT JOIN web_sessions s ON s.operator_id = o.id
    GROUP BY o.id ORDER BY o.name
    """
)
