"""Workers that are told to stop: what runs is finished or given back, nothing is counted against anybody."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import Connection, Engine, text

from core.database import session_scope
from core.settings import Settings
from services.digest import DayDigest, digest_of_day
from services.locks import lock_granules
from services.planning import plan_nights
from services.relay import publish_planned
from services.tick import tick
from tests.support.nights import LAST_SAMPLE_DAY, NOW, rows, scalar, settings
from tests.support.polling import wait_until
from workers.app import make_app
from workers.child_process import ChildProcess
from workers.embedded import ServerUrls
from workers.publisher import CeleryPublisher
from workers.stack import Stack

USERS = 400
OFFSET = NOW - datetime.now(UTC)  # noqa: TID251 - as the demo does
AT_ONCE = 20.0  # far below the minute that a batch is given, far above what a busy machine needs


def chosen(home: Path) -> Settings:
    """Settings under which what was lost is missed soon, and whose clock stands the day after the samples end."""
    return settings(USERS // 10, home=home, tick_seconds=1, overdue_seconds=3, clock_offset=OFFSET)


def now() -> datetime:
    """The moment as the workers see it."""
    return datetime.now(UTC) + OFFSET  # noqa: TID251 - the edge: this process plays the command line


def plan(engine: Engine, home: Path, *, each: bool) -> None:
    with session_scope(engine) as session:
        plan_nights(session, through=LAST_SAMPLE_DAY, now=now(), settings=chosen(home), requested_by="test", each=each)


def publish(engine: Engine, redis_url: str, home: Path) -> bool:
    """What beat's tick does."""
    with make_app(chosen(home), redis_url) as app:
        return tick(engine, CeleryPublisher(app), now=now(), settings=chosen(home)).ran


@contextmanager
def worker(home: Path, database: str, redis_url: str) -> Iterator[ChildProcess]:
    """The group of workers for nights, with one process, that nobody restarts."""
    stack = Stack(chosen(home), ServerUrls(database, redis_url), workers=1, beat=False, flower=False, exporter=False)
    stack._make_children()
    child = stack._children["simulations"]
    try:
        child.start()
        yield child
    finally:
        child.kill()
        stack.stop()


@contextmanager
def held(engine: Engine, what: str) -> Iterator[Connection]:
    """Whatever a batch needs first: its users' granules, or the table that it reads."""
    with engine.connect() as holder, holder.begin():
        if what == "granules":
            lock_granules(holder.connection.driver_connection, 0, USERS + 1, exclusive=True)  # type: ignore[arg-type]
        else:
            holder.execute(text("LOCK TABLE portfolio_days IN ACCESS EXCLUSIVE MODE"))
        yield holder


def a_batch_waits(engine: Engine) -> int:
    """Wait for a batch in the hands of a worker that waits for a lock; the batch."""
    waits = (
        "SELECT (SELECT id FROM batches WHERE status = 'running') FROM pg_locks JOIN pg_stat_activity USING (pid)"
        " WHERE NOT granted AND datname = current_database() AND application_name LIKE 'nightshift worker%'"
    )
    return int(wait_until(lambda: rows(engine, waits), seconds=60, what="a batch that waits")[0][0])


def told_to_stop(child: ChildProcess, times: int = 1) -> None:
    for time in range(1, times + 1):
        child.terminate()
        wait_until(lambda time=time: child.log.read_text().count("Warm shutdown") >= time)  # type: ignore[misc]


def gone(child: ChildProcess, seconds: float = AT_ONCE) -> int:
    """Wait for its end; its exit code."""
    wait_until(lambda: child.exit_code is not None, seconds=seconds, what="the end of the worker")
    assert child.exit_code is not None
    return child.exit_code


def batch_of(engine: Engine, batch: int) -> tuple[str, int]:
    """Its status and its attempts."""
    status, attempts = rows(engine, "SELECT status, attempts FROM batches WHERE id = :id", id=batch)[0]
    return status, attempts


def all_done(engine: Engine, seconds: float = 60.0) -> None:
    unfinished = "SELECT count(*) FROM runs WHERE status <> 'done'"
    wait_until(lambda: scalar(engine, unfinished) == 0, seconds=seconds, what="the end of the nights")
    assert rows(engine, "SELECT DISTINCT status FROM batches") == [("done",)]


def test_a_batch_that_runs_is_finished_first(engine: Engine, database: str, redis_url: str, tmp_path: Path) -> None:
    plan(engine, tmp_path, each=False)
    publish(engine, redis_url, tmp_path)
    with worker(tmp_path, database, redis_url) as child:
        with held(engine, "granules"):
            batch = a_batch_waits(engine)
            told_to_stop(child)
            assert batch_of(engine, batch) == ("running", 1)
            assert child.exit_code is None
        assert gone(child) == 0
    assert batch_of(engine, batch) == ("done", 1)
    assert scalar(engine, "SELECT max(attempts) FROM batches") == 1


@pytest.mark.parametrize(("what", "attempts"), [("granules", 0), ("table", 1)])
def test_told_twice_a_worker_gives_its_batch_back(
    engine: Engine, database: str, redis_url: str, tmp_path: Path, expected: DayDigest, what: str, attempts: int
) -> None:
    """A process that reads cannot hear, and is killed: then the reconciler finds the batch, with its attempt."""
    plan(engine, tmp_path, each=False)
    publish(engine, redis_url, tmp_path)
    with held(engine, what):
        with worker(tmp_path, database, redis_url) as child:
            batch = a_batch_waits(engine)
            told_to_stop(child, times=2)
            gone(child)
        # While the lock is still held: the session of the batch has ended with its worker.
        wait_until(lambda: publish(engine, redis_url, tmp_path) and batch_of(engine, batch) == ("queued", attempts))
    with worker(tmp_path, database, redis_url):
        wait_until(lambda: publish(engine, redis_url, tmp_path) and batch_of(engine, batch)[0] == "done")
        all_done(engine)
    assert digest_of_day(engine) == expected
    assert batch_of(engine, batch) == ("done", attempts + 1)


def test_an_idle_worker_ends_at_once(database: str, redis_url: str, tmp_path: Path) -> None:
    with worker(tmp_path, database, redis_url) as child, make_app(chosen(tmp_path), redis_url) as app:
        wait_until(lambda: app.control.ping(timeout=0.5), what="the worker's answer")
        child.terminate()
        assert gone(child) == 0


def test_workers_are_replaced_in_the_middle_of_the_nights(
    engine: Engine, database: str, redis_url: str, tmp_path: Path, expected: DayDigest
) -> None:
    plan(engine, tmp_path, each=True)
    with make_app(chosen(tmp_path), redis_url) as app:
        publish_planned(engine, CeleryPublisher(app), now=now())
    urls = ServerUrls(database, redis_url)
    with Stack(chosen(tmp_path), urls, workers=2, flower=False, exporter=False) as stack:
        for done in (3, 25, 50):
            wait_until(
                lambda done=done: scalar(engine, "SELECT count(*) FROM batches WHERE status = 'done'") >= done  # type: ignore[misc]
            )
            old = stack.processes["simulations"]
            os.kill(old, signal.SIGTERM)
            wait_until(lambda old=old: stack.processes.get("simulations") not in {None, old})  # type: ignore[misc]
        all_done(engine)
    assert digest_of_day(engine) == expected
    assert scalar(engine, "SELECT max(attempts) FROM batches") == 1
