"""Two hosts on one database and one Redis, one of them cut off in the middle of a batch: nothing is lost or done twice.

The hosts are network namespaces; a link that is down is a cable that was pulled: no connection ends, nothing answers.
"""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import Engine

from core.database import session_scope
from services.digest import DayDigest, digest_of_day
from services.reconciler import put_back
from tests.support.hosts import end, network, reached_by, why_not, worker
from tests.support.nights import LAST_SAMPLE_DAY, change, rows, scalar
from tests.support.polling import wait_until
from tests.support.workers import System, quick
from workers.app import make_app
from workers.embedded import ServerUrls
from workers.exporter.watcher import ask

USERS, BATCH_USERS = 900, 60
FIRST_NIGHTS = LAST_SAMPLE_DAY - timedelta(days=3)
# (8 + 12) / 2 = 10 s after it was cut off, a host's session ends with all that it holds; a wait for a lock, after 4 s.
LIMITS = {"soft_time_limit": 8, "hard_time_limit": 12}
_RUNNING = "SELECT split_part(worker, ':', 1) FROM batches WHERE status = 'running' ORDER BY 1"
_BY_HOST = (
    "SELECT DISTINCT split_part(worker, ':', 1) FROM batches b JOIN runs r ON r.id = b.run_id"
    " WHERE r.day > :day AND b.status = 'done'"
)

pytestmark = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))


def test_a_host_is_cut_off_in_the_middle_of_a_night_and_comes_back(
    database: str, engine: Engine, redis_url: str, tmp_path: Path, expected: DayDigest
) -> None:
    servers = ServerUrls(database, redis_url)
    system = System(engine, servers, quick(tmp_path, BATCH_USERS, **LIMITS))
    with (
        network("first", "second") as net,
        reached_by(net, servers) as urls,
        make_app(system.settings, redis_url) as app,
    ):
        logs = {host: tmp_path / f"{host}.log" for host in ("first", "second")}
        workers = {host: worker(net, host, system.settings, urls, log) for host, log in logs.items()}
        wait_until(lambda: set(ask(app)[0]) == {"simulations@first", "simulations@second"}, seconds=90, what="both")

        system.plan(each=True)
        change(engine, "UPDATE runs SET paused = true WHERE day > :day", day=FIRST_NIGHTS)
        with system.held("granules"):
            # Both have a batch in hand, in the middle of its transaction.
            system.tick()
            wait_until(lambda: rows(engine, _RUNNING) == [("first",), ("second",)], what="both at work")
            net.cut("first")
        nights_end(system)
        assert put_back_as_abandoned(engine) == 1
        assert rows(engine, "SELECT DISTINCT split_part(worker, ':', 1) FROM batches WHERE attempts > 1") == [
            ("second",)
        ]

        # Now the other one goes for good, and the link comes back: the first must do the rest alone.
        end(workers["second"])
        net.heal("first")
        wait_until(lambda: "simulations@first" in ask(app)[0], seconds=90, what="the first host, back again")
        change(engine, "UPDATE runs SET paused = false")
        nights_end(system)
        assert rows(engine, _BY_HOST, day=FIRST_NIGHTS) == [("first",)]

    assert digest_of_day(engine, LAST_SAMPLE_DAY) == expected
    assert rows(engine, "SELECT day, rows, trades FROM runs ORDER BY day") == rows(
        engine,
        "SELECT day, count(*), (SELECT count(*) FROM trades t WHERE t.day = p.day) FROM portfolio_days p"
        " GROUP BY day ORDER BY day",
    )
    # Nobody was blamed for the cable.
    assert scalar(engine, "SELECT count(*) FROM batches WHERE status <> 'done'") == 0
    assert scalar(engine, "SELECT count(*) FROM quarantine") == 0


def ticked(system: System) -> bool:
    """After a tick."""
    system.tick()
    return True


def nights_end(system: System) -> None:
    """Wait for the end of those that are not paused, with a tick now and then as beat sends them."""
    unfinished = "SELECT count(*) FROM runs WHERE status <> 'done' AND NOT paused"
    wait_until(lambda: ticked(system) and scalar(system.engine, unfinished) == 0, seconds=90, what="the nights' end")


def put_back_as_abandoned(engine: Engine) -> int:
    """Batches whose worker was gone."""
    with session_scope(engine) as session:
        return put_back(session)["abandoned"]
