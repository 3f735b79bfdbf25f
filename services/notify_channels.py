"""The administrators' channels: mail, Slack, webhook and a hundred more, through Apprise.

Guarantees: no URL is logged or part of an error, for most of them are secrets. What is sent is text: a channel that
speaks HTML escapes it. Where a channel has headers of its own (webhooks, mail), `X-Idempotency-Key` is among them.
"""

from __future__ import annotations

import hashlib
import logging
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from core.errors import UsageError
from core.settings import Settings
from services.notify_message import Message, UndeliveredError

if TYPE_CHECKING:
    from apprise import NotifyBase

IDEMPOTENCY_HEADER = "X-Idempotency-Key"
# A comma may stand within a URL, between two recipients.
_BETWEEN = re.compile(r"[\s,]+(?=[A-Za-z][A-Za-z0-9+.-]*://)")
_STATUS = re.compile(r"\berror=(\d{3})\b")
# They log URLs, some of which are secrets, and addresses.
_TALKATIVE = ("apprise", "urllib3", "requests")


@dataclass(frozen=True, slots=True)
class Channel:
    """One of the URLs. `id` tells it from others, without saying what it is; `name` is for people."""

    id: str
    name: str
    url: str = field(repr=False)

    def send(self, message: Message) -> None:
        """Send it, in a few seconds.

        Raises:
            UndeliveredError: the channel did not take it.
        """
        import apprise  # noqa: PLC0415 - 30 MB that a worker of nights never needs

        plugin = _plugin(self.url)
        if plugin is None:
            raise UndeliveredError(f"{self.name}: not a URL that Apprise knows", down=True)
        headers: Any = getattr(plugin, "headers", None)
        if isinstance(headers, dict):
            headers[IDEMPOTENCY_HEADER] = message.key
        sender = apprise.Apprise()
        sender.add(plugin)
        # Its warnings are where the answer of a server stands.
        _hush(logging.WARNING)
        result = sender.notify(title=message.subject, body=message.text, body_format=apprise.NotifyFormat.TEXT)
        if not result:
            status = _STATUS.search(" ".join(entry.message for entry in result.logs()))
            answer = f"it answered {status.group(1)}" if status else "it did not answer, or refused"
            raise UndeliveredError(f"{self.name}: {answer}", down=True)


def channels(settings: Settings) -> list[Channel]:
    """The channels of NIGHTSHIFT_NOTIFY_URLS.

    Raises:
        UsageError: one of them is no URL that Apprise knows; by its number, for it may hold a secret.
    """
    secret = settings.notify_urls.get_secret_value().strip() if settings.notify_urls else ""
    found = []
    for number, url in enumerate(filter(None, _BETWEEN.split(secret.strip(", "))), start=1):
        if _plugin(url) is None:
            raise UsageError(f"NIGHTSHIFT_NOTIFY_URLS: number {number} is not a URL that Apprise knows")
        name = f"{url.partition('://')[0].lower()} (channel {number})"
        found.append(Channel(hashlib.sha256(url.encode()).hexdigest()[:12], name, url))
    return found


def _plugin(url: str) -> NotifyBase | None:
    import apprise  # noqa: PLC0415 - see above

    _hush(logging.CRITICAL)
    plugin = apprise.Apprise.instantiate(url, suppress_exceptions=True)
    return plugin if isinstance(plugin, apprise.NotifyBase) else None


def _hush(level: int) -> None:
    """Let nobody hear what they log, and nothing below `level` be logged at all."""
    for name in _TALKATIVE:
        logger = logging.getLogger(name)
        logger.setLevel(level)
        logger.propagate = False
        if not logger.handlers:
            # Without any, Python would write to stderr.
            logger.addHandler(logging.NullHandler())
