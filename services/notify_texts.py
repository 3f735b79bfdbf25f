"""The texts: a template for each kind, filled with what the database says now.

Guarantees: whatever a user's name, a reason or an error holds appears as text: in HTML escaped, in a header and in
plain text on one line.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import date
from decimal import Decimal
from functools import lru_cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from sqlalchemy import text
from sqlalchemy.orm import Session

from core.log import mask_secrets
from core.settings import Settings
from services.notify_digests import PLOT_DAYS, digest_of
from services.notify_links import unsubscribe_url
from services.notify_mail import PICTURE_ID
from services.notify_message import Message, UndeliveredError, header_line, one_line
from services.notify_outbox import Claimed
from services.notify_plot import equity_png
from services.notify_runs import trouble_of

ADMIN_KINDS = ("run_finished", "day_missed", "alert_raised", "alert_cleared")
USER_KINDS = ("welcome", "digest")
_SHOWN_QUARANTINED = 10


def admin_message(session: Session, claimed: Claimed, settings: Settings) -> Message:
    """The text for administrators."""
    values: dict[str, Any] = {"payload": claimed.payload, "public_url": settings.public_url}
    if claimed.kind == "run_finished":
        values |= _run(session, int(claimed.payload["run"]))
        values |= {"trouble": trouble_of(claimed.payload), "late": claimed.payload.get("late_minutes")}
    subject, body = _text(claimed.kind, values)
    return Message(claimed.idempotency_key, subject, body)


def user_message(session: Session, claimed: Claimed, settings: Settings) -> tuple[Message, str]:
    """The mail to a user, and where it goes.

    Raises:
        UndeliveredError: for good: the user is gone, has no address, wants no mail, or has nothing to be told.
    """
    user = session.execute(_USER, {"user": claimed.payload["user"]}).one_or_none()
    if user is None or user.email is None:
        raise UndeliveredError("the user is gone, or has no address", final=True)
    values: dict[str, Any] = {"name": user.name, "public_url": settings.public_url}
    picture = unsubscribe = None
    if claimed.kind == "digest":
        if not user.notify:
            raise UndeliveredError("the user wants no mail any more", final=True)
        found = digest_of(session, user.id, date.fromisoformat(claimed.payload["day"]))
        if found is None:
            raise UndeliveredError("the user has nothing of that day any more", final=True)
        if len(found.history) > 1:
            picture = equity_png([float(equity) for _, equity in found.history])
        unsubscribe = unsubscribe_url(user.id, settings)
        values |= {"digest": found, "picture": picture and PICTURE_ID, "days": PLOT_DAYS, "unsubscribe": unsubscribe}
    subject, body = _text(claimed.kind, values)
    html = _environment().get_template(f"{claimed.kind}.html").render(values)
    return Message(claimed.idempotency_key, subject, body, html, picture, unsubscribe), user.email


def _text(kind: str, values: Mapping[str, Any]) -> tuple[str, str]:
    """The subject, which is a template's first line, and the text below it."""
    subject, _, body = _environment().get_template(f"{kind}.txt").render(values).partition("\n")
    return header_line(subject.removeprefix("Subject:")), body.strip() + "\n"


def _run(session: Session, run_id: int) -> dict[str, Any]:
    run = session.execute(_RUN, {"run": run_id}).one_or_none()
    values = {"run": run_id, "shown": _SHOWN_QUARANTINED}
    return {"run": run, "quarantine": session.execute(_QUARANTINE, values).all()}


@lru_cache(maxsize=1)
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("services", "templates"),
        autoescape=select_autoescape(["html"], default=False),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters: dict[str, Callable[..., str]] = {
        "line": lambda value: one_line(mask_secrets(str(value))),
        "amount": lambda value: f"{Decimal(value):,.2f}",
        "signed": lambda value: f"{Decimal(value):+,.2f}",
        "percent": lambda value: f"{value:+.2%}",
    }
    environment.filters.update(filters)
    return environment


_USER = text("SELECT id, name, email, notify FROM users WHERE id = :user")
_RUN = text("SELECT id, kind, day, status, users, reason, requested_by, error, quarantined FROM runs WHERE id = :run")
_QUARANTINE = text(
    "SELECT user_id, simulation_id, day, reason, detail FROM quarantine WHERE run_id = :run ORDER BY id LIMIT :shown"
)
