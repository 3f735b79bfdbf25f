"""Nights on real Celery workers: any number of processes gives the same bytes, and so does killing them."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis
from sqlalchemy import Engine

from benchmarks.chaos.installed import installed
from core.settings import Settings
from services.digest import DayDigest, digest_of_day
from services.relay import publish_planned
from services.tick import tick
from tests.support.nights import LAST_SAMPLE_DAY, change, rows, scalar
from tests.support.polling import wait_until
from tests.support.workers import System, now, quick
from workers.app import make_app
from workers.embedded import ServerUrls
from workers.publisher import CeleryPublisher
from workers.stack import Stack

USERS, BATCH_USERS = 1500, 100
PATIENCE = 60.0


@contextmanager
def system(home: Path, database: str, redis_url: str, *, workers: int, beat: bool = True) -> Iterator[Stack]:
    """Workers and beat on the test's servers."""
    chosen = quick(home, BATCH_USERS)
    with Stack(chosen, ServerUrls(database, redis_url), workers=workers, beat=beat, flower=False, exporter=False) as it:
        yield it


def start_nights(engine: Engine, redis_url: str, home: Path) -> None:
    """Plan all nights, one run each, and publish the first; before there is a beat, which would plan only the last."""
    on_paper = System(engine, ServerUrls("", redis_url), quick(home, BATCH_USERS))
    on_paper.plan(each=True)
    on_paper.tick()


def wait_done(engine: Engine) -> None:
    """All nights are done."""
    unfinished = "SELECT count(*) FROM runs WHERE status <> 'done'"
    wait_until(lambda: scalar(engine, unfinished) == 0, seconds=PATIENCE, what="the end of the nights")


def check(engine: Engine, expected: DayDigest) -> None:
    """The last night is as if nothing had happened, and every count is that of the tables."""
    assert digest_of_day(engine, LAST_SAMPLE_DAY) == expected
    per_run = rows(engine, "SELECT day, rows, trades FROM runs ORDER BY day")
    stored = rows(
        engine,
        "SELECT day, count(*), (SELECT count(*) FROM trades t WHERE t.day = p.day) FROM portfolio_days p"
        " GROUP BY day ORDER BY day",
    )
    assert per_run == stored
    assert scalar(engine, "SELECT count(*) FROM quarantine") == 0


def some_batches_done(engine: Engine, count: int) -> None:
    """Work is under way."""
    wait_until(lambda: scalar(engine, "SELECT count(*) FROM batches WHERE status = 'done'") >= count)


@pytest.mark.parametrize("workers", [1, 3])
def test_any_number_of_processes_gives_the_same_bytes(
    database: str, engine: Engine, redis_url: str, tmp_path: Path, expected: DayDigest, workers: int
) -> None:
    start_nights(engine, redis_url, tmp_path)
    with system(tmp_path, database, redis_url, workers=workers, beat=False):
        wait_done(engine)
    check(engine, expected)
    assert scalar(engine, "SELECT count(DISTINCT worker) FROM batches") == workers


def test_a_whole_worker_group_is_killed_in_the_middle_of_a_night(
    database: str, engine: Engine, redis_url: str, tmp_path: Path, expected: DayDigest
) -> None:
    start_nights(engine, redis_url, tmp_path)
    with system(tmp_path, database, redis_url, workers=2) as stack:
        for done in (5, 40):
            some_batches_done(engine, done)
            group = os.getpgid(stack.processes["simulations"])
            os.killpg(group, signal.SIGKILL)
            wait_until(lambda group=group: stack.processes.get("simulations") not in {None, group})  # type: ignore[misc]
        wait_done(engine)
    check(engine, expected)


def test_every_message_is_lost_and_every_message_comes_three_times(
    database: str, engine: Engine, redis_url: str, tmp_path: Path, expected: DayDigest
) -> None:
    start_nights(engine, redis_url, tmp_path)
    chosen = quick(tmp_path, BATCH_USERS)
    with system(tmp_path, database, redis_url, workers=2), make_app(chosen, redis_url) as app:
        publish = CeleryPublisher(app)
        some_batches_done(engine, 5)
        with redis.Redis.from_url(redis_url) as client:
            client.flushdb()
        some_batches_done(engine, 30)
        for _ in range(2):
            change(engine, "UPDATE batches SET status = 'planned' WHERE status = 'queued'")
            publish_planned(engine, publish, now=now())
        wait_done(engine)
    check(engine, expected)


def test_a_stopped_worker_cannot_commit_what_another_has_done(
    database: str, engine: Engine, redis_url: str, tmp_path: Path, expected: DayDigest
) -> None:
    """SIGSTOP in the middle of a batch; its session is ended, another does the batch, then it wakes up."""
    start_nights(engine, redis_url, tmp_path)
    with installed(tmp_path / "installed") as moments:
        # Before there is a worker: they may have done all nights when the last of the stack's processes answers.
        moments.arm("before_done", signal.SIGSTOP)
        with system(tmp_path, database, redis_url, workers=2):
            victim = wait_until(lambda: moments.reached("before_done"), what="a batch that is about to be done")
            change(
                engine,
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND application_name LIKE :name",
                name=f"%:{victim}",
            )
            wait_done(engine)
            os.kill(victim, signal.SIGCONT)
            wait_until(lambda: tick_is_idle(engine, chosen=quick(tmp_path, BATCH_USERS)), what="quiet")
    check(engine, expected)
    assert scalar(engine, "SELECT max(attempts) FROM batches") == 2


def tick_is_idle(engine: Engine, chosen: Settings) -> bool:
    """Nothing is left to do for a tick."""
    return tick(engine, lambda _: None, now=now(), settings=chosen).summary() == "nothing to do"


def test_terminated_sessions_are_retried_and_nobody_is_blamed(
    database: str, engine: Engine, redis_url: str, tmp_path: Path, expected: DayDigest
) -> None:
    start_nights(engine, redis_url, tmp_path)
    with system(tmp_path, database, redis_url, workers=2):
        for done in range(5, 60, 8):
            some_batches_done(engine, done)
            change(
                engine,
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND application_name LIKE 'nightshift worker%'",
            )
        wait_done(engine)
    check(engine, expected)
    assert scalar(engine, "SELECT count(*) FROM batches WHERE status = 'split'") == 0
