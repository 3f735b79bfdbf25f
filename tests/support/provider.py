"""A provider of prices on this machine: it serves what it is given, plays what real ones do, and writes down who asked.

    with Provider() as server:
        server.serve("/latest", b"{...}")
        server.fault("/latest", "429", retry_after=1)

A fault is used up by one request, in the order in which the faults of a path were put; path "*" is any.
"""

from __future__ import annotations

import os
import socket
import socketserver
import struct
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Literal, Self, get_args
from urllib.parse import parse_qsl, urlsplit

Body = bytes | tuple[int, bytes] | tuple[int, bytes, Mapping[str, str]]
Handler = Callable[[dict[str, str]], Body]
Fault = Literal[
    "429", "418", "500", "502", "503", "truncated", "html", "slow", "endless", "redirect",
    "redirect-elsewhere", "redirect-loop", "length-too-long", "length-too-short", "reset", "reset-in-body", "no-answer",
    "bad-gzip",
]  # fmt: skip
FAULTS: tuple[Fault, ...] = get_args(Fault)
HTML = b"<!doctype html><html><head><title>Just a moment...</title></head><body>Checking</body></html>"
_DATE = "Wed, 21 Oct 2026 07:28:00 GMT"


@dataclass(frozen=True, slots=True)
class Request:
    """One request: its moment on the monotonic clock, and what was asked; header names are lower case."""

    at: float
    path: str
    query: dict[str, str]
    headers: dict[str, str]


@dataclass(frozen=True, slots=True)
class _Planned:
    fault: Fault
    options: Mapping[str, object] = field(default_factory=dict)


class Provider:
    """The server: one thread a connection, on a port of the system's choice, from `__enter__` to `__exit__`."""

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self._bodies: dict[str, Body | Handler] = {}
        self._faults: defaultdict[str, deque[_Planned]] = defaultdict(deque)
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._server = _Server(("127.0.0.1", 0), _Connection)
        self._server.provider = self
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    @property
    def url(self) -> str:
        """Without a slash at its end."""
        host, port = self._server.server_address[:2]
        return f"http://{host!s}:{port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        self._stop.set()
        self._server.shutdown()
        self._server.end_connections()
        self._server.server_close()
        self._thread.join()

    def serve(self, path: str, body: Body | Handler) -> None:
        """From now on: the body, with a status and headers or without; or what the handler makes of the query."""
        with self._lock:
            self._bodies[path] = body

    def fault(self, path: str, fault: Fault, *, times: int = 1, **options: object) -> None:
        """The next requests of the path go wrong.

        Options: `retry_after` of a status, a number or the text of the header; `body` of an error; `to` of a redirect;
        `gap`, the seconds between two bytes that are slow.
        """
        with self._lock:
            self._faults[path].extend(_Planned(fault, options) for _ in range(times))

    def asked(self, path: str) -> list[Request]:
        """The requests of this path so far."""
        with self._lock:
            return [request for request in self.requests if request.path == path]

    def _next(self, request: Request) -> tuple[Body | Handler, _Planned | None]:
        with self._lock:
            self.requests.append(request)
            missing = (404, b'{"error":"not found"}')
            planned = self._faults[request.path] or self._faults["*"]
            return self._bodies.get(request.path, missing), planned.popleft() if planned else None


