"""`nightshift bench workers`: pools of different sizes in turn, each of which does its nights, and alone."""

from __future__ import annotations

import os
import signal
from datetime import timedelta
from pathlib import Path

import psutil
import pytest

from benchmarks.nights import run_night
from benchmarks.pools import pools
from benchmarks.site import bench_site, prepare
from benchmarks.workers import compare
from core.errors import NightshiftError
from core.settings import Settings
from tests.support.cli import Shell
from tests.support.nights import rows


def parent_of(worker: str) -> str:
    """The command line of the process whose pool process calls itself so in the table of batches."""
    stat = Path(f"/proc/{worker.rpartition(':')[2]}/stat").read_text(encoding="ascii")
    parent = stat.rpartition(")")[2].split()[1]
    return Path(f"/proc/{parent}/cmdline").read_text(encoding="utf-8").replace("\0", " ")


def group_of(name: str) -> int:
    """The process among ours that has forked the pool `name`."""
    ours = psutil.Process().children()
    (pid,) = [process.pid for process in ours if any(part.startswith(name) for part in process.cmdline())]
    return pid


def test_each_pool_does_its_nights_alone_and_is_compared_with_the_first() -> None:
    with bench_site(Settings(_env_file=None, batch_users=50), 2) as site:
        first = prepare(site, users=1_000, nights=9)
        with pools(site, [3, 1]) as found:
            for number, (size, name) in enumerate({3: "pool-of-3@", 1: "pool-of-1@", 2: "simulations@"}.items()):
                found.serve(size)
                run = run_night(found.watched, first + timedelta(days=number)).run_id
                by = rows(site.engine, "SELECT DISTINCT worker FROM batches WHERE run_id = :run", run=run)
                assert 0 < len(by) <= size
                assert all(f"{name}%h -c {size} " in parent_of(worker) for (worker,) in by)
            figures = compare(found, first + timedelta(days=3), 1, lambda _: None)
            found.serve(3)
            os.kill(group_of("pool-of-3@"), signal.SIGKILL)
            with pytest.raises(NightshiftError, match=r"pool-of-3 has ended \(-9\), see .*pool-of-3.log"):
                run_night(found.watched, first + timedelta(days=9))
            with pytest.raises(NightshiftError, match="pool-of-3 has ended"):
                found.serve(2)

    assert figures["workers"] == 2
    ratios_of = ("night_to_workers", "mean_night_to_workers")
    for name in ("night_seconds", "users_per_second", *ratios_of, "each_night_seconds"):
        assert list(figures[name]) == ["1", "2", "3"], name
    ((one,), (two,), (three,)) = figures["each_night_seconds"].values()
    assert figures["users_per_second"]["1"]["median"] == pytest.approx(1_000 / one, rel=0.01)
    ratios = {size: spread["median"] for size, spread in figures["night_to_workers"].items()}
    assert ratios == {"1": pytest.approx(one / two, rel=0.01), "2": 1, "3": pytest.approx(three / two, rel=0.01)}


def test_what_cannot_be_compared_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    shell = Shell(capsys)
    assert "rounds" in shell.refused("bench", "workers", "--rounds", 0)
    assert "no other number of workers to compare 3 with" in shell.refused("bench", "workers", "--workers", 3)
