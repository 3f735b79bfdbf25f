"""Ten thousand users, seven of whom break a night in seven ways: nobody else notices."""

from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path
from typing import NamedTuple

import pytest
from sqlalchemy import Engine

from benchmarks.chaos.installed import installed
from core.database import make_engine
from services.digest import DayDigest, digest_of_day
from tests.support import poison
from tests.support.database import new_database
from tests.support.nights import LAST_SAMPLE_DAY, Night, change, rows, sample_world, scalar, settings
from tests.support.polling import wait_until
from tests.support.workers import System, pool, quick
from workers.embedded import ServerUrls
from workers.stack import Stack

USERS, BATCH_USERS = 10_000, 100
NIGHTS = (LAST_SAMPLE_DAY - timedelta(days=1), LAST_SAMPLE_DAY)
# Each hang costs a soft limit; the others are out of its way.
LIMITS = {"soft_time_limit": 2, "hard_time_limit": 20, "visibility_timeout": 60}


class Poison(NamedTuple):
    """What is wrong with a user's simulation, and how he must be found in quarantine."""

    change: str
    reason: str
    detail: str


def strategy(code: int) -> str:
    return f"strategy = {code}, params = params[1:5]"


DIED = "the worker died or hung 2 times on this batch"
OVERFLOW = (
    "strategy = 1, params = '{0,0,0,0,0}', initial_cash = 9223372036854775807, weights_ppm = '{1000000}',"
    " asset_ids = ARRAY[(SELECT id FROM assets WHERE symbol = 'PENNY')]"
)
# The first two share a batch, and so do the next two.
POISON = {
    151: Poison(strategy(1001), "error", "PoisonError: user 151 cannot be advanced"),
    152: Poison(strategy(1002), "worker_lost", DIED),
    3001: Poison("params = '{1}'", "malformed", "strategy, parameters, assets or weights are malformed"),
    3100: Poison(strategy(1004), "error", "SoftTimeLimitExceeded"),
    5050: Poison(strategy(1003), "error", "MemoryError"),
    7000: Poison(strategy(poison.Leaves.code), "worker_lost", DIED),
    10_000: Poison(OVERFLOW, "overflow", "a value does not fit 92 billion units"),
}
# Those for whom a batch must be divided; the ledger finds the others.
DIVIDED = sum(found.reason in {"error", "worker_lost"} for found in POISON.values())


@pytest.fixture(scope="module")
def world(servers: ServerUrls) -> Iterator[str]:
    """The name of a database in which everybody begins on the first of the nights, and all are well."""
    with new_database(servers.database_url, "poison_world") as url:
        engine = make_engine(url)
        sample_world(engine, USERS, start=NIGHTS[0], spread_days=0)
        # Of an asset that costs a tick, riches buy more than there are numbers.
        change(engine, "INSERT INTO assets (symbol) VALUES ('PENNY')")
        for night in NIGHTS:
            change(
                engine,
                "INSERT INTO closes (day, asset_id, close, source)"
                " SELECT :day, id, 1, 'test' FROM assets WHERE symbol = 'PENNY'",
                day=night,
            )
        engine.dispose()
        yield "poison_world"


@pytest.fixture(scope="module")
def expected(servers: ServerUrls, world: str) -> dict[date, DayDigest]:
    """The digests of the nights if the seven did not exist."""
    with new_database(servers.database_url, f"{world}_expected", template=world) as url:
        engine = make_engine(url)
        change(engine, "DELETE FROM simulations WHERE user_id = ANY(:users)", users=list(POISON))
        Night(engine, settings()).run(NIGHTS[-1], each=True)
        digests = {night: digest_of_day(engine, night) for night in NIGHTS}
        engine.dispose()
        return digests


@pytest.fixture
def _third_parties(tmp_path: Path) -> Iterator[None]:
    """Processes that are started now find the poisonous strategies, and of chaos nothing else."""
    with installed(tmp_path / "installed"):
        (tmp_path / "installed" / "sitecustomize.py").unlink()
        poison.offer(tmp_path / "installed")
        yield


@pytest.mark.usefixtures("_third_parties")
def test_seven_of_ten_thousand_users_are_poisonous_each_in_another_way(
    engine: Engine, database: str, redis_url: str, tmp_path: Path, expected: dict[date, DayDigest]
) -> None:
    for user, wrong in POISON.items():
        change(engine, f"UPDATE simulations SET {wrong.change} WHERE user_id = :user", user=user)
    system = System(engine, ServerUrls(database, redis_url), quick(tmp_path, BATCH_USERS, workers=2, **LIMITS))
    system.plan(each=True)
    with Stack(system.settings, system.urls, workers=2, flower=False, exporter=False) as stack:
        group = stack.processes["simulations"]
        unfinished = "SELECT count(*) FROM runs WHERE status <> 'done'"
        wait_until(lambda: scalar(engine, unfinished) == 0, seconds=150, what="the end of both nights")
        assert stack.processes["simulations"] == group
        wait_until(lambda: len(pool(group)) == 2, what="the two processes of the pool")

    found = rows(engine, "SELECT user_id, reason, detail, day FROM quarantine ORDER BY user_id, id")
    assert [user for user, *_ in found] == list(POISON)
    for user, reason, detail, day in found:
        assert (reason, day) == (POISON[user].reason, NIGHTS[0])
        assert detail.startswith(POISON[user].detail)
    assert {night: digest_of_day(engine, night) for night in NIGHTS} == expected
    well = USERS - len(POISON)
    assert rows(engine, "SELECT rows, quarantined FROM runs ORDER BY day") == [(well, len(POISON)), (well, 0)]

    # Bounded: of the levels of a division only the first and the last are tried twice, and nobody innocent is divided.
    allowed = "CASE WHEN parent_id IS NULL OR users = 1 THEN 2 ELSE 1 END"
    assert rows(engine, f"SELECT id, attempts FROM batches WHERE attempts > {allowed}") == []
    levels = math.ceil(math.log2(BATCH_USERS))
    assert scalar(engine, "SELECT count(*) FROM batches WHERE status = 'split'") <= DIVIDED * levels
