"""A night and two reprocesses of the same users at once, workers killed in their midst, and a reader all the while."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from threading import Event, Thread

import psycopg
import pytest
from sqlalchemy import Engine, make_url

from benchmarks.chaos.installed import installed
from core.database import make_engine
from services.digest import digest_of_day
from tests.chaos.conftest import NIGHTS
from tests.support.corrections import assert_same, correct
from tests.support.database import new_database
from tests.support.nights import LAST_SAMPLE_DAY, Night, change, scalar, settings
from tests.support.polling import wait_until
from tests.support.workers import System, quick
from workers.embedded import ServerUrls
from workers.stack import Stack

USERS, BATCH_USERS = 1200, 10
BEFORE_LAST = LAST_SAMPLE_DAY - timedelta(days=1)
CORRECTED = ((1, LAST_SAMPLE_DAY - timedelta(days=NIGHTS - 2), 7), (2, LAST_SAMPLE_DAY - timedelta(days=3), 9))
PATIENCE = 90.0
_BETWEEN_LOOKS = 0.05
DONE = "SELECT count(*) FROM batches b JOIN runs r ON r.id = run_id WHERE r.kind = 'reprocess' AND b.status = 'done'"
SINCE = "SELECT count(*) FROM batches WHERE status = 'done' AND started_at >= (SELECT max(created_at) FROM runs)"
ENDED = "SELECT count(*) = 0 FROM runs WHERE status IN ('planned', 'running')"
# Of each simulation of some users: gaps, days that do not follow from the day before and their trades, and what it is.
LOOK = """
WITH flows AS (
    SELECT simulation_id, day, sum(CASE WHEN quantity < 0 THEN notional ELSE -notional END - fee) AS flow
    FROM trades WHERE user_id %% 20 = 1 GROUP BY 1, 2
),
days AS (
    SELECT p.simulation_id, p.day, p.equity, s.start_day, p.cash - coalesce(f.flow, 0)
        - lag(p.cash, 1, s.initial_cash) OVER (PARTITION BY p.simulation_id ORDER BY p.day) AS amiss
    FROM portfolio_days p JOIN simulations s ON s.id = p.simulation_id
    LEFT JOIN flows f ON f.simulation_id = p.simulation_id AND f.day = p.day
    WHERE p.user_id %% 20 = 1
)
SELECT simulation_id,
    count(*) = max(day) - start_day + 1 AND min(day) = start_day AND max(day) >= %(newest)s AS whole,
    bool_and(amiss = 0) AS consistent, sum(hashtextextended(day || ' ' || equity, 0)::numeric) AS history