class _Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    # server_close waits for the threads of connections.
    block_on_close = True
    request_queue_size = 128
    provider: Provider

    def __init__(self, address: tuple[str, int], handler: type[socketserver.BaseRequestHandler]) -> None:
        super().__init__(address, handler)
        self._open: set[socket.socket] = set()

    def process_request_thread(self, request: socket.socket, client_address: object) -> None:  # type: ignore[override]
        self._open.add(request)
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._open.discard(request)

    def end_connections(self) -> None:
        for connection in list(self._open):
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that leaves in the middle is what many tests do; anything else is shown by the test that waits."""


class _Connection(socketserver.StreamRequestHandler):
    """Answers the requests of one connection, one after the other, until it is told to close it."""

    server: _Server
    disable_nagle_algorithm = True

    def handle(self) -> None:
        while not self.server.provider._stop.is_set():
            request = self._request()
            if request is None or not self._answer(request):
                return

    def _request(self) -> Request | None:
        line = self.rfile.readline(65_536).split()
        if len(line) != 3:
            return None
        headers = {}
        while (header := self.rfile.readline(65_536).decode("latin-1").rstrip("\r\n")) != "":
            name, _, value = header.partition(":")
            headers[name.strip().lower()] = value.strip()
        target = urlsplit(line[1].decode("latin-1"))
        return Request(time.monotonic(), target.path, dict(parse_qsl(target.query)), headers)

    def _answer(self, request: Request) -> bool:
        """Whether the connection may serve another request."""
        body, planned = self.server.provider._next(request)
        if callable(body):
            body = body(request.query)
        status, content, headers = (*body, {})[:3] if isinstance(body, tuple) else (200, body, {})
        if planned is None:
            self._send(status, content, headers)
            return True
        return self._play(planned, request, content)

    def _play(self, planned: _Planned, request: Request, content: bytes) -> bool:
        fault, options = planned.fault, planned.options
        if fault.isdigit():
            headers = {} if "retry_after" not in options else {"Retry-After": str(options["retry_after"])}
            error = options.get("body", b'{"error":"status %s"}' % fault.encode())
            assert isinstance(error, bytes)
            self._send(int(fault), error, headers)
            return True
        if fault in _REDIRECTS:
            self._send(302, b"", {"Location": str(options.get("to", _REDIRECTS[fault] or request.path))})
            return True
        if fault == "html":
            self._send(200, HTML, {"Content-Type": "text/html"})
            return True
        if fault == "bad-gzip":
            self._send(200, b"\x1f\x8b\x08\x00" + content, {"Content-Encoding": "gzip"})
            return True
        getattr(self, "_play_" + fault.replace("-", "_"))(content, options)
        return False

    def _play_truncated(self, content: bytes, _options: Mapping[str, object]) -> None:
        # The length is that of what is sent: only the content tells.
        self._send(200, content[: len(content) // 2], {})

    def _play_length_too_long(self, content: bytes, _options: Mapping[str, object]) -> None:
        self._send(200, content, {}, length=len(content) + 100)

    def _play_length_too_short(self, content: bytes, _options: Mapping[str, object]) -> None:
        self._send(200, content, {}, length=len(content) - 10)

    def _play_no_answer(self, content: bytes, options: Mapping[str, object]) -> None:
        """The connection is closed in order."""

    def _play_reset(self, _content: bytes, _options: Mapping[str, object]) -> None:
        # With this option a close sends RST, unless a shutdown sends FIN before it, as the handler's end does.
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        os.close(self.connection.detach())

    def _play_reset_in_body(self, content: bytes, options: Mapping[str, object]) -> None:
        self._head(200, {}, len(content))
        self.wfile.write(content[: len(content) // 2])
        self._play_reset(content, options)

    def _play_slow(self, content: bytes, options: Mapping[str, object]) -> None:
        self._head(200, {}, len(content))
        gap = float(str(options.get("gap", 0.05)))
        for place in range(len(content)):
            self.wfile.write(content[place : place + 1])
            if self.server.provider._stop.wait(gap):
                return

    def _play_endless(self, _content: bytes, _options: Mapping[str, object]) -> None:
        self._head(200, {}, None)
        while not self.server.provider._stop.is_set():
            self.wfile.write(b'{"more":' * 4096)

    def _send(self, status: int, content: bytes, headers: Mapping[str, str], *, length: int | None = None) -> None:
        self._head(status, headers, len(content) if length is None else length)
        self.wfile.write(content)

    def _head(self, status: int, headers: Mapping[str, str], length: int | None) -> None:
        lines = {"Content-Type": "application/json", "Date": _DATE, **headers}
        if length is not None:
            lines["Content-Length"] = str(length)
        head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        self.wfile.write(f"HTTP/1.1 {status} Played\r\n{head}\r\n".encode("latin-1"))


_REDIRECTS: dict[str, str | None] = {
    "redirect": "/moved",
    "redirect-elsewhere": "http://localhost:9/elsewhere",
    "redirect-loop": None,
}
