"""Workers that are told to stop: what runs is finished or given back, nothing is counted against anybody."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
from sqlalchemy import Engine

from services.digest import DayDigest, digest_of_day
from services.queue_state import KEY_PREFIX, redis_client
from tests.support.insiders import grow_impatient, inside
from tests.support.nights import scalar
from tests.support.polling import wait_until
from tests.support.workers import System, gone, quick, told_to_stop
from workers.app import make_app
from workers.embedded import EmbeddedServers, ServerUrls
from workers.stack import Stack

USERS = 400
AT_ONCE = 20.0  # far below the minute that a batch is given, far above what a busy machine needs


@pytest.fixture
def system(engine: Engine, database: str, redis_url: str, tmp_path: Path) -> System:
    """A night has ten batches."""
    return System(engine, ServerUrls(database, redis_url), quick(tmp_path, USERS // 10))


def test_a_batch_that_runs_is_finished_first(system: System) -> None:
    system.plan()
    system.tick()
    with system.worker() as child:
        with system.held("granules"):
            batch = system.a_batch_waits()
            told_to_stop(child)
            assert system.batch(batch) == ("running", 1)
            assert child.exit_code is None
        assert gone(child, AT_ONCE) == 0
    assert system.batch(batch) == ("done", 1)
    assert scalar(system.engine, "SELECT max(attempts) FROM batches") == 1


@pytest.mark.parametrize(("what", "attempts"), [("granules", 0), ("table", 1)])
def test_told_twice_a_worker_gives_its_batch_back(
    system: System, expected: DayDigest, what: str, attempts: int
) -> None:
    """A process that reads cannot hear, and is killed: then the reconciler finds the batch, with its attempt."""
    system.plan()
    system.tick()
    with system.held(what):
        with system.worker() as child:
            batch = system.a_batch_waits()
            told_to_stop(child, times=2)
            gone(child, AT_ONCE)
        # While the lock is still held: the session of the batch has ended with its worker.
        wait_until(lambda: system.tick() and system.batch(batch) == ("queued", attempts))
    done_by_another(system, batch, expected)
    assert system.batch(batch) == ("done", attempts + 1)


def done_by_another(system: System, batch: int, expected: DayDigest) -> None:
    """A new worker does what was given back and all the rest, as if nothing had happened."""
    with system.worker():
        wait_until(lambda: system.tick() and system.batch(batch)[0] == "done", seconds=60, what="the batch")
        wait_until(lambda: system.tick() and scalar(system.engine, "SELECT bool_and(status = 'done') FROM runs"))
    system.all_done()
    assert digest_of_day(system.engine) == expected


def test_a_batch_that_outlasts_the_grace_is_given_back(
    system: System, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, expected: DayDigest
) -> None:
    """Told once, the worker waits for it as long as it may; then it is another's, and its attempt is not counted."""
    inside(tmp_path / "inside", monkeypatch, grow_impatient, 1.0)
    system.plan()
    system.tick()
    with system.held("granules"):
        with system.worker() as child:
            batch = system.a_batch_waits()
            told_to_stop(child)
            gone(child, AT_ONCE)
            assert "time is up" in child.log.read_text()
        # Before any tick: the worker gave it back itself, and nobody had to find it.
        assert system.batch(batch) == ("planned", 0)
    done_by_another(system, batch, expected)
    assert system.batch(batch) == ("done", 1)


@pytest.fixture
def own_redis(tmp_path: Path) -> Iterator[EmbeddedServers]:
    """A Redis of this test alone, which may die."""
    with EmbeddedServers(tmp_path / "redis", serve_postgres=False) as servers:
        yield servers


@pytest.mark.parametrize("noticed", [False, True])
def test_told_to_stop_while_redis_is_away_a_worker_ends_and_loses_nothing(
    system: System,
    own_redis: EmbeddedServers,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    expected: DayDigest,
    noticed: bool,
) -> None:
    """Before it notices it waits for the batch, and gives it back; when it notices it does so without being told."""
    inside(tmp_path / "inside", monkeypatch, grow_impatient, 1.0)
    system = replace(system, urls=replace(system.urls, redis_url=own_redis.start().redis_url))
    system.plan()
    system.tick()
    with system.held("granules"):
        with system.worker() as child:
            batch = system.a_batch_waits()
            assert own_redis.redis_pid is not None
            os.kill(own_redis.redis_pid, signal.SIGKILL)
            if noticed:
                wait_until(lambda: "Connection to broker lost" in child.log.read_text(), what="word of it")
            told_to_stop(child)
            gone(child, AT_ONCE)
        assert system.batch(batch) == ("planned", 0)
    own_redis.restart_redis()
    done_by_another(system, batch, expected)
    assert scalar(system.engine, "SELECT max(attempts) FROM batches") == 1


def test_an_idle_worker_ends_at_once(system: System) -> None:
    with system.worker() as child, make_app(system.settings, system.urls.redis_url) as app:
        wait_until(lambda: app.control.ping(timeout=0.5), what="the worker's answer")
        child.terminate()
        assert gone(child, AT_ONCE) == 0


def test_a_batch_on_its_way_into_a_process_holds_nobody_up(system: System, expected: DayDigest) -> None:
    """Celery gives up what no process has begun, and takes no result of it; the process begins it all the same."""
    system.plan()
    with system.worker() as child:
        with make_app(system.settings, system.urls.redis_url) as app:
            wait_until(lambda: app.control.ping(timeout=0.5), what="the worker's answer")
        worker = psutil.Process(child.pid)
        (process,) = worker.children()
        process.suspend()
        try:
            system.tick()
            with redis_client(system.urls.redis_url) as redis:
                wait_until(lambda: redis.hlen(f"{KEY_PREFIX}unacked"), what="a message of the worker's")
            threads = worker.num_threads()
            told_to_stop(child)
            # Its consumer has ended by then: while it waits for its pool, Celery has a thread for its timers.
            wait_until(lambda: worker.num_threads() > threads, what="a worker that waits for its pool")
        finally:
            process.resume()
        assert gone(child, AT_ONCE) == 0
    assert scalar(system.engine, "SELECT count(*) FROM batches WHERE status = 'done'") == 1
    with system.worker():
        wait_until(lambda: system.tick() and scalar(system.engine, "SELECT bool_and(status = 'done') FROM runs"))
    system.all_done()
    assert digest_of_day(system.engine) == expected
    assert scalar(system.engine, "SELECT max(attempts) FROM batches") == 1


def test_workers_are_replaced_in_the_middle_of_the_nights(system: System, expected: DayDigest) -> None:
    system.plan(each=True)
    system.tick()
    with Stack(system.settings, system.urls, workers=2, flower=False, exporter=False) as stack:
        enough = "SELECT count(*) >= :done FROM batches WHERE status = 'done'"
        for done in (3, 25, 50):
            wait_until(lambda done=done: scalar(system.engine, enough, done=done))  # type: ignore[misc]
            old = stack.processes["simulations"]
            os.kill(old, signal.SIGTERM)
            wait_until(lambda old=old: stack.processes.get("simulations") not in {None, old})  # type: ignore[misc]
        system.all_done()
    assert digest_of_day(system.engine) == expected
    assert scalar(system.engine, "SELECT max(attempts) FROM batches") == 1
