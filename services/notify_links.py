"""The link that ends mails to a user: signed, so that nobody ends another's, and good for ever, as mails are kept."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re

from sqlalchemy import text
from sqlalchemy.orm import Session

from core.errors import UsageError
from core.settings import Settings

_TOKEN = re.compile(r"([1-9][0-9]{0,18})-([A-Za-z0-9_-]{22})")


def unsubscribe_token(user_id: int, settings: Settings) -> str:
    """The user's token; UsageError without NIGHTSHIFT_NOTIFY_SECRET."""
    if settings.notify_secret is None:
        raise UsageError("NIGHTSHIFT_NOTIFY_SECRET is not set: links in mails cannot be signed")
    secret = settings.notify_secret.get_secret_value().encode()
    signature = hmac.digest(secret, f"nightshift unsubscribe {user_id}".encode(), hashlib.sha256)[:16]
    return f"{user_id}-{base64.urlsafe_b64encode(signature).decode().rstrip('=')}"


def unsubscribe_url(user_id: int, settings: Settings) -> str:
    """Where the status page takes it, by GET for people and by POST for mail programs (RFC 8058)."""
    return f"{settings.public_url.rstrip('/')}/unsubscribe?token={unsubscribe_token(user_id, settings)}"


def unsubscribe(session: Session, token: str, *, settings: Settings) -> int:
    """End the mails to the user of a token, as often as it is used; the user.

    Raises:
        UsageError: the token is not ours.
    """
    match = _TOKEN.fullmatch(token)
    user_id = int(match.group(1)) if match else 0
    # A token that is malformed takes as long as one that is wrong.
    if not hmac.compare_digest(unsubscribe_token(user_id, settings).encode(), token.encode()) or not match:
        raise UsageError("this link is damaged, or not ours")
    session.execute(text("UPDATE users SET notify = false WHERE id = :user AND notify"), {"user": user_id})
    return user_id
