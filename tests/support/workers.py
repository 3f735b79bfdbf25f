"""Real workers that a test starts, tells to stop and looks at; nobody restarts them, and a test's tick is beat's."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import psutil
from sqlalchemy import Connection, Engine, text

from core.database import session_scope
from core.queues import Queue
from core.settings import Settings
from services.locks import lock_granules
from services.planning import plan_nights
from services.publishing import BatchMessage
from services.tick import tick
from tests.support.nights import LAST_SAMPLE_DAY, NOW, rows, scalar, settings
from tests.support.polling import wait_until
from workers.app import make_app
from workers.child_process import ChildProcess
from workers.embedded import ServerUrls
from workers.publisher import CeleryPublisher
from workers.stack import Stack

OFFSET = NOW - datetime.now(UTC)  # noqa: TID251 - as the demo does


def now() -> datetime:
    """The moment as the workers see it."""
    return datetime.now(UTC) + OFFSET  # noqa: TID251 - the edge: this process plays the command line


def quick(home: Path, batch_users: int, **changes: object) -> Settings:
    """Settings under which what was lost is missed soon, and whose clock stands the day after the samples end."""
    soon = {"tick_seconds": 1, "overdue_seconds": 3}
    return settings(batch_users, home=home, clock_offset=OFFSET, **soon | changes)


@dataclass(frozen=True, slots=True)
class System:
    """The servers of a test, and the settings of whoever works on them."""

    engine: Engine
    urls: ServerUrls
    settings: Settings

    def plan(self, *, each: bool = False) -> None:
        """All nights; `each`: one run a night, else one for all."""
        with session_scope(self.engine) as session:
            plan_nights(
                session, through=LAST_SAMPLE_DAY, now=now(), settings=self.settings, requested_by="test", each=each
            )

    def tick(self) -> bool:
        """What beat's tick does; whether it was not another's turn."""
        with make_app(self.settings, self.urls.redis_url) as app:
            return tick(self.engine, CeleryPublisher(app), now=now(), settings=self.settings).ran

    def deliver(self, batch: int) -> None:
        """One more message of this batch."""
        with make_app(self.settings, self.urls.redis_url) as app:
            CeleryPublisher(app)([BatchMessage(batch, Queue.SIMULATIONS, "delivered by a test")])

    @contextmanager
    def worker(self, processes: int = 1, *options: str) -> Iterator[ChildProcess]:
        """The group of workers for nights, with further options of Celery's."""
        stack = Stack(self.settings, self.urls, workers=processes, beat=False, flower=False, exporter=False)
        stack._make_children()
        child = stack._children["simulations"]
        child.module_arguments = (*child.module_arguments, *options)
        try:
            child.start()
            yield child
        finally:
            child.kill()
            stack.stop()

    @contextmanager
    def held(self, what: str) -> Iterator[Connection]:
        """Whatever a batch needs first: its users' `granules`, or the `table` that it reads."""
        with self.engine.connect() as holder, holder.begin():
            if what == "granules":
                everybody = scalar(self.engine, "SELECT max(id) + 1 FROM users")
                lock_granules(holder.connection.driver_connection, 0, everybody, exclusive=True)  # type: ignore[arg-type]
            else:
                holder.execute(text("LOCK TABLE portfolio_days IN ACCESS EXCLUSIVE MODE"))
            yield holder

    def a_batch_waits(self) -> int:
        """Wait for a batch in the hands of a worker that waits for a lock; the batch."""
        waits = (
            "SELECT (SELECT id FROM batches WHERE status = 'running') FROM pg_locks JOIN pg_stat_activity USING (pid)"
            " WHERE NOT granted AND datname = current_database() AND application_name LIKE 'nightshift worker%'"
        )
        return int(wait_until(lambda: rows(self.engine, waits), seconds=60, what="a batch that waits")[0][0])

    def batch(self, batch: int) -> tuple[str, int]:
        """Its status and its attempts."""
        status, attempts = rows(self.engine, "SELECT status, attempts FROM batches WHERE id = :id", id=batch)[0]
        return status, attempts

    def all_done(self, seconds: float = 60.0) -> None:
        """Wait for the end of the nights: every run and every batch is done."""
        unfinished = "SELECT count(*) FROM runs WHERE status <> 'done'"
        wait_until(lambda: scalar(self.engine, unfinished) == 0, seconds=seconds, what="the end of the nights")
        assert rows(self.engine, "SELECT DISTINCT status FROM batches") == [("done",)]


def pool(group: int | None) -> list[psutil.Process]:
    """The processes of the pool of a group of workers, by the id of its leader; None: it does not run."""
    return psutil.Process(group).children(recursive=True) if group is not None else []


def told_to_stop(child: ChildProcess, times: int = 1) -> None:
    """Tell it, and wait until it has heard."""
    for time in range(1, times + 1):
        child.terminate()
        wait_until(lambda time=time: child.log.read_text().count("Warm shutdown") >= time)  # type: ignore[misc]


def gone(child: ChildProcess, seconds: float) -> int:
    """Wait for its end; its exit code."""
    wait_until(lambda: child.exit_code is not None, seconds=seconds, what="the end of the worker")
    assert child.exit_code is not None
    return child.exit_code
