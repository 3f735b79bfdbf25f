"""Ports that people choose: taken, they are refused in one line that names the setting."""

from __future__ import annotations

import socket

from core.errors import NightshiftError


def listen(host: str, port: int, setting: str) -> socket.socket:
    """A socket bound to `host` and `port`; port 0 takes any free one.

    Raises:
        NightshiftError: somebody else has it, or this machine has no such address; `setting` is the variable to change.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # Said aloud, or asyncio does not know it for TCP and lets small answers wait 40 ms for a peer's acknowledgement.
    bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        # Connections of a predecessor that linger in TIME_WAIT do not matter; a listener does.
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host, port))
        bound.listen(128)
    except OSError as error:
        bound.close()
        reason = error.strerror or type(error).__name__
        raise NightshiftError(
            f"port {port} on {host}: {reason.lower()}: free it or change {setting} (0: any)"
        ) from None
    return bound


def choose_port(host: str, port: int, setting: str) -> int:
    """`port`, or for 0 a free one, checked by listening on it for a moment.

    Raises:
        NightshiftError: as `listen`.
    """
    with listen(host, port, setting) as bound:
        return int(bound.getsockname()[1])
