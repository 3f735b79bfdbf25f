"""Mails to users by SMTP: one connection for many, with TLS, and a Message-ID that is the same in every attempt.

Guarantees: a password goes over TLS with a verified certificate, or to this machine. An address is one address and a
header one line, whatever a user is called. No error quotes the password or the user's address.
"""

from __future__ import annotations

import smtplib
import ssl
from datetime import datetime
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime, parseaddr
from types import TracebackType
from typing import Self

from core.log import mask_secrets
from core.settings import Settings
from services.notify_channels import IDEMPOTENCY_HEADER
from services.notify_message import Message, UndeliveredError, header_line, one_line
from services.users import is_address

_SECONDS = 8.0  # for each answer of the server
_PER_CONNECTION = 100  # servers end a connection that brings more
# A link that is folded is no link any more. All our headers are ASCII, which is what makes this allowed.
_WHOLE_LINES = SMTP.clone(max_line_length=998)
PICTURE_ID = "picture"


class Mailer:
    """A connection to the server, made when the first mail is sent; `close` ends it."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._smtp: smtplib.SMTP | None = None
        self._sent = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the connection, if there is one."""
        smtp, self._smtp, self._sent = self._smtp, None, 0
        if smtp is not None:
            try:
                smtp.quit()
            except (smtplib.SMTPException, OSError):
                smtp.close()

    def send(self, message: Message, to: str, *, now: datetime) -> None:
        """Send a mail to one address.

        Raises:
            UndeliveredError: the server is away, or refuses the mail; for good if it says so.
        """
        if not is_address(to):
            raise UndeliveredError("the user's address is malformed", final=True)
        mail = compose(message, sender=self._settings.smtp_from, to=to, now=now)
        if self._sent >= _PER_CONNECTION:
            self.close()
        kept = self._smtp is not None
        try:
            self._submit(mail, to, again=kept)
        except UndeliveredError:
            raise
        except smtplib.SMTPRecipientsRefused as error:
            code, answer = next(iter(error.recipients.values()), (0, b""))
            raise self._refused(code, answer, to) from None
        except smtplib.SMTPAuthenticationError as error:
            self.close()
            raise UndeliveredError(f"the mail server refused the login ({error.smtp_code})", down=True) from None
        except smtplib.SMTPResponseException as error:
            self.close()
            raise self._refused(error.smtp_code, error.smtp_error, to) from None
        except (smtplib.SMTPException, OSError) as error:
            self.close()
            reason = one_line(mask_secrets(f"{type(error).__name__}: {error}"))
            raise UndeliveredError(f"the mail server did not take it: {reason}", down=True) from None

    def _submit(self, mail: EmailMessage, to: str, *, again: bool) -> None:
        try:
            if self._smtp is None:
                self._smtp = self._connect()
            self._smtp.send_message(mail, self._settings.smtp_from, [to])
            self._sent += 1
        except smtplib.SMTPServerDisconnected:
            self.close()
            if not again:
                raise
            # The server ended a connection that it had had for a while.
            self._submit(mail, to, again=False)

    def _connect(self) -> smtplib.SMTP:
        settings = self._settings
        context = ssl.create_default_context()
        smtp: smtplib.SMTP
        if settings.smtp_tls == "tls":
            smtp = smtplib.SMTP_SSL(settings.smtp_host, settings.smtp_port, timeout=_SECONDS, context=context)
        else:
            smtp = smtplib.SMTP(settings.smtp_host, settings.smtp_port, timeout=_SECONDS)
        try:
            if settings.smtp_tls == "starttls":
                smtp.starttls(context=context)
            if settings.smtp_user and settings.smtp_password is not None:
                smtp.login(settings.smtp_user, settings.smtp_password.get_secret_value())
        except BaseException:
            # A time limit's exception too: nobody else knows of this connection.
            smtp.close()
            raise
        return smtp

    @staticmethod
    def _refused(code: int, answer: bytes | str, to: str) -> UndeliveredError:
        said = answer.decode("utf-8", "replace") if isinstance(answer, bytes) else answer
        said = one_line(mask_secrets(said.replace(to, "…")), 100)
        # 421: the server is about to close; another 4xx is about this mail, and may be another tomorrow.
        return UndeliveredError(f"the mail server answered {code} {said}", final=code >= 500, down=code == 421)


def compose(message: Message, *, sender: str, to: str, now: datetime) -> EmailMessage:
    """The mail: text, and beside it HTML with its picture."""
    address = parseaddr(sender)[1]
    mail = EmailMessage(_WHOLE_LINES)
    mail["From"] = Address("Nightshift", addr_spec=address)
    mail["To"] = Address(addr_spec=to)
    mail["Subject"] = header_line(message.subject)
    mail["Date"] = format_datetime(now)
    mail["Message-ID"] = f"<{message.key}@{address.rpartition('@')[2]}>"
    mail[IDEMPOTENCY_HEADER] = message.key
    mail["Auto-Submitted"] = "auto-generated"
    if message.unsubscribe is not None:
        mail["List-Unsubscribe"] = f"<{message.unsubscribe}>"
        mail["List-Unsubscribe-Post"] = "List-Unsubscribe=One-Click"
    mail.set_content(message.text)
    if message.html is not None:
        mail.add_alternative(message.html, subtype="html")
        if message.picture is not None:
            page = mail.get_payload()[-1]  # type: ignore[index]
            page.add_related(message.picture, "image", "png", cid=f"<{PICTURE_ID}>")  # type: ignore[union-attr]
    return mail
