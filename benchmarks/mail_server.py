"""A mail server on this machine, in a process of its own that gives way to all others: it counts what it takes."""

from __future__ import annotations

import multiprocessing
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from multiprocessing.connection import Connection
from typing import Any

from core.errors import NightshiftError, UsageError

_READY_SECONDS = 60.0
_NICE = 19  # it stands for another machine


@dataclass(frozen=True, slots=True)
class MailServer:
    """Where it listens, and how many mails it has taken so far."""

    port: int
    taken: Callable[[], int]


class _Counter:
    """A handler of aiosmtpd."""

    def __init__(self, taken: Any) -> None:
        self._taken = taken

    async def handle_DATA(self, _server: object, _session: object, _envelope: object) -> str:  # noqa: N802 - its name
        self._taken.value += 1
        return "250 taken"


@contextmanager
def mail_server() -> Iterator[MailServer]:
    """One on the loopback for the time of the block.

    Raises:
        UsageError: aiosmtpd is not installed.
        NightshiftError: it does not start.
    """
    if find_spec("aiosmtpd") is None:
        raise UsageError("this measurement needs a mail server: pip install aiosmtpd")
    context = multiprocessing.get_context("spawn")
    taken = context.Value("q", 0, lock=False)
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(taken, theirs), name="mail-server", daemon=True)
    process.start()
    theirs.close()
    try:
        yield MailServer(_port_of(ours), lambda: int(taken.value))
    finally:
        ours.close()
        process.join(5)
        process.kill()


def _port_of(child: Connection) -> int:
    try:
        if child.poll(_READY_SECONDS):
            return int(child.recv())
    except EOFError:
        pass
    raise NightshiftError("the mail server of the measurement did not start")


def _serve(taken: Any, parent: Connection) -> None:
    """Serve until the parent's end of the pipe is closed, however that happens."""
    from aiosmtpd.controller import Controller  # noqa: PLC0415 - of this process only

    os.nice(_NICE)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    controller = Controller(_Counter(taken), hostname="127.0.0.1", port=port)
    controller.start()
    parent.send(port)
    try:
        parent.recv()
    except EOFError:
        controller.stop()
