"""Many nights planned at once: nobody waits for it, a command that is killed leaves nothing half done, and it shows."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import date, timedelta
from pathlib import Path

import pytest
from sqlalchemy import Engine, text

from core.errors import NightshiftError
from models.partitions import PARTITION_LOCK
from services.catching_up import catch_up
from services.digest import digest_of_day
from services.locks import PLANNING_LOCK
from tests.support.cli import command, environment
from tests.support.nights import FIRST_NIGHT, NOW, Night, rows, scalar, settings
from tests.support.polling import wait_until
from workers.embedded import ServerUrls

LAST = FIRST_NIGHT + timedelta(days=8)
NIGHTS = [FIRST_NIGHT + timedelta(days=number) for number in range(9)]
DAYS = [f"portfolio_days_{day:%Y%m%d}" for day in NIGHTS]
MONTHS = ["trades_202211", "trades_202212"]

_CONTROL = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
FREE = "SELECT pg_try_advisory_xact_lock(:planning) AND pg_try_advisory_xact_lock(:partition)"
WAITING = (
    "SELECT pid FROM pg_locks JOIN pg_stat_activity USING (pid) WHERE NOT granted AND datname = current_database()"
    " AND relation = CAST(:table AS regclass)"
)
OF_COMMANDS = (
    "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'nightshift-cli'"
)
TABLES = "SELECT relname FROM pg_class WHERE relkind = 'r' AND relname ~ '^(portfolio_days|trades)_[0-9]+$' ORDER BY 1"
PARTITIONS = (
    "SELECT relname FROM pg_inherits JOIN pg_class ON oid = inhrelid WHERE relkind = 'r'"
    " AND relname ~ '^(portfolio_days|trades)_[0-9]+$' ORDER BY 1"
)


def names(engine: Engine, query: str) -> list[str]:
    return [name for (name,) in rows(engine, query)]


@contextmanager
def held(engine: Engine, table: str) -> Iterator[None]:
    """Nobody adds a partition to the table, and nobody writes to it."""
    with engine.connect() as holder, holder.begin():
        holder.execute(text(f"LOCK TABLE {table} IN SHARE MODE"))
        yield


def caught_up(engine: Engine, through: date = LAST) -> list[int]:
    return catch_up(engine, through=through, now=NOW, settings=settings(400), requested_by="test")


@pytest.mark.parametrize(
    ("table", "left", "planning_waits"),
    [("trades", DAYS, False), ("batches", DAYS + MONTHS, True)],
    ids=["partitions", "nights"],
)
def test_a_command_that_is_killed_while_it_plans_leaves_nothing_half_done(
    month: Engine, fresh: Engine, servers: ServerUrls, tmp_path: Path, table: str, left: list[str], planning_waits: bool
) -> None:
    """In the middle of a partition, and of the nights; the next one goes on, and every day comes out right."""
    url = fresh.url.render_as_string(hide_password=False)
    env = environment(tmp_path, database_url=url, redis_url=servers.redis_url)
    with held(fresh, table):
        process = subprocess.Popen(command("run", "--through", LAST), env=env, cwd=tmp_path)
        try:
            wait_until(lambda: rows(fresh, WAITING, table=table), what="the command waits")
            free = scalar(fresh, "SELECT pg_try_advisory_xact_lock(:key)", key=PLANNING_LOCK)
            assert free is not planning_waits
        finally:
            process.kill()
            process.wait()
    wait_until(lambda: not rows(fresh, OF_COMMANDS), what="the end of its sessions")
    assert names(fresh, TABLES) == names(fresh, PARTITIONS) == left
    assert rows(fresh, "SELECT (SELECT count(*) FROM runs), (SELECT count(*) FROM batches)") == [(0, 0)]

    assert len(caught_up(fresh)) == 1
    night = Night(fresh, settings(400))
    night.publish()
    night.drain()
    assert rows(fresh, "SELECT status, first_day, day FROM runs") == [("done", FIRST_NIGHT, LAST)]
    right_days(month, fresh)


def right_days(month: Engine, fresh: Engine) -> None:
    for day in NIGHTS:
        assert digest_of_day(fresh, day) == digest_of_day(month, day)


def test_nobody_waits_for_more_than_one_partition_or_a_few_nights(
    fresh: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.catching_up.DAYS_AT_ONCE", 4)
    steps: list[tuple[str, int, int, int]] = []

    def told(what: str, done: int, total: int) -> None:
        assert scalar(fresh, FREE, planning=PLANNING_LOCK, partition=PARTITION_LOCK)
        steps.append((what, done, total, len(names(fresh, PARTITIONS))))
        if steps[-1][:3] == ("nights", 4, 9):
            raise InterruptedError

    def planned() -> list[int]:
        chosen = settings(400)
        return catch_up(fresh, through=LAST, now=NOW, settings=chosen, requested_by="me", each=True, told=told)

    with pytest.raises(InterruptedError):
        planned()
    assert steps == [
        *[("partitions", number, 11, number) for number in range(12)],
        ("nights", 0, 9, 11),
        ("nights", 4, 9, 11),
    ]
    assert rows(fresh, "SELECT day FROM runs ORDER BY id") == [(day,) for day in NIGHTS[:4]]
    steps.clear()
    assert len(planned()) == 5
    assert steps == [("partitions", 0, 0, 11), ("nights", 0, 5, 11), ("nights", 4, 5, 11)]
    assert rows(fresh, "SELECT day FROM runs ORDER BY id") == [(day,) for day in NIGHTS]
    assert planned() == []


def test_no_run_has_more_days_than_a_batch_has_time_for(
    month: Engine, fresh: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.catching_up.DAYS_AT_ONCE", 4)
    assert len(caught_up(fresh)) == 3
    night = Night(fresh, settings(400))
    night.publish()
    night.drain()
    cut = [("done", NIGHTS[first], NIGHTS[last]) for first, last in ((0, 3), (4, 7), (8, 8))]
    assert rows(fresh, "SELECT status, first_day, day FROM runs ORDER BY id") == cut
    right_days(month, fresh)


def test_whoever_keeps_a_table_for_himself_is_not_waited_for_for_ever(
    fresh: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.partitions._PATIENT_ATTEMPTS", 2)
    monkeypatch.setattr("services.partitions._PAUSE_SECONDS", 0.0)
    with held(fresh, "trades"), pytest.raises(NightshiftError, match="somebody has held the locks"):
        caught_up(fresh)
    assert names(fresh, PARTITIONS) == DAYS
    assert len(caught_up(fresh)) == 1


def test_partitions_of_days_long_ago_stay_if_the_attempt_ends_before_there_are_all(fresh: Engine) -> None:
    """An attempt at a batch has less than a minute, in which there are not those of years."""
    worker = Night(fresh, settings()).worker
    with ThreadPoolExecutor(1) as thread:
        with held(fresh, "trades"):
            made = thread.submit(worker._make_partitions, time.perf_counter(), FIRST_NIGHT, LAST)
            wait_until(lambda: rows(fresh, WAITING, table="trades"), what="it makes the last ones")
            assert names(fresh, PARTITIONS) == DAYS
        made.result()
    assert names(fresh, PARTITIONS) == DAYS + MONTHS


def test_the_terminal_shows_how_far_planning_is(fresh: Engine, servers: ServerUrls, tmp_path: Path) -> None:
    """And stdout is one JSON document all the same."""
    url = fresh.url.render_as_string(hide_password=False)
    env = environment(tmp_path, database_url=url, redis_url=servers.redis_url) | {"TERM": "xterm", "COLUMNS": "100"}
    ours, its = pty.openpty()
    os.set_blocking(ours, False)
    shown: list[bytes] = []

    def seen() -> bool:
        with suppress(BlockingIOError):
            shown.append(os.read(ours, 4096))
        return "0/9 nights" in _CONTROL.sub("", b"".join(shown).decode())

    try:
        with held(fresh, "batches"):
            arguments = command("run", "--through", LAST, "--json")
            process = subprocess.Popen(arguments, env=env, cwd=tmp_path, stdout=subprocess.PIPE, stderr=its, text=True)
            wait_until(seen, what="the nights that are to be planned, on the terminal")
        out, _ = process.communicate(timeout=60)
    finally:
        process.kill()
        os.close(its)
        os.close(ours)
    assert process.returncode == 0
    document = json.loads(out)
    assert (document["planned"], [run["day"] for run in document["runs"]]) == (True, [str(LAST)])
