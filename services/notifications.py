"""Notifications: what lies in the outbox reaches people, at least once, and never at the cost of a night.

Guarantees: a message is marked as sent in the transaction after the channel took it, for each channel by itself, so one
that fails does not repeat the others. A channel that is down is tried once in a pass, so that ten thousand mails do not
wait for it one by one. A pass ends soon after its budget. One message that cannot be made is not in the others' way.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import Engine

from core.database import session_scope
from core.errors import ServerUnreachableError
from core.log import get_logger, mask_secrets
from core.settings import Settings
from services.notify_channels import Channel, channels
from services.notify_limits import SendLimits
from services.notify_links import unsubscribe, unsubscribe_url
from services.notify_mail import Mailer
from services.notify_message import Message, UndeliveredError, one_line
from services.notify_outbox import Claimed, claim, digests_wait, give_up_stale, mark_delivered, mark_failed, put_back
from services.notify_texts import ADMIN_KINDS, USER_KINDS, admin_message, user_message
from services.tick import record_run

__all__ = ["Notifier", "Sent", "retry_delay", "unsubscribe", "unsubscribe_url"]

log = get_logger(__name__)

PASS_SECONDS = 20.0
_LONGEST_WAIT = 3600.0
_LIMIT_PAUSE = timedelta(seconds=5)
_MAIL = "mail"


@dataclass(slots=True)
class Sent:
    """What a pass did: messages sent, failed for now, given up, and left for later because of a limit.

    `night_first`: it left digests, because a night runs.
    """

    sent: int = 0
    failed: int = 0
    given_up: int = 0
    limited: int = 0
    night_first: bool = False

    def summary(self) -> str:
        """For the schedule's record."""
        counts = {"sent": self.sent, "failed": self.failed, "given up": self.given_up, "left for later": self.limited}
        words = [f"{count} {name}" for name, count in counts.items() if count]
        return ", ".join(words + ["digests wait for a night"] * self.night_first) or "nothing to do"


def retry_delay(attempt: int, first: float, jitter: float) -> timedelta:
    """How long to wait after the failed attempt (from 1): twice as long each time, up to an hour.

    Args:
        attempt: the one that failed.
        first: seconds after the first.
        jitter: 0 to 1; up to a fifth is added, so that what failed together is not tried together.
    """
    return timedelta(seconds=min(first * 2.0 ** min(max(attempt, 1) - 1, 32), _LONGEST_WAIT) * (1 + jitter / 5))


class Notifier:
    """Sends for one worker process. Nothing is connected before the first pass."""

    def __init__(self, engine: Engine, settings: Settings, redis_url: str, clock: Callable[[], datetime]) -> None:
        self._engine = engine
        self._settings = settings
        self._redis_url = redis_url
        self._clock = clock
        self._limits: SendLimits | None = None

    def close(self) -> None:
        """Close the connections to Redis."""
        if self._limits is not None:
            self._limits.close()
            self._limits = None

    def deliver(self, *, seconds: float = PASS_SECONDS) -> Sent:
        """Send what is due, for about so many seconds, and write down how it went.

        Raises:
            UsageError: a setting is malformed.
            ServerUnreachableError: Redis is away.
        """
        try:
            sent = self._pass(time.monotonic() + seconds)
        except Exception as error:
            reason = mask_secrets(f"{type(error).__name__}: {error}")
            record_run(self._engine, "notifications", now=self._clock(), error=reason)
            raise
        record_run(self._engine, "notifications", now=self._clock(), result=sent.summary())
        return sent

    def _pass(self, deadline: float) -> Sent:
        if self._limits is None:
            self._limits = SendLimits(self._settings, self._redis_url)
        admins = channels(self._settings)
        with session_scope(self._engine) as session:
            sent = Sent(given_up=give_up_stale(session, now=self._clock()))
        with Mailer(self._settings) as mailer:
            _Pass(self._engine, self._settings, self._clock, self._limits, admins, mailer, sent, deadline).run()
        return sent


