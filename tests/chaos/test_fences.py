"""Two fences, each alone: no session is ended, no key is unique, and nobody is stopped by anything else.

The one who is fenced off is a process that stands still (SIGSTOP) with the rows of its batch written, just before the
statement that marks the batch done; the other is a second process, which is given the same batch.
"""

from __future__ import annotations

import os
import signal
from pathlib import Path

import psutil
import pytest
from sqlalchemy import Engine

from benchmarks.chaos.logs import read_logs
from services.digest import DayDigest, digest_of_day
from tests.support.insiders import inside, stop_before_done
from tests.support.nights import change, rows, scalar
from tests.support.polling import wait_until
from tests.support.workers import System, pool, quick
from workers.child_process import ChildProcess
from workers.embedded import ServerUrls

USERS = 400
# No session ends within an hour, however idle it is (workers/process.py), and no message is sent again for its age.
ENDLESS = {"soft_time_limit": 3600, "hard_time_limit": 7200, "visibility_timeout": 9000, "overdue_seconds": 3600}


@pytest.fixture
def system(engine: Engine, database: str, redis_url: str, tmp_path: Path) -> System:
    """One batch that waits to be published, and partitions in which a row may stand twice."""
    system = System(engine, ServerUrls(database, redis_url), quick(tmp_path, USERS, **ENDLESS))
    system.plan()
    keys = rows(
        engine,
        "SELECT conrelid::regclass::text, conname FROM pg_constraint JOIN pg_inherits ON inhrelid = conrelid"
        " WHERE contype = 'p' AND inhparent IN ('portfolio_days'::regclass, 'trades'::regclass)",
    )
    assert len(keys) >= 9  # eight days and a month
    for table, key in keys:
        change(engine, f"ALTER TABLE {table} DROP CONSTRAINT {key}")
    return system


def one_more_stands_still(system: System, child: ChildProcess, *others: int) -> int:
    """Wait until another process of the pool than `others` has stopped; its id."""

    def stopped() -> set[int]:
        system.tick()
        still = {process.pid for process in pool(child.pid) if process.status() == psutil.STATUS_STOPPED}
        return still.difference(others)

    return wait_until(stopped, seconds=60, what="a process that stands still").pop()


def check(system: System, expected: DayDigest) -> None:
    """Every row is there once, as if nothing had happened."""
    assert digest_of_day(system.engine) == expected
    assert rows(system.engine, "SELECT sum(rows), sum(trades) FROM runs") == rows(
        system.engine, "SELECT (SELECT count(*) FROM portfolio_days), (SELECT count(*) FROM trades)"
    )
    assert scalar(system.engine, "SELECT status FROM runs") == "done"


def test_the_lease_alone_keeps_a_second_delivery_from_the_batch(
    system: System, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, expected: DayDigest
) -> None:
    """The claim would let the second in, for the batch is running and its run is; it would count an attempt."""
    inside(tmp_path / "inside", monkeypatch, stop_before_done, False)
    with system.worker(processes=2) as child:
        first = one_more_stands_still(system, child)
        batch = scalar(system.engine, "SELECT id FROM batches")
        system.deliver(batch)
        wait_until(
            lambda: read_logs(child.log.parent).needless or system.batch(batch)[1] > 1, what="the second delivery"
        )
        assert system.batch(batch) == ("running", 1)
        os.kill(first, signal.SIGCONT)
        system.all_done()
    assert system.batch(batch) == ("done", 1)
    check(system, expected)


@pytest.mark.parametrize("meanwhile", ["is at work", "is done"])
def test_the_attempts_alone_keep_who_lost_his_lease_from_committing(
    system: System, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, expected: DayDigest, meanwhile: str
) -> None:
    """He wakes up while another is at work, and only the attempts tell; or when it is done, and the status does too."""
    inside(tmp_path / "inside", monkeypatch, stop_before_done, True)
    with system.worker(processes=2) as child:
        first = one_more_stands_still(system, child)
        batch = scalar(system.engine, "SELECT id FROM batches")
        second = one_more_stands_still(system, child, first)
        assert system.batch(batch) == ("running", 2)
        if meanwhile == "is done":
            os.kill(second, signal.SIGCONT)
            system.all_done()
        # He could go on where he stopped: his session has not ended, nor his transaction.
        sessions = "SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE :name AND xact_start IS NOT NULL"
        assert scalar(system.engine, sessions, name=f"%:{first}") == 1
        before = system.batch(batch)
        os.kill(first, signal.SIGCONT)
        wait_until(lambda: scalar(system.engine, sessions, name=f"%:{first}") == 0, what="the end of his transaction")
        assert system.batch(batch) == before
        os.kill(second, signal.SIGCONT)
        system.all_done()
        errors = wait_until(lambda: read_logs(child.log.parent).errors, what="word of the stale claim")
    assert [error.split(":")[0] for error in errors[batch]] == ["StaleClaimError"]
    assert system.batch(batch) == ("done", 2)
    check(system, expected)