FROM days GROUP BY simulation_id, start_day ORDER BY 1
"""


@pytest.fixture
def right(servers: ServerUrls, world: str) -> Iterator[Engine]:
    """Whose closes are right from the start, and whose nights nobody disturbs."""
    with new_database(servers.database_url, f"{world}_right", template=world) as url:
        engine = make_engine(url)
        night = Night(engine, settings())
        for close in CORRECTED:
            correct(night, *close)
        night.run(LAST_SAMPLE_DAY, each=True)
        yield engine
        engine.dispose()


class Reader:
    """Looks at the histories of some simulations again and again, each time with one statement."""

    def __init__(self, database: str) -> None:
        url = make_url(database).set(drivername="postgresql").render_as_string(hide_password=False)
        self._connection = psycopg.connect(url, autocommit=True)
        self._stop = Event()
        self.looks = 0
        self.wrong: list[tuple[object, ...]] = []
        self.histories: dict[int, set[object]] = {}
        self.look()
        self._thread = Thread(target=self._read, daemon=True)

    def look(self) -> None:
        """Once."""
        found = self._connection.execute(LOOK, {"newest": BEFORE_LAST}).fetchall()
        known = len(self.histories)
        for simulation, whole, consistent, history in found:
            self.histories.setdefault(simulation, set()).add(history)
            if not (whole and consistent):
                self.wrong.append((self.looks, simulation, whole, consistent))
        if known and len(found) != known:
            self.wrong.append((self.looks, "simulations", len(found), known))
        self.looks += 1

    def _read(self) -> None:
        try:
            # A moment between two looks: without it the reader takes a processor from those whom it watches.
            while not self._stop.wait(_BETWEEN_LOOKS):
                self.look()
        except Exception as error:  # noqa: BLE001 - a reader that ends has seen something wrong
            self.wrong.append((self.looks, repr(error)))

    @contextmanager
    def reading(self) -> Iterator[None]:
        """All the time of the block."""
        self._thread.start()
        try:
            yield
        finally:
            self._stop.set()
            self._thread.join()
            self._connection.close()


def test_a_night_and_two_reprocesses_at_once_and_a_reader(
    database: str, engine: Engine, redis_url: str, tmp_path: Path, right: Engine
) -> None:
    Night(engine, settings()).run(BEFORE_LAST, each=True)
    chosen = quick(tmp_path, BATCH_USERS)
    night, urls = Night(engine, chosen), ServerUrls(database, redis_url)
    on_paper, reader = System(engine, urls, chosen), Reader(database)
    for close in CORRECTED:
        correct(night, *close)
    with installed(tmp_path / "installed") as moments:
        # The first to have written a day of its batch dies, with the old days taken back and the new ones half there.
        moments.arm("after_copy", signal.SIGKILL)
        with Stack(chosen, urls, workers=2, flower=False, exporter=False) as stack, reader.reading():
            wait_until(lambda: moments.reached("after_copy"), what="a worker that dies in a batch")
            wait_until(lambda: scalar(engine, DONE) >= 5, seconds=PATIENCE, what="the reprocesses")
            night.plan(LAST_SAMPLE_DAY)
            wait_until(on_paper.tick, what="the night")
            moments.arm("before_commit", signal.SIGKILL)
            wait_until(lambda: moments.reached("before_commit"), what="a worker that dies before its commit")
            wait_until(lambda: scalar(engine, SINCE) >= 10, seconds=PATIENCE, what="both at once")
            group = os.getpgid(stack.processes["simulations"])
            os.killpg(group, signal.SIGKILL)
            wait_until(lambda: scalar(engine, ENDED), seconds=PATIENCE, what="the end of all of it")
    assert scalar(engine, "SELECT count(*) FROM runs WHERE kind = 'reprocess' AND status = 'done'") == 2
    # A batch whose worker was killed twice was divided.
    assert scalar(engine, "SELECT count(*) FROM batches WHERE status NOT IN ('done', 'split')") == 0
    assert_same(engine, right)
    days = [LAST_SAMPLE_DAY - timedelta(days=back) for back in range(NIGHTS)]
    assert [digest_of_day(engine, day) for day in days] == [digest_of_day(right, day) for day in days]
    assert reader.wrong == []
    assert reader.looks > 5
    # It looked while it happened: the old history, and the new one or more.
    assert max(len(histories) for histories in reader.histories.values()) >= 2


@pytest.mark.parametrize(
    "wrong",
    [
        "DELETE FROM portfolio_days WHERE user_id = 1 AND day = '{middle}'",
        "DELETE FROM portfolio_days WHERE user_id = 1 AND day >= '{middle}'",
        "DELETE FROM trades WHERE user_id % 20 = 1 AND day >= '{middle}'",
        "UPDATE portfolio_days SET cash = cash + 1 WHERE user_id = 1 AND day = '{middle}'",
    ],
    ids=["a gap", "later days gone", "trades gone", "another history in the middle"],
)
def test_the_reader_sees_what_it_is_there_to_see(database: str, engine: Engine, wrong: str) -> None:
    Night(engine, settings()).run(BEFORE_LAST)
    reader = Reader(database)
    with reader.reading():
        pass
    assert reader.wrong == []
    again = Reader(database)
    change(engine, wrong.format(middle=CORRECTED[1][1]))
    with again.reading():
        wait_until(lambda: again.wrong, what="a wrong look")