class _Pass:
    """One pass: claims, sends, marks. `down` names the channels that took nothing in it."""

    def __init__(
        self, engine: Engine, settings: Settings, clock: Callable[[], datetime], limits: SendLimits,
        admins: list[Channel], mailer: Mailer, sent: Sent, deadline: float,
    ) -> None:  # fmt: skip
        self._engine = engine
        self._settings = settings
        self._clock = clock
        self._limits = limits
        self._admins = admins
        self._mailer = mailer
        self._sent = sent
        self._deadline = deadline
        self._down: set[str] = set()

    def run(self) -> None:
        """Send until nothing is due, a limit is reached, or time is up."""
        while time.monotonic() < self._deadline and (kinds := self._kinds()):
            now = self._clock()
            # Whoever still sends after the hard limit is killed.
            dead_at = now + timedelta(seconds=self._settings.hard_time_limit)
            with session_scope(self._engine) as session:
                message = claim(session, kinds, now=now, dead_at=dead_at)
            if message is None:
                with session_scope(self._engine) as session:
                    self._sent.night_first = "digest" in kinds and digests_wait(session, now=now)
                return
            try:
                room = self._limits.take()
            except ServerUnreachableError:
                self._put_back(message, timedelta(0))
                raise
            if not room:
                self._put_back(message, _LIMIT_PAUSE)
                return
            self._send(message)

    def _kinds(self) -> tuple[str, ...]:
        """The kinds for which there is a channel that is not down."""
        admins = ADMIN_KINDS if any(channel.id not in self._down for channel in self._admins) else ()
        mail = bool(self._settings.smtp_host) and _MAIL not in self._down
        return admins + (() if not mail else USER_KINDS if self._settings.sends_digests else USER_KINDS[:1])

    def _send(self, message: Claimed) -> None:
        try:
            if message.kind in ADMIN_KINDS:
                self._to_admins(message)
            else:
                self._to_user(message)
        except UndeliveredError as error:
            self._failed(message, error)
        except ServerUnreachableError:
            self._put_back(message, timedelta(0))
            raise
        except Exception as error:
            log.exception("notification not made", id=message.id, kind=message.kind)
            self._failed(message, UndeliveredError(f"it cannot be made: {type(error).__name__}"))

    def _to_admins(self, message: Claimed) -> None:
        with session_scope(self._engine) as session:
            text = admin_message(session, message, self._settings)
        missing = [channel for channel in self._admins if channel.id not in message.delivered]
        failures: list[UndeliveredError] = []
        for channel in missing:
            try:
                self._to_channel(channel, text)
            except UndeliveredError as error:
                failures.append(error)
            else:
                self._mark(message, channel.id, last=channel is missing[-1] and not failures)
        if failures:
            # One that was tried counts as an attempt.
            raise min(failures, key=lambda error: error.untried)
        if not missing:
            # The channel that lacked it is none any more.
            self._mark(message, self._admins[0].id, last=True)
        self._sent.sent += 1

    def _to_channel(self, channel: Channel, text: Message) -> None:
        if channel.id in self._down:
            raise UndeliveredError(f"{channel.name}: it took nothing just before", untried=True)
        if time.monotonic() > self._deadline:
            raise UndeliveredError(f"{channel.name}: no time was left for it", untried=True)
        try:
            channel.send(text)
        except UndeliveredError as error:
            if error.down:
                self._down.add(channel.id)
            raise

    def _to_user(self, message: Claimed) -> None:
        wait = self._limits.wait_of(int(message.payload["user"]))
        if wait is not None:
            self._put_back(message, wait)
            return
        with session_scope(self._engine) as session:
            mail, address = user_message(session, message, self._settings)
        try:
            self._mailer.send(mail, address, now=self._clock())
        except UndeliveredError as error:
            if error.down:
                self._down.add(_MAIL)
            raise
        self._mark(message, _MAIL, last=True)
        self._sent.sent += 1

    def _mark(self, message: Claimed, channel: str, *, last: bool) -> None:
        with session_scope(self._engine) as session:
            mark_delivered(session, message, channel, last=last, now=self._clock())

    def _put_back(self, message: Claimed, wait: timedelta) -> None:
        with session_scope(self._engine) as session:
            put_back(session, message, until=self._clock() + wait)
        self._sent.limited += 1

    def _failed(self, message: Claimed, error: UndeliveredError) -> None:
        delay = retry_delay(message.attempt, self._settings.notify_retry_seconds, random.random())  # noqa: S311 - jitter
        if error.untried:
            self._put_back(message, delay)
            return
        now = self._clock()
        final = error.final or message.attempt >= self._settings.notify_attempts
        reason = one_line(error, 500)
        with session_scope(self._engine) as session:
            mark_failed(session, message, reason, retry_at=None if final else now + delay, now=now)
        if final:
            self._sent.given_up += 1
        else:
            self._sent.failed += 1
        log.warning("notification not sent", id=message.id, kind=message.kind, attempt=message.attempt, final=final,
                    reason=reason)  # fmt: skip
