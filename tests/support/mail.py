"""A mail server and a webhook on this machine: they keep what they are sent, and fail, stall and drop when told to."""

from __future__ import annotations

import asyncio
import email
import json
import socket
import ssl
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email import policy
from email.message import EmailMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult, Envelope, Session

Answer = Literal["500", "stall", "drop"]
PATIENT = 60
PASSWORD = "smtp-canary-password"  # noqa: S105 - of a server that lives as long as a test


@dataclass
class Postbox:
    """What came, as (recipients, mail). `refuse` maps an address to the server's answer.

    So many mails as `stalls` says are neither taken nor refused for as long as the sender waits; `stalled` counts them.
    """

    port: int = 0
    mails: list[tuple[list[str], EmailMessage]] = field(default_factory=list)
    refuse: dict[str, str] = field(default_factory=dict)
    connections: int = 0
    stalls: int = 0
    stalled: int = 0

    def to(self, address: str) -> list[EmailMessage]:
        """The mails to an address."""
        return [mail for recipients, mail in self.mails if address in recipients]

    async def handle_EHLO(  # noqa: N802 - aiosmtpd's name
        self, _server: object, session: Session, _envelope: Envelope, hostname: str, responses: list[str]
    ) -> list[str]:
        session.host_name = hostname
        self.connections += 1
        return responses

    async def handle_RCPT(  # noqa: N802 - aiosmtpd's name
        self, _server: object, _session: Session, envelope: Envelope, address: str, _options: list[str]
    ) -> str:
        if address in self.refuse:
            return self.refuse[address]
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, _server: object, _session: Session, envelope: Envelope) -> str:  # noqa: N802
        assert isinstance(envelope.content, bytes)
        if self.stalls:
            self.stalls -= 1
            self.stalled += 1
            # Ended with the connection.
            await asyncio.sleep(3600)
        mail = email.message_from_bytes(envelope.content, policy=policy.default)
        assert isinstance(mail, EmailMessage)
        self.mails.append((list(envelope.rcpt_tos), mail))
        return "250 kept"


def _login(_server: object, _session: object, _envelope: object, _mechanism: str, data: Any) -> AuthResult:
    return AuthResult(handled=False, success=data.password == PASSWORD.encode())


@contextmanager
def postbox(tls: ssl.SSLContext | None = None) -> Iterator[Postbox]:
    """A mail server; with `tls` it demands STARTTLS and a login."""
    box = Postbox()
    secure: dict[str, Any] = {}
    if tls is not None:
        secure = {
            "tls_context": tls, "require_starttls": True, "authenticator": _login, "auth_required": True,
        }  # fmt: skip
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    controller = Controller(box, hostname="127.0.0.1", port=port, **secure)
    controller.start()
    box.port = port
    try:
        yield box
    finally:
        controller.stop()


@dataclass(frozen=True, slots=True)
class Call:
    """One request of the webhook: its idempotency key and its document."""

    key: str
    body: dict[str, Any]


class Hook:
    """A webhook: it keeps whatever arrives, and answers 200 unless `answers` has another for its turn.

    `calls` are those that arrived, `taken` those of them that it answered with 200.
    """

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.taken: list[Call] = []
        self.answers: deque[Answer] = deque()
        self.release = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    @property
    def url(self) -> str:
        """As Apprise writes it, with the seconds that it waits for an answer."""
        return f"json://127.0.0.1:{self._server.server_address[1]}/canary-path?rto={PATIENT}"

    @property
    def impatient_url(self) -> str:
        """The same, where whatever takes longer than a second has failed."""
        return self.url.replace(f"rto={PATIENT}", "rto=1")

    def __enter__(self) -> Hook:  # noqa: PYI034 - nobody derives from it
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.release.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def keys(self) -> list[str]:
        """The idempotency keys of all calls."""
        return [call.key for call in self.calls]

    def _handler(self) -> Callable[..., BaseHTTPRequestHandler]:
        hook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                call = Call(self.headers["X-Idempotency-Key"], body)
                hook.calls.append(call)
                answer = hook.answers.popleft() if hook.answers else "200"
                if answer == "stall":
                    hook.release.wait(60)
                if answer in {"stall", "drop"}:
                    self.connection.shutdown(socket.SHUT_RDWR)
                    return
                if answer == "200":
                    hook.taken.append(call)
                self.send_response(int(answer))
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Tests look at the calls."""

        return Handler
