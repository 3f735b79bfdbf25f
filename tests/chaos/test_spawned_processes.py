"""A pool whose processes are fresh interpreters, as on macOS: it does the nights, and ends, like any other."""

from __future__ import annotations

from pathlib import Path

import psutil
import pytest
from sqlalchemy import Engine

from services.digest import DayDigest, digest_of_day
from tests.support.nights import rows, scalar
from tests.support.polling import wait_until
from tests.support.workers import System, gone, quick, told_to_stop
from workers.embedded import ServerUrls

USERS = 100


@pytest.fixture
def system(engine: Engine, database: str, redis_url: str, tmp_path: Path) -> System:
    """A night has five batches."""
    return System(engine, ServerUrls(database, redis_url), quick(tmp_path, USERS // 5))


def test_fresh_interpreters_do_the_nights_and_a_lost_one_is_replaced(system: System, expected: DayDigest) -> None:
    system.plan(each=True)
    with system.worker(2, "--pool-start-method", "spawn") as child:
        wait_until(lambda: system.tick() and scalar(system.engine, "SELECT max(worker) FROM batches"), seconds=60)
        worker = str(scalar(system.engine, "SELECT max(worker) FROM batches"))
        process = psutil.Process(int(worker.rpartition(":")[2]))
        assert process.parent() == psutil.Process(child.pid)
        assert "spawn_main" in " ".join(process.cmdline())
        process.kill()
        wait_until(
            lambda: system.tick() and not rows(system.engine, "SELECT FROM runs WHERE status <> 'done'"), seconds=60
        )
        told_to_stop(child)
        assert gone(child, 20.0) == 0
    assert digest_of_day(system.engine) == expected
