"""What a real worker writes: JSON, one line a batch, with all that one looks for; and no secret."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import redis

from tests.support.polling import wait_until
from tests.support.troubled import BATCH_USERS, CANARY, settled, troubled_world
from tests.support.workers import System, quick
from workers.embedded import ServerUrls


@pytest.fixture(scope="module")
def log(servers: ServerUrls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The log of a worker after a night with trouble."""
    redis_url = servers.redis_url
    with redis.Redis.from_url(redis_url) as client:
        client.flushdb()
    with troubled_world(servers, "logs_world") as (engine, url):
        # A worker that starts slowly is not to get a message twice.
        chosen = quick(tmp_path_factory.mktemp("home"), BATCH_USERS, overdue_seconds=60)
        system = System(engine, ServerUrls(url, redis_url), chosen)
        with system.worker() as worker:
            system.plan()
            wait_until(system.tick)
            wait_until(lambda: system.tick() and "no space left" in worker.log.read_text("utf-8"), seconds=60)
            wait_until(lambda: system.tick() and worker.log.read_text("utf-8").count('"batch done"') == 2, seconds=60)
            settled(engine)
            yield worker.log.read_text("utf-8")


def lines(log: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log.splitlines()]


def test_every_line_is_json_with_time_level_logger_and_event(log: str) -> None:
    assert len(lines(log)) > 3
    assert all({"timestamp", "level", "logger", "event"} <= set(line) for line in lines(log))


def test_a_batch_that_is_done_is_one_line_at_info(log: str) -> None:
    done = [line for line in lines(log) if line["event"] == "batch done"]
    assert [(line["level"], line["users"], line["attempt"]) for line in done] == [("info", BATCH_USERS, 1)] * 2
    for line in done:
        # At info nothing else is said of this delivery.
        others = [other for other in lines(log) if other.get("batch") == line["batch"] and other["level"] == "info"]
        assert others == [line]
        assert set(line) >= {"run", "batch", "attempt", "worker", "seconds", "day", "rows", "trades", "quarantined"}
        assert 0 < line["seconds"] < 60
        assert sum(line["stages"].values()) <= line["seconds"]
        assert ":" in line["worker"]


def test_an_attempt_that_fails_is_one_line_with_the_decision_and_the_error(log: str) -> None:
    failed = [line for line in lines(log) if line["level"] == "error"]
    assert sorted((line["event"], line["decision"], line["error"]) for line in failed) == [
        ("batch attempt failed", "fail", "InsufficientPrivilege: permission denied for postgresql://nightshift:********@db/n"),
        ("batch attempt failed", "retry", "DiskFull: no space left on device"),
    ]  # fmt: skip
    assert all(set(line) >= {"run", "batch", "attempt", "worker", "seconds", "exception"} for line in failed)


def test_no_secret_is_in_the_log(log: str) -> None:
    assert "********@db" in log
    assert CANARY not in log
