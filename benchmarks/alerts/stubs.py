"""What Nightshift talks to outside of its servers, on this machine: a provider of prices and a receiver of messages.

Each can be told to fail; then it answers 500, as servers in trouble do.
"""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self

SYMBOL, CODE = "TEST", "TESTUSDT"
"""The asset that the provider knows; no simulation holds it."""


class Stub:
    """Answers GET as Binance does and takes every POST. A context manager."""

    def __init__(self) -> None:
        self.fails = False
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    @property
    def address(self) -> str:
        """As `host:port`."""
        return f"127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        stub = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                prices = [{"symbol": CODE, "price": "100.00000000"}] if "ticker" in self.path else []
                self._answer(json.dumps(prices).encode())

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                self._answer(b"{}")

            def _answer(self, body: bytes) -> None:
                self.send_response(500 if stub.fails else 200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - http.server's signature
                """Nobody reads it."""

        return Handler
