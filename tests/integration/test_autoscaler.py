"""The wish for workers, kept in the database, and the pool that grows by itself: on real servers and real workers.

How busy the host is comes from a file that the test writes: a test machine has no cores to spare. So does, where a test
is about memory, what a process is reckoned to take: a market that takes so much would take long. All else is real.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import psutil
import pytest
import redis
from celery import Celery
from sqlalchemy import Engine

from core.database import session_scope
from services.scaling import Signals
from services.scaling_inputs import Fleet, Load, decide, desired_workers, read_fleet, read_signals, write_loads
from services.worker_registry import Answer, clock_of, write_answers
from tests.support.exporter import exporter, scrape
from tests.support.nights import LAST_SAMPLE_DAY, change, rows, sample_world, scalar, settings
from tests.support.polling import wait_until
from tests.support.workers import System, now, quick
from workers.app import make_app
from workers.autoscaler import Pace
from workers.embedded import ServerUrls
from workers.environment import child_environment
from workers.exporter.watcher import ask
from workers.host_load import HostMeter

UP, DOWN, LEAST, MOST = timedelta(seconds=2), timedelta(seconds=3), 1, 3


@dataclass
class Pool:
    """One worker that scales itself, what it has logged, and the sizes of its pool that were seen."""

    process: subprocess.Popen[bytes]
    log: Path
    host: Path
    app: Celery

    def size(self) -> int:
        """Processes of the pool."""
        children = psutil.Process(self.process.pid).children()
        return sum(child.status() != psutil.STATUS_ZOMBIE for child in children)

    def room(self, cores: float, memory: int = 2**40) -> None:
        """So many cores and bytes are free from now on."""
        new = self.host.with_suffix(".new")
        new.write_text(json.dumps([cores, memory]))
        new.replace(self.host)

    def reason(self) -> str:
        """Why it is as large as it is."""
        (stats,) = (self.app.control.inspect(timeout=0.5).stats() or {"": {"autoscaler": {"reason": ""}}}).values()
        return str(stats["autoscaler"]["reason"])

    def resized(self) -> list[dict[str, Any]]:
        """Its decisions, as it logged them."""
        lines = self.log.read_text().splitlines()
        found = [json.loads(line) for line in lines if line.startswith("{")]
        return [line for line in found if line.get("event") == "pool resized"]


@pytest.fixture
def empty(engine: Engine, database: str, redis_url: str, tmp_path: Path) -> System:
    """Neither prices nor users."""
    chosen = quick(
        tmp_path, 100, log_format="json", scale_queue=3, scale_up_seconds=UP.total_seconds(),
        scale_down_seconds=DOWN.total_seconds(), soft_time_limit=300, hard_time_limit=400,
    )  # fmt: skip
    return System(engine, ServerUrls(database, redis_url), chosen)


def fill(system: System) -> None:
    """Eight nights of fifteen batches."""
    sample_world(system.engine, 1500, start=LAST_SAMPLE_DAY - timedelta(days=7), spread_days=3)


@pytest.fixture
def system(empty: System) -> System:
    """Eight nights of fifteen batches."""
    fill(empty)
    return empty


@contextmanager
def pool(system: System, directory: Path, **environment: str) -> Iterator[Pool]:
    """A worker whose pool may have LEAST to MOST processes, and that answers."""
    host = directory / "room"
    environment |= child_environment(system.settings, system.urls) | {"TEST_ROOM": str(host)}
    command = [
        sys.executable, "-m", "celery", "-q", "-A", "tests.support.roomy", "worker", "-n", "simulations@%h",
        "-Q", "simulations,reprocess", "--autoscale", f"{MOST},{LEAST}", "--without-mingle", "--without-gossip",
        "--loglevel", "info",
    ]  # fmt: skip
    log = directory / "worker.log"
    host.write_text("[0, 0]")
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=environment, stdout=output, stderr=output, start_new_session=True)
    try:
        with make_app(system.settings, system.urls.redis_url) as app:
            wait_until(lambda: ask(app)[0], seconds=60, what="a worker that answers")
            yield Pool(process, log, host, app)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def test_a_pool_grows_where_there_is_room_and_shrinks_when_idle(system: System, tmp_path: Path) -> None:
    system.plan()
    sizes: list[int] = []

    def seen(pool: Pool, size: int) -> bool:
        if not sizes or sizes[-1] != pool.size():
            sizes.append(pool.size())
        return sizes[-1] == size

    with pool(system, tmp_path) as its:
        with system.held("table"):
            system.tick()
            system.a_batch_waits()
            wait_until(lambda: "wait, over 3, but" in its.reason(), what="a look at a host that is full")
            with redis.Redis.from_url(system.urls.redis_url) as client:
                # Those that it might do if it were larger are left to others.
                assert (its.size(), client.hlen("nightshift:unacked")) == (LEAST, LEAST)
                its.room(2)
                wait_until(lambda: seen(its, MOST), seconds=30, what="a pool that has grown")
                wait_until(lambda: client.hlen("nightshift:unacked") == MOST, what="messages for all processes")
        while scalar(system.engine, "SELECT count(*) FROM runs WHERE status <> 'done'"):
            system.tick()
        wait_until(lambda: seen(its, LEAST), seconds=30, what="a pool that has shrunk")
        changes = its.resized()
    assert [(change["before"], change["processes"]) for change in changes[:2]] == [(1, 2), (2, 3)]
    assert changes[-1]["processes"] == LEAST
    assert all(LEAST <= change["processes"] <= MOST for change in changes)
    for before, after in pairwise(changes):
        cool_down = UP if after["processes"] > after["before"] else DOWN
        assert datetime.fromisoformat(after["at"]) - datetime.fromisoformat(before["at"]) >= cool_down
    assert max(sizes) == MOST


def test_a_market_that_comes_after_the_worker_counts_for_its_processes(empty: System, tmp_path: Path) -> None:
    system, engine = empty, empty.engine
    # Without a market every process is over its limit; with one none is.
    base, asset = 10_000, 100_000
    with pool(system, tmp_path, TEST_PROCESS_KIB=json.dumps([base, asset])) as its:
        fill(system)
        system.plan(each=True)
        change(engine, "UPDATE runs SET paused = true WHERE id > 1")
        system.tick()
        wait_until(lambda: scalar(engine, "SELECT status FROM runs WHERE id = 1") == "done", seconds=60)
        # The one that was there before the market, and the one in its place.
        assert rows(engine, "SELECT count(*), count(DISTINCT worker) FROM batches WHERE run_id = 1") == [(11, 2)]
        assert its.log.read_text().count("took too much memory") == 1

        assets = scalar(engine, "SELECT count(*) FROM assets")
        process = 1024 * (base + 4 * system.settings.batch_users + asset * assets)
        its.room(MOST, process - 1)
        change(engine, "UPDATE runs SET paused = false")
        with system.held("table"):
            system.tick()
            system.a_batch_waits()
            wait_until(lambda: "wait, over 3, but" in its.reason(), what="a look at a host without that memory")
            assert its.size() == LEAST
            its.room(MOST, process)
            wait_until(lambda: its.size() == LEAST + 1, what="the process that there is memory for")


def test_the_wish_follows_the_work_outlives_everything_and_is_shown(system: System) -> None:
    engine, url = system.engine, system.urls.redis_url
    with session_scope(engine) as session:
        assert desired_workers(session) == {}
    assert decide(engine, url, now=now(), settings=system.settings).workers == 2
    system.plan(each=True)
    moment = now()
    # A hundred and twenty batches wait, over three: one more after each cool-down.
    wishes = [decide(engine, url, now=moment + UP * step / 2, settings=system.settings).workers for step in range(5)]
    assert wishes == [3, 3, 4, 4, 5]
    page = scrape(exporter(engine, url, settings=system.settings))
    assert page["nightshift_desired_workers", ("simulations",)] == 5
    change(engine, "UPDATE runs SET paused = true")
    calm = [decide(engine, url, now=moment + UP * 2 + DOWN * (1 + step), settings=system.settings) for step in range(3)]
    assert [decision.workers for decision in calm] == [5, 2, 2]


def test_what_a_wish_is_made_of(system: System) -> None:
    engine = system.engine
    system.plan(each=True)
    measured = "started_at = '2024-01-01', finished_at = '2024-01-01 00:00:07'"
    for statement in (
        f"UPDATE batches SET status = 'done', {measured} WHERE run_id = 1",
        "UPDATE batches SET status = 'running' WHERE run_id = 2 AND seq < 4",
        "UPDATE runs SET started_at = '2024-01-01' WHERE id = 1",
        "UPDATE runs SET paused = true WHERE id > 6",
    ):
        change(engine, statement)
    with session_scope(engine) as session:
        found = read_signals(session, Fleet(processes=1.5, cpu=0.5), settings(reprocess_in_flight=6))
    unfinished = scalar(engine, "SELECT count(*) FROM batches WHERE run_id BETWEEN 2 AND 6")
    at_once = unfinished + 6
    assert found == Signals(unfinished - 4, 4, 7.0, processes=1.5, at_once=at_once, cpu=0.5)


def test_the_fleet_is_what_its_workers_say(redis_url: str) -> None:
    with redis.Redis.from_url(redis_url) as client:
        assert read_fleet(client) == Fleet()
        moment = clock_of(client)
        groups = {"simulations@a": Answer(("simulations",), 2), "simulations@b": Answer(("simulations",), 5)}
        write_answers(client, moment, groups | {"control@a": Answer(("control",), 1)})
        write_loads(client, moment, {"simulations@a": Load(0.5, 0.25), "simulations@b": Load(1.0, 0.75)})
        assert read_fleet(client) == Fleet(3.5, 0.75, 0.5)
        write_loads(client, moment - 40, {"simulations@a": Load(0.5, 0.25)})
        assert read_fleet(client) == Fleet(3.5)


def test_pace_is_the_time_of_processes_by_message() -> None:
    pace = Pace()
    pace.look(0.0, 2, 10)
    assert pace.seconds is None
    # Two processes in work for ten seconds, and ten messages came to work: two seconds each.
    pace.look(10.0, 2, 20)
    assert pace.seconds == pytest.approx(2.0)


@pytest.mark.parametrize("version", [1, 2])
def test_a_container_has_no_more_than_its_limits(tmp_path: Path, version: int) -> None:
    membership = tmp_path / "membership"
    used = 50 * 2**20
    if version == 2:
        membership.write_text("0::/pod/container\n")
        files = {
            "pod/cpu.max": "5000 100000", "pod/container/cpu.max": "max 100000",
            "pod/container/cpu.stat": "usage_usec 1000000\nuser_usec 5", "pod/container/memory.max": str(2 * used),
            "pod/container/memory.current": str(used + 4096), "pod/container/memory.stat": "anon 5\ninactive_file 4096",
        }  # fmt: skip
    else:
        # As a container sees it that has its own mounts but the machine's names: only the root is there.
        membership.write_text("4:memory:/docker/x\n3:cpu,cpuacct:/docker/x\n")
        files = {
            "cpu,cpuacct/cpu.cfs_quota_us": "5000", "cpu,cpuacct/cpu.cfs_period_us": "100000",
            "cpu,cpuacct/cpuacct.usage": "1000000000", "memory/memory.limit_in_bytes": str(2 * used),
            "memory/memory.usage_in_bytes": str(used + 4096), "memory/memory.stat": "total_inactive_file 4096",
        }  # fmt: skip
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content + "\n")
    load = HostMeter(tmp_path, membership).look()
    # It may use a twentieth of a core, and used nothing.
    assert 0 <= load.free_cores <= 0.05
    assert load.free_memory <= used
    assert load.memory >= 0.5
    free = HostMeter(tmp_path / "nothing", tmp_path / "nothing").look()
    assert free.free_memory > used
    assert 0 <= free.cpu <= 1
