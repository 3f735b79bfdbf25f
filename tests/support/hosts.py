"""Several hosts on one machine: network namespaces on a bridge, each with a name of its own, and links that can be cut.

Packets go between addresses of 198.18.0.0/15, which is set aside for such networks, and nowhere else: there is no route
out. PostgreSQL and Redis stay on the loopback address; what asks at the bridge's address is passed on to them.
"""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from sqlalchemy import make_url

from benchmarks.chaos.proxy import EventLoop, Proxy
from core.settings import Settings
from workers.embedded import ServerUrls
from workers.environment import child_environment

# A name of its own before the command: workers call themselves after it.
_AS_HOST = "import os, socket, sys; socket.sethostname(sys.argv[1]); os.execvp(sys.argv[2], sys.argv[2:])"
_PROGRAMS = ("ip", "unshare")


def why_not() -> str | None:
    """Why there can be no hosts here; None if there can."""
    missing = [program for program in _PROGRAMS if shutil.which(program) is None]
    if missing:
        return f"no network namespaces without {' and '.join(missing)} (Debian: iproute2, util-linux)"
    if os.geteuid() != 0:
        return "network namespaces need root"
    probe = f"nt{random.randrange(16**6):06x}"
    made = _ip("netns", "add", probe, check=False)
    _ip("netns", "del", probe, check=False)
    return None if made.returncode == 0 else f"network namespaces are not allowed here: {made.stderr.strip()}"


class Network:
    """A bridge with hosts. `address`: where the servers are for them."""

    def __init__(self, stack: ExitStack, hosts: Sequence[str]) -> None:
        self._stack = stack
        number = random.randrange(256)
        # Names of interfaces have at most fifteen letters.
        self._prefix = f"nt{random.randrange(16**6):06x}"
        self.address = f"198.18.{number}.1"
        self._make("link", "add", self._prefix, "type", "bridge", undo=("link", "del", self._prefix))
        _ip("addr", "add", f"{self.address}/24", "dev", self._prefix)
        _ip("link", "set", self._prefix, "up")
        for last, host in enumerate(hosts, start=2):
            self._add(host, f"198.18.{number}.{last}/24")

    def _add(self, host: str, address: str) -> None:
        space, link = self._space(host), self._link(host)
        self._make("netns", "add", space, undo=("netns", "del", space))
        # The other end goes with the namespace, but not at once.
        self._make(
            "link", "add", link, "type", "veth", "peer", "name", "eth0", "netns", space, undo=("link", "del", link)
        )
        _ip("link", "set", link, "master", self._prefix, "up")
        _ip("-n", space, "addr", "add", address, "dev", "eth0")
        for interface in ("lo", "eth0"):
            _ip("-n", space, "link", "set", interface, "up")

    def cut(self, host: str) -> None:
        """From now on nothing reaches this host, and nothing comes from it; nobody is told."""
        _ip("link", "set", self._link(host), "down")

    def heal(self, host: str) -> None:
        """It is reached again."""
        _ip("link", "set", self._link(host), "up")

    def run(
        self, host: str, command: Sequence[str], environment: Mapping[str, str], log: Path
    ) -> subprocess.Popen[bytes]:
        """Start a command there; it is killed with all that it started when the network goes, if it still runs."""
        there = ["ip", "netns", "exec", self._space(host), "unshare", "--uts", sys.executable, "-c", _AS_HOST, host]
        with log.open("ab") as output:
            process = subprocess.Popen(
                [*there, *command], env=dict(environment), stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                start_new_session=True,
            )  # fmt: skip
        self._stack.callback(end, process)
        return process

    def _make(self, *arguments: str, undo: tuple[str, ...]) -> None:
        self._stack.callback(_ip, *undo, check=False)
        _ip(*arguments)

    def _space(self, host: str) -> str:
        return f"{self._prefix}-{host}"

    def _link(self, host: str) -> str:
        return f"{self._prefix}{host[:6]}"


@contextmanager
def network(*hosts: str) -> Iterator[Network]:
    """Hosts with these names, which differ in their first six letters; whatever happens, nothing is left of them."""
    with ExitStack() as stack:
        yield Network(stack, hosts)


@contextmanager
def reached_by(net: Network, urls: ServerUrls) -> Iterator[ServerUrls]:
    """The URLs by which hosts reach these servers."""
    with EventLoop() as loop, ExitStack() as stack:

        def passed_on(url: str) -> str:
            parsed = make_url(url)
            assert parsed.port is not None
            passing = _Passing(loop, parsed.port, net.address)
            stack.callback(passing.close)
            return parsed.set(host=net.address, port=passing.port).render_as_string(hide_password=False)

        yield ServerUrls(passed_on(urls.database_url), passed_on(urls.redis_url))


def worker(net: Network, host: str, settings: Settings, urls: ServerUrls, log: Path) -> subprocess.Popen[bytes]:
    """A worker for nights with one process, there."""
    command = [
        sys.executable, "-m", "celery", "-q", "-A", "workers.app", "worker", "-n", "simulations@%h", "-c", "1",
        "-Q", "simulations,reprocess", "--without-mingle", "--without-gossip", "--loglevel", "info",
    ]  # fmt: skip
    return net.run(host, command, child_environment(settings, urls), log)


def end(process: subprocess.Popen[bytes]) -> None:
    """Kill a command with all that it started."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


class _Passing(Proxy):
    """Passes connections to an address on, to a port of this machine."""

    def __init__(self, loop: EventLoop, port: int, address: str) -> None:
        self._address = address
        super().__init__(loop, port)

    async def _listen(self) -> asyncio.Server:
        return await asyncio.start_server(self._accept, self._address, 0, backlog=256)


def _ip(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(["ip", *arguments], capture_output=True, text=True, check=False)
    if check and done.returncode != 0:
        raise OSError(f"ip {' '.join(arguments)}: {done.stderr.strip()}")
    return done
