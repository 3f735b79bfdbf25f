"""Which workers there are, by what they answer themselves; and what only they know of their batches."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

import pytest
import redis
from sqlalchemy import Engine

from core.queues import Queue
from services.queue_state import Client
from services.work_counts import work_totals
from services.worker_registry import Answer, WorkersState, clock_of, say_goodbye, workers_state, write_answers
from tests.support.exporter import exporter, scrape
from tests.support.nights import FIRST_NIGHT, sample_world, scalar
from tests.support.polling import wait_until
from tests.support.workers import System, gone, quick, told_to_stop
from workers.app import make_app
from workers.child_process import ChildProcess
from workers.embedded import ServerUrls
from workers.exporter.watcher import Watcher, ask
from workers.stack import Stack

NIGHTS = Answer(("simulations", "reprocess"), 2)
SMALL = Answer(("control", "maintenance"), 1)
# A round of two questions takes a second.
SHORT = timedelta(seconds=6)


@pytest.fixture
def client(redis_url: str) -> Iterator[Client]:
    with redis.Redis.from_url(redis_url) as client:
        yield client


def state(client: Client) -> WorkersState:
    found = workers_state(client)
    assert found is not None
    return found


def test_who_answers_is_there_and_who_does_not_is_lost_until_it_is_forgotten(client: Client) -> None:
    assert workers_state(client) is None
    now = clock_of(client)
    write_answers(client, now - 40, {"simulations@a": NIGHTS, "simulations@b": NIGHTS, "control@a": SMALL})
    # Nobody has asked for so long that nobody can tell.
    assert workers_state(client) is None
    write_answers(client, now, {"simulations@a": NIGHTS, "control@a": SMALL})
    found = state(client)
    assert found.groups[Queue.SIMULATIONS] == found.groups[Queue.REPROCESS] == found.groups[Queue.CONTROL] == 1
    assert found.processes[Queue.SIMULATIONS] == 2
    assert found.groups[Queue.PRICES] == found.processes[Queue.PRICES] == 0
    assert found.lost == 1
    assert found.answered["simulations@b"] == now - 40
    write_answers(client, now + 3601, {"control@a": SMALL})
    assert client.hkeys("nightshift:workers") == [b"control@a"]


def test_who_says_goodbye_is_not_lost_even_if_its_answer_comes_later(client: Client) -> None:
    now = clock_of(client)
    write_answers(client, now - 40, {"simulations@a": NIGHTS, "simulations@b": NIGHTS})
    say_goodbye(client, "simulations@b")
    write_answers(client, now, {"simulations@a": NIGHTS, "simulations@b": NIGHTS})
    assert (state(client).lost, state(client).groups[Queue.SIMULATIONS]) == (0, 1)
    # It is started again.
    write_answers(client, clock_of(client), {"simulations@a": NIGHTS, "simulations@b": NIGHTS})
    assert (state(client).lost, state(client).groups[Queue.SIMULATIONS]) == (0, 2)


@contextmanager
def two_groups(system: System) -> Iterator[tuple[ChildProcess, ChildProcess]]:
    """The workers for nights, and those for everything else; nobody restarts them."""
    stack = Stack(system.settings, system.urls, workers=2, beat=False, flower=False, exporter=False)
    stack._make_children()
    groups = stack._children["simulations"], stack._children["control"]
    try:
        for child in groups:
            child.start()
        yield groups
    finally:
        for child in groups:
            child.kill()
        stack.stop()


def test_real_workers_are_seen_lost_and_gone_and_what_they_counted_stays(
    engine: Engine, database: str, redis_url: str, tmp_path: Path, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.worker_registry.SILENT", SHORT)
    monkeypatch.setattr("workers.exporter.watcher._ASK_SECONDS", 0.1)
    monkeypatch.setattr("workers.exporter.watcher._ANSWER_SECONDS", 0.5)
    sample_world(engine, 60, start=FIRST_NIGHT)
    system = System(engine, ServerUrls(database, redis_url), quick(tmp_path, 20))
    watcher = Watcher(system.settings, redis_url)
    watcher.start()
    try:
        with two_groups(system) as (nights, control):
            seen = wait_until(lambda: both_answer(client), seconds=60, what="the workers' answers")
            assert seen.groups == dict.fromkeys(Queue, 1)
            assert (seen.processes[Queue.SIMULATIONS], seen.processes[Queue.CONTROL], seen.lost) == (2, 2, 0)
            system.plan()
            system.tick()
            system.all_done()
            system.deliver(scalar(engine, "SELECT min(id) FROM batches"))
            wait_until(lambda: work_totals(client).duplicates == 1, what="the duplicate being noticed")
            done = scalar(engine, "SELECT count(*) FROM batches WHERE status = 'done'")
            for pages in (exporter(engine, redis_url), exporter(engine, redis_url)):
                samples = scrape(pages)
                assert samples["nightshift_worker_commit_seconds_count", ()] == done
                assert samples["nightshift_worker_commit_seconds_sum", ()] > 0
                assert samples["nightshift_duplicates_absorbed_total", ()] == 1
            control.kill()
            told_to_stop(nights)
            gone(nights, 30)
            wait_until(lambda: state(client).groups == dict.fromkeys(Queue, 0), what="nobody being there")
            assert state(client).lost == 1
            assert [name.split("@")[0] for name in state(client).answered] == ["control"]
    finally:
        watcher.stop()


def both_answer(client: Client) -> WorkersState | None:
    """Once pools answer too."""
    found = workers_state(client)
    ready = found is not None and found.processes[Queue.SIMULATIONS] and found.processes[Queue.CONTROL]
    return found if ready else None


def test_nobody_answers_where_nobody_is(redis_url: str, tmp_path: Path) -> None:
    with make_app(quick(tmp_path, 20), redis_url) as app:
        assert ask(app) == ({}, {})
