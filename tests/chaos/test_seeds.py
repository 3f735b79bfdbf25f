"""Chaos itself: a few seeds come out as if nothing had happened, and the checks see what they are there to see."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.chaos.checks import check
from benchmarks.chaos.logs import Said
from benchmarks.chaos.schedule import schedule
from benchmarks.chaos.world import CHAOS, World, make_world, run_undisturbed
from tests.support.cli import Outcome, command, environment
from tests.support.database import FAST
from tests.support.nights import change, settings
from workers.embedded import EmbeddedServers

NIGHTS, USERS = 3, 300
# Between them: each server killed, workers killed and stopped, crashes, the network, poisonous users.
SEEDS = (2, 3, 4)
SECONDS = 240


def test_seeds_come_out_as_if_nothing_had_happened(tmp_path: Path) -> None:
    # Most of a seed is waiting, so they wait together.
    running = {}
    for seed in SEEDS:
        home = tmp_path / str(seed)
        home.mkdir()
        arguments = command("chaos", "--seed", seed, "--nights", NIGHTS, "--users", USERS, "--json")
        running[seed] = subprocess.Popen(
            arguments, env=environment(home), cwd=home, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
    outcomes = {}
    try:
        for seed, process in running.items():
            out, err = process.communicate(timeout=SECONDS)
            outcomes[seed] = Outcome(process.returncode, out, err)
    finally:
        for process in running.values():
            with process:
                process.terminate()
    for seed, outcome in outcomes.items():
        assert outcome.code == 0, outcome.err
        document = outcome.json
        assert (document["lost"], document["doubled"], document["digest_equal"]) == (0, 0, True)
        struck = sorted(fault["kind"] for fault in document["faults"])
        assert struck == sorted(fault.kind for fault in schedule(seed, nights=NIGHTS))
        assert all(fault["at_s"] is not None and fault["recovered_s"] is not None for fault in document["faults"])
        assert f"nightshift chaos --seed {seed}" in document["replay"]


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Two databases in which the same nights were done, neither disturbed."""
    with EmbeddedServers(tmp_path_factory.mktemp("chaos"), postgres_settings=FAST, serve_redis=False) as servers:
        made = make_world(servers.start().database_url, seed_number=5, users=60, nights=2, faults=())
        for name in (CHAOS, "reference"):
            run_undisturbed(made, settings(made.batch_users), name)
        yield made
        made.close()


def test_undisturbed_nights_pass_every_check(world: World) -> None:
    verdict = check(world, Said())
    assert verdict.failures == []
    flags = (verdict.digest_equal, verdict.runs_ok, verdict.batches_ok, verdict.counts_ok, verdict.quarantine_ok)
    assert all(flags)


# What goes wrong, how it is put right again, and the checks that must see it.
_REST = "nights, cash, equity, peak, return_mean, return_m2, max_drawdown, asset_ids, quantities, cost_basis, state"
_KEY, _OTHER = "day, user_id, simulation_id", "day, user_id, simulation_id + 1000000"
_ROW = "user_id = 7 AND day = '2022-12-28'"
WRONGS = {
    "a lost row": (
        f"CREATE TABLE kept AS SELECT * FROM portfolio_days WHERE {_ROW}; DELETE FROM portfolio_days WHERE {_ROW}",
        "INSERT INTO portfolio_days SELECT * FROM kept; DROP TABLE kept",
        {"lost", "counts", "digest"},
    ),
    "a row too many": (
        f"INSERT INTO portfolio_days ({_KEY}, {_REST}) SELECT {_OTHER}, {_REST} FROM portfolio_days WHERE {_ROW}",
        "DELETE FROM portfolio_days WHERE simulation_id > 1000000",
        {"doubled", "counts", "digest"},
    ),
    "a tick of cash": (
        "UPDATE portfolio_days SET cash = cash + 1 WHERE user_id = 7 AND day = '2022-12-27'",
        "UPDATE portfolio_days SET cash = cash - 1 WHERE user_id = 7 AND day = '2022-12-27'",
        {"digest"},
    ),
    "a tick of a trade": (
        "UPDATE trades SET realised = realised + 1 WHERE user_id = 7",
        "UPDATE trades SET realised = realised - 1 WHERE user_id = 7",
        {"counts"},
    ),
    "a batch in flight": (
        "UPDATE batches SET status = 'queued' WHERE id = 1",
        "UPDATE batches SET status = 'done' WHERE id = 1",
        {"batches"},
    ),
    "a run in flight": (
        "UPDATE runs SET status = 'running' WHERE id = 1",
        "UPDATE runs SET status = 'done' WHERE id = 1",
        {"runs"},
    ),
    "a wrong total": (
        "UPDATE runs SET trades = trades + 1",
        "UPDATE runs SET trades = trades - 1",
        {"counts"},
    ),
    "an innocent user in quarantine": (
        "INSERT INTO quarantine (user_id, day, reason, detail) VALUES (7, '2022-12-28', 'error', 'innocent')",
        "DELETE FROM quarantine",
        {"quarantine"},
    ),
}


@pytest.mark.parametrize("name", WRONGS)
def test_whatever_is_wrong_is_found(world: World, name: str) -> None:
    wrong, undo, found = WRONGS[name]
    engine = world.engine(CHAOS)
    change(engine, wrong)
    try:
        failures = check(world, Said()).failures
    finally:
        change(engine, undo)
    assert {failure.split(":")[0] for failure in failures} == found
