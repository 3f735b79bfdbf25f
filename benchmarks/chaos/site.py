"""The scene of a chaos run: the stack, its servers and proxies, and what can be seen of how the night goes."""

from __future__ import annotations

import os
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from threading import Lock
from typing import TypeVar

import httpx
import psutil
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError

from benchmarks.chaos.installed import Moments
from benchmarks.chaos.proxy import Proxy
from benchmarks.chaos.world import CHAOS, World
from core.clock import utc_now
from core.settings import Settings
from workers.embedded import EmbeddedServers
from workers.stack import Stack

POLL_SECONDS = 0.03

T = TypeVar("T")

_PROGRESS = text(
    "SELECT count(*) FILTER (WHERE r.kind = 'nightly' AND r.status NOT IN ('planned', 'running')) AS ended,"
    " count(*) FILTER (WHERE r.kind <> 'nightly' AND r.status IN ('planned', 'running')) AS again,"
    " coalesce(sum(b.done::float / greatest(r.users, 1)) FILTER (WHERE r.kind = 'nightly'), 0) AS share FROM runs r,"
    " LATERAL (SELECT coalesce(sum(users), 0) AS done FROM batches"
    "          WHERE run_id = r.id AND status = 'done') b"
)
# Workers have some messages in hand when Redis goes away: those batches are begun and done without it.
_IN_HAND = 4
_DONE_SINCE = text(
    f"SELECT count(*) > {_IN_HAND} FROM batches WHERE status = 'done' AND started_at > :since"  # noqa: S608 - a constant
)
_TICK_SINCE = text("SELECT EXISTS (SELECT FROM beat_ticks WHERE name = 'tick' AND last_run_at > :since)")


class GaveUpError(Exception):
    """What was waited for did not come."""


def wait_for(condition: Callable[[], T | None], seconds: float) -> T:
    """The first truthy result of `condition`.

    Raises:
        GaveUpError: there was none within `seconds`.
    """
    deadline = time.monotonic() + seconds
    while True:
        result = condition()
        if result:
            return result
        if time.monotonic() > deadline:
            raise GaveUpError
        time.sleep(POLL_SECONDS)


@dataclass(slots=True)
class Site:
    """Everything that a fault may break. The URLs of `world` and `redis_url` go around the proxies."""

    settings: Settings
    world: World
    servers: EmbeddedServers
    redis_url: str
    proxies: dict[str, Proxy]
    moments: Moments
    stack: Stack
    began: float = field(default_factory=time.monotonic)
    server_locks: dict[str, Lock] = field(default_factory=lambda: {"postgres": Lock(), "redis": Lock()})
    moment_locks: dict[str, Lock] = field(default_factory=lambda: defaultdict(Lock))

    @property
    def home(self) -> Path:
        """The home of the servers."""
        return self.settings.nightshift_home()

    def elapsed(self) -> float:
        """Seconds since the nights began."""
        return time.monotonic() - self.began

    def now(self) -> datetime:
        """The time that the stack's clocks show."""
        return utc_now() + self.settings.clock_offset

    def seconds_of(self, moment: datetime) -> float:
        """A moment of the stack's clocks as seconds since the nights began."""
        return self.elapsed() - (self.now() - moment).total_seconds()

    def process(self, name: str) -> psutil.Process:
        """A child of the stack; waits while it is being restarted."""
        return psutil.Process(wait_for(lambda: self.stack.processes.get(name), 60))

    def pool_children(self) -> list[psutil.Process]:
        """The processes of the simulations pool; waits until there is one."""

        def children() -> list[psutil.Process]:
            with suppress(psutil.Error):
                return self.process("simulations").children()
            return []

        return wait_for(children, 60)

    def progress(self) -> tuple[float, bool]:
        """The share of the nights' user-days that are done, and whether every night and all else has ended."""
        nights = len(self.world.days)
        with self.world.engine(CHAOS).connect() as connection:
            row = connection.execute(_PROGRESS).one()
        return float(row.share) / nights, row.ended >= nights and not row.again

    def finished(self) -> bool:
        """Whether every night has ended; while the database is away, no."""
        with suppress(SQLAlchemyError):
            return self.progress()[1]
        return False

    def night_goes_on(self, since: datetime) -> bool:
        """Whether batches were begun and done after `since`, or, where all nights have ended, a tick."""
        with suppress(SQLAlchemyError):
            if self._ask(_DONE_SINCE, since):
                return True
            return self.finished() and self.ticks(since)
        return False

    def ticks(self, since: datetime) -> bool:
        """Whether a tick of beat was answered after `since`."""
        with suppress(SQLAlchemyError):
            return self._ask(_TICK_SINCE, since)
        return False

    def page_answers(self, part: str, page: str, old: int) -> bool:
        """Whether a process other than `old` serves a page of `part`."""
        if self.stack.processes.get(part, old) == old:
            return False
        address = self.stack.addresses["flower" if part == "flower" else "metrics"].removesuffix("/metrics")
        with suppress(httpx.HTTPError):
            return httpx.get(f"{address}{page}", timeout=2).is_success
        return False

    def _ask(self, statement: object, since: datetime) -> bool:
        with self.world.engine(CHAOS).connect() as connection:
            return bool(connection.execute(statement, {"since": since}).scalar_one())  # type: ignore[call-overload]

    @contextmanager
    def redis(self) -> Iterator[redis.Redis]:
        """A client that goes around the proxy."""
        with redis.Redis.from_url(self.redis_url, socket_timeout=30, retry=Retry(NoBackoff(), 0)) as client:
            yield client

    def heal(self) -> None:
        """Take every fault of the network away; the rest heals by itself."""
        for proxy in self.proxies.values():
            proxy.heal()


def send_signal(process: psutil.Process | int, number: int, *, group: bool = False) -> None:
    """Send a signal to a process or to the group that it leads; one that is gone needs none."""
    pid = process if isinstance(process, int) else process.pid
    with suppress(ProcessLookupError):
        (os.killpg if group else os.kill)(pid, number)
