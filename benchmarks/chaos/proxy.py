"""A TCP proxy on the loopback address that can delay, cut and half-open the connections that go through it.

All proxies of a process share one event loop in one thread. Time passes for each piece of data on its own: a delay
costs every round trip once and does not narrow the stream.
"""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, Self, TypeVar

_CHUNK = 65536
_QUEUED = 256
# What keepalives take to tell the other end that this one is gone, made short.
_KEEPALIVE_SECONDS = 3.0
_LINGER_NOT = struct.pack("ii", 1, 0)

T = TypeVar("T")


class _Link:
    """One connection through the proxy: two streams, each read, held for a while, and written."""

    def __init__(self, near: asyncio.StreamWriter, far: asyncio.StreamWriter) -> None:
        self.near, self.far = near, far
        self.stalled = False

    def reset(self) -> None:
        """End both with RST, as a firewall or a dead host would."""
        for writer in (self.near, self.far):
            bound = writer.get_extra_info("socket")
            if bound is not None:
                with suppress(OSError):
                    bound.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_NOT)
            writer.transport.abort()


class Proxy:
    """Passes connections to a port of this machine on; `port` is where it listens itself."""

    def __init__(self, loop: EventLoop, port: int) -> None:
        self._loop, self._target = loop, port
        self._links: set[_Link] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._delay = 0.0
        self._quick = asyncio.Event()
        self._server = loop.run(self._listen())
        self.port = int(self._server.sockets[0].getsockname()[1])

    @property
    def stalled(self) -> int:
        """How many half-open connections their clients have not given up yet."""
        return sum(link.stalled for link in self._links)

    def delay(self, seconds: float) -> None:
        """Hold everything for so long in each direction; 0: no longer, and what is held arrives at once."""
        self._loop.call(lambda: self._set_delay(seconds))

    def cut(self) -> int:
        """Reset every connection; how many there were."""
        return self._loop.call(lambda: self._reset(list(self._links)))

    def stall(self) -> int:
        """Swallow whatever the present connections say, and do not close them; how many there are."""
        return self._loop.call(self._stall)

    def heal(self) -> None:
        """No delay, and no half-open connection any more: they are reset."""
        self.delay(0)
        self._loop.call(lambda: self._reset([link for link in self._links if link.stalled]))

    def close(self) -> None:
        """Stop listening and end every connection."""
        self._loop.call(self._server.close)
        self.cut()

    async def _listen(self) -> asyncio.Server:
        return await asyncio.start_server(self._accept, "127.0.0.1", 0, backlog=256)

    def _set_delay(self, seconds: float) -> None:
        self._delay = seconds
        self._quick.set()
        self._quick = asyncio.Event()

    def _reset(self, links: list[_Link]) -> int:
        for link in links:
            link.reset()
        return len(links)

    def _stall(self) -> int:
        for link in self._links:
            link.stalled = True
        return len(self._links)

    async def _accept(self, reader: asyncio.StreamReader, near: asyncio.StreamWriter) -> None:
        try:
            far_reader, far = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            near.transport.abort()
            return
        link = _Link(near, far)
        self._links.add(link)
        pumps = [
            asyncio.ensure_future(self._pump(link, source, sink))
            for source, sink in ((reader, far), (far_reader, near))
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            if link.stalled:
                await asyncio.sleep(_KEEPALIVE_SECONDS)
        finally:
            for pump in pumps:
                pump.cancel()
            link.reset()
            self._links.discard(link)

    async def _pump(self, link: _Link, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        pieces: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(_QUEUED)
        writing = asyncio.ensure_future(self._write(link, pieces, sink))
        try:
            with suppress(OSError):
                while data := await source.read(_CHUNK):
                    await pieces.put((asyncio.get_running_loop().time() + self._delay, data))
            await pieces.put((0.0, b""))
            await writing
        finally:
            writing.cancel()

    async def _write(self, link: _Link, pieces: asyncio.Queue[tuple[float, bytes]], sink: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while True:
                due, data = await pieces.get()
                wait = due - asyncio.get_running_loop().time()
                if wait > 0 and self._delay:
                    with suppress(TimeoutError):
                        await asyncio.wait_for(self._quick.wait(), wait)
                if not data:
                    return
                if not link.stalled:
                    sink.write(data)
                    await sink.drain()


class EventLoop:
    """An event loop in a thread of its own. A context manager."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxies", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.run(self._cancel_all())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of a coroutine that runs in the loop."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    def call(self, function: Callable[[], T]) -> T:
        """The result of a function that is called in the loop."""

        async def work() -> T:
            return function()

        return self.run(work())

    async def _cancel_all(self) -> None:
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
