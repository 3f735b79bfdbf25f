"""A short message through every channel, to see whether it arrives. Nothing of it is in the outbox."""

from __future__ import annotations

import uuid
from datetime import datetime

from core.errors import UsageError
from core.settings import Settings
from services.notify_channels import channels
from services.notify_mail import Mailer
from services.notify_message import Message, UndeliveredError


def send_tests(settings: Settings, *, mail: str | None, now: datetime) -> list[tuple[str, str | None]]:
    """Each channel's name, and what went wrong, or None.

    Args:
        settings: with the channels.
        mail: an address that gets one by SMTP.
        now: the moment.

    Raises:
        UsageError: there is no channel, or an address but no mail server.
    """
    if mail is not None and not settings.smtp_host:
        raise UsageError("there is no mail server: set NIGHTSHIFT_SMTP_HOST and NIGHTSHIFT_SMTP_FROM")
    found = channels(settings)
    if not found and mail is None:
        raise UsageError("there is no channel: set NIGHTSHIFT_NOTIFY_URLS, or give --mail an address")
    message = Message(uuid.uuid4().hex, "Nightshift: a test", f"This is a test, sent at {now:%Y-%m-%d %H:%M:%S} UTC.\n")
    results: list[tuple[str, str | None]] = []
    for channel in found:
        try:
            channel.send(message)
        except UndeliveredError as error:
            results.append((channel.name, str(error)))
        else:
            results.append((channel.name, None))
    if mail is not None:
        with Mailer(settings) as mailer:
            try:
                mailer.send(message, mail, now=now)
            except UndeliveredError as error:
                results.append(("mail", str(error)))
            else:
                results.append(("mail", None))
    return results
