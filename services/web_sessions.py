"""Logins that last: random tokens, of which the database knows a hash only, that end by themselves.

Guarantees: a session ends NIGHTSHIFT_WEB_SESSION_HOURS after the login, or after NIGHTSHIFT_WEB_IDLE_MINUTES in which
nobody asked for a page, or when it is ended, whatever cookie somebody still has. Whoever reads the database cannot act
as anybody: neither token nor CSRF token can be computed from it.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import text
from sqlalchemy.orm import Session

from core.settings import Settings
from services.operators import Account

_TOKEN = re.compile(r"[A-Za-z0-9_-]{43}")
# So that a page does not cost a write.
_SEEN_EVERY = timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class Found:
    """Whether there is any account at all, and whose session it is; None: it is nobody's, or over."""

    accounts: bool
    account: Account | None


def new_token() -> str:
    """256 random bits."""
    return secrets.token_urlsafe(32)


def csrf_token(token: str) -> str:
    """What the forms of this token's session carry: without the token nobody can make it."""
    return hmac.digest(token.encode(), b"nightshift csrf", hashlib.sha256).hex()


def begin_session(session: Session, account: Account, *, now: datetime, settings: Settings) -> str:
    """Log in: a token that nobody has seen before. Sessions that are over are cleared away."""
    token = new_token()
    expires = now + timedelta(hours=settings.web_session_hours)
    session.execute(_CLEAR, {"now": now})
    session.execute(_BEGIN, {"hash": _hash(token), "operator": account.id, "now": now, "expires": expires})
    return token


def find_session(session: Session, token: str, *, now: datetime, settings: Settings, touch: bool = True) -> Found:
    """Whose session it is. `touch`: somebody asked for it, so that it is not idle."""
    known = bool(_TOKEN.fullmatch(token))
    idle_since = now - timedelta(minutes=settings.web_idle_minutes)
    values = {"hash": _hash(token) if known else "", "now": now, "idle": idle_since}
    row = session.execute(_FIND, values).one()
    if row.id is None:
        return Found(row.accounts, None)
    if touch and now - row.seen_at >= _SEEN_EVERY:
        session.execute(_SEEN, values)
    return Found(row.accounts, Account(row.id, row.name, row.role))


def end_session(session: Session, token: str) -> None:
    """Log out: from now on the token is nobody's."""
    session.execute(_END, {"hash": _hash(token)})


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


_BEGIN = text(
    """
    INSERT INTO web_sessions (token_hash, operator_id, created_at, seen_at, expires_at)
    VALUES (:hash, :operator, :now, :now, :expires)
    """
)
_FIND = text(
    """
    SELECT a.accounts, o.id, o.name, o.role, s.seen_at
    FROM (SELECT EXISTS (SELECT 1 FROM operators) AS accounts) AS a
    LEFT JOIN web_sessions s ON s.token_hash = :hash AND s.expires_at > :now AND s.seen_at > :idle
    LEFT JOIN operators o ON o.id = s.operator_id
    """
)
_SEEN = text("UPDATE web_sessions SET seen_at = :now WHERE token_hash = :hash")
_END = text("DELETE FROM web_sessions WHERE token_hash = :hash")
_CLEAR = text("DELETE FROM web_sessions WHERE expires_at <= :now")
