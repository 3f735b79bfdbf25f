"""Servers behind TLS: the embedded PostgreSQL and Valkey are built without it, so a process of ours ends it for them.

The certificates are real, and the clients' side is all theirs. A PostgreSQL is greeted as libpq does it: a request for
TLS in the clear, then the handshake; whoever does without is refused, as `hostssl` in pg_hba.conf does it.
"""

from __future__ import annotations

import asyncio
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import trustme
from sqlalchemy import make_url

_SSL_REQUEST = (8).to_bytes(4, "big") + (80_877_103).to_bytes(4, "big")
_GSS_REQUEST = (8).to_bytes(4, "big") + (80_877_104).to_bytes(4, "big")
_NO_ENCRYPTION = b"SFATAL\0VFATAL\0C28000\0Mno pg_hba.conf entry for this host, no encryption\0\0"


@dataclass(frozen=True, slots=True)
class Authority:
    """A certificate authority, and files of what it vouches for."""

    directory: Path
    ca: trustme.CA

    @classmethod
    def made(cls, directory: Path) -> Authority:
        """A new one."""
        directory.mkdir()
        ca = trustme.CA()
        ca.cert_pem.write_to_path(str(directory / "ca.pem"))
        return cls(directory, ca)

    @property
    def certificate(self) -> Path:
        """What those who trust it have."""
        return self.directory / "ca.pem"

    def server(self, *, name: str = "localhost", clients: bool = False) -> ssl.SSLContext:
        """For a server called `name`; `clients`: who has no certificate of this authority is refused."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.ca.issue_cert(name).configure_cert(context)
        if clients:
            context.verify_mode = ssl.CERT_REQUIRED
            self.ca.configure_trust(context)
        return context

    def server_files(self, name: str) -> dict[str, str]:
        """By file name, what a server called `name` has: its certificate, its key, and whose clients it believes."""
        issued = self.ca.issue_cert(name)
        return {
            "server.pem": issued.cert_chain_pems[0].bytes().decode(),
            "server.key": issued.private_key_pem.bytes().decode(),
            "clients.pem": self.ca.cert_pem.bytes().decode(),
        }

    def client(self, role: str = "worker") -> tuple[Path, Path]:
        """The files of a client's certificate, in the name of `role`, and of its key."""
        certificate, key = self.directory / f"{role}.pem", self.directory / f"{role}.key"
        if not key.exists():
            issued = self.ca.issue_cert("worker.nightshift.example", common_name=role)
            issued.cert_chain_pems[0].write_to_path(str(certificate))
            key.touch(mode=0o600)
            issued.private_key_pem.write_to_path(str(key))
        return certificate, key


@contextmanager
def behind_tls(url: str, context: ssl.SSLContext) -> Iterator[str]:
    """`url` with a port of localhost behind which TLS ends; nobody gets there without."""
    there = make_url(url)
    assert there.host is not None
    assert there.port is not None
    postgres = there.drivername.startswith("postgres")
    loop = asyncio.new_event_loop()
    servers: list[asyncio.Server] = []

    async def serve() -> None:
        async def met(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                with suppress(OSError, asyncio.IncompleteReadError, ssl.SSLError):
                    if not postgres or await _greeted(reader, writer, context):
                        await _joined(reader, writer, str(there.host), int(there.port or 0))
                writer.close()
            finally:
                writer.transport.abort()

        servers.append(await asyncio.start_server(met, "127.0.0.1", 0, ssl=None if postgres else context))

    loop.run_until_complete(serve())
    port = servers[0].sockets[0].getsockname()[1]
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    scheme = there.drivername if postgres else "rediss"

    async def end() -> None:
        servers[0].close()
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        # A transport that was aborted is closed by the loop's next turns.
        for _ in range(10):
            await asyncio.sleep(0)

    try:
        moved = there.set(drivername=scheme, host="localhost", port=port)
        yield moved.render_as_string(hide_password=False)
    finally:
        asyncio.run_coroutine_threadsafe(end(), loop).result(timeout=30)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


async def _greeted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, context: ssl.SSLContext) -> bool:
    asked = await reader.readexactly(8)
    if asked == _GSS_REQUEST:
        writer.write(b"N")
        asked = await reader.readexactly(8)
    if asked != _SSL_REQUEST:
        writer.write(b"E" + (4 + len(_NO_ENCRYPTION)).to_bytes(4, "big") + _NO_ENCRYPTION)
        await writer.drain()
        return False
    writer.write(b"S")
    await writer.drain()
    await writer.start_tls(context)
    return True


async def _joined(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, host: str, port: int) -> None:
    onward_reader, onward_writer = await asyncio.open_connection(host, port)
    both = (asyncio.ensure_future(_pump(reader, onward_writer)), asyncio.ensure_future(_pump(onward_reader, writer)))
    try:
        await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in both:
            task.cancel()
        onward_writer.transport.abort()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError, ssl.SSLError):
        while data := await reader.read(65_536):
            writer.write(data)
            await writer.drain()
