"""Scoped runs beside nights and each other: in every order, the days come out as if closes had always been right."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

import pytest
from sqlalchemy import Engine

from core.clock import day_number
from core.database import driver_connection, make_engine, session_scope
from core.queues import Queue
from engine.market import Market
from services import giving_way
from services.batches import BatchWorker, Outcome
from services.closes import TickClose, write_last_ticks
from services.market_data import MarketCache, closes_version
from tests.support.corrections import ASSET, LAST, MIDDLE, PRICE, assert_same, correct, finish, status
from tests.support.database import new_database
from tests.support.nights import FIRST_NIGHT, Night, change, rows, scalar, settings
from workers.embedded import ServerUrls

OTHER = 2
BEFORE_LAST = LAST - timedelta(days=1)
TOLD = "SELECT rows, simulations, trades FROM runs WHERE kind = 'nightly' AND day = :day"
LATE = "SELECT count(*) FROM quarantine WHERE run_id IN (SELECT id FROM runs WHERE kind = 'nightly')"


@pytest.fixture
def night(fresh: Engine, monkeypatch: pytest.MonkeyPatch) -> Night:
    """Whose closes are corrected after nights used them, all batches of every run at once, in the order of the test."""
    monkeypatch.setattr(giving_way, "_EVERY_SECONDS", math.inf)
    return Night(fresh, settings(100, reprocess_in_flight=100))


@pytest.fixture
def right(servers: ServerUrls, world: str, request: pytest.FixtureRequest) -> Iterator[Night]:
    """Whose close of one asset is right from the start."""
    name = f"right_{abs(hash(request.node.nodeid)) % 10**9}"
    with new_database(servers.database_url, name, template=world) as url:
        engine = make_engine(url)
        night = Night(engine, settings(5000))
        correct(night, ASSET, MIDDLE, PRICE)
        yield night
        engine.dispose()


@pytest.fixture(scope="module")
def right_of_both(servers: ServerUrls, world: str) -> Iterator[Engine]:
    """A week of nights with two closes right from the start, to look at."""
    with new_database(servers.database_url, "right_of_both", template=world) as url:
        engine = make_engine(url)
        night = Night(engine, settings(5000))
        correct(night, ASSET, MIDDLE, PRICE)
        correct(night, OTHER, BEFORE_LAST, PRICE)
        night.run(LAST, each=True)
        yield engine
        engine.dispose()


class Meanwhile(MarketCache):
    """Lets something happen when a batch has its market, once."""

    def __init__(self, happens: Callable[[], object]) -> None:
        super().__init__(5)
        self.happens: Callable[[], object] | None = happens

    def get(self, *args: Any) -> Market:
        """The market as it was before."""
        market = super().get(*args)
        happens, self.happens = self.happens, None
        if happens is not None:
            happens()
        return market


def lack_closes(night: Night, right: Night) -> None:
    """So that whoever has the asset has no usable price on the day that is corrected, but for the correction."""
    for world in (night, right):
        change(
            world.engine, "DELETE FROM closes WHERE asset_id = :asset AND day > :day AND day <> :middle", asset=ASSET,
            day=MIDDLE - timedelta(days=6), middle=MIDDLE,
        )  # fmt: skip
    change(night.engine, "DELETE FROM closes WHERE asset_id = :asset AND day = :day", asset=ASSET, day=MIDDLE)


@pytest.mark.parametrize("lacking", [False, True], ids=["another close", "no close"])
def test_a_batch_of_a_night_that_has_the_old_market_is_done_again(night: Night, right: Night, lacking: bool) -> None:
    """It commits after the correction did, what it computed and whom it put into quarantine."""
    if lacking:
        lack_closes(night, right)
    last = MIDDLE if lacking else LAST
    right.run(last, each=True)
    night.run(last - timedelta(days=1), each=True)
    night.plan(last)
    night.publish()
    runs: list[int | None] = []
    night.worker.markets = Meanwhile(lambda: runs.append(correct(night, ASSET, MIDDLE, PRICE).run))
    assert night.worker.advance(night.queue.messages.pop(0).batch_id).outcome is Outcome.DONE
    assert (scalar(night.engine, LATE) > 0) is lacking
    finish(night)
    assert_same(night.engine, right.engine)
    assert status(night, runs[0]) == "done"


@pytest.mark.parametrize(("first", "through"), [("night", LAST), ("run", BEFORE_LAST)])
def test_a_run_says_through_which_day_it_went(night: Night, first: str, through: date) -> None:
    """A night that is planned after it is taken along where it has ended, and does its day itself where it has not."""
    night.run(BEFORE_LAST, each=True)
    run = correct(night, ASSET, MIDDLE, PRICE).run
    assert run is not None
    night.plan(LAST)
    night.publish()
    night.queue.messages.sort(key=lambda message: (message.queue == Queue.SIMULATIONS) is (first == "run"))
    finish(night)
    assert rows(night.engine, "SELECT first_day, day FROM runs WHERE id = :run", run=run) == [(MIDDLE, through)]
    newest = "SELECT max(last_day) FROM portfolio_revisions WHERE run_id = :run"
    assert scalar(night.engine, newest, run=run) == through


@pytest.mark.parametrize("seed", range(4))
def test_in_every_order(night: Night, right_of_both: Engine, seed: int) -> None:
    """A night half done, two corrections, the next night, and two workers that know other closes."""
    order = random.Random(seed)
    night.run(BEFORE_LAST - timedelta(days=1), each=True)
    night.plan(BEFORE_LAST)
    night.publish()
    second = Night(night.engine, night.settings, queue=night.queue)
    steps: list[Callable[[], object]] = [
        lambda: correct(night, ASSET, MIDDLE, PRICE),
        lambda: correct(night, OTHER, BEFORE_LAST, PRICE),
        lambda: night.plan(LAST),
    ]
    while steps or night.queue.messages:
        if steps and order.random() < 0.15:
            steps.pop(0)()
            night.publish()
        elif night.queue.messages:
            place = order.randrange(len(night.queue.messages))
            worker = order.choice([night, second]).worker
            assert worker.advance(night.queue.messages.pop(place).batch_id).outcome is Outcome.DONE
    finish(night)
    assert_same(night.engine, right_of_both)
    # No night finds rows of its day that somebody else wrote, and reports less than it is.
    for told in ("rows", "simulations"):
        query = f"SELECT day, {told} FROM runs WHERE kind = 'nightly' ORDER BY day"
        assert rows(night.engine, query) == rows(right_of_both, query)


@pytest.mark.parametrize("planned", ["before", "after"])
def test_a_night_that_is_planned_reports_all_that_it_is(night: Night, right_week: Engine, planned: str) -> None:
    night.run(BEFORE_LAST, each=True)
    if planned == "before":
        night.plan(LAST)
    run = correct(night, ASSET, MIDDLE, PRICE).run
    if planned == "after":
        night.plan(LAST)
    night.publish()
    # The correction's batches come first.
    night.queue.messages.sort(key=lambda message: f"run {run} " not in message.label)
    finish(night)
    assert_same(night.engine, right_week)
    assert rows(night.engine, TOLD, day=LAST) == rows(right_week, TOLD, day=LAST)


def test_whoever_comes_back_is_brought_through_a_night_that_left_him_out(night: Night, right: Night) -> None:
    """The night after the one that lacked his close is done before the correction's batches."""
    lack_closes(night, right)
    right.run(MIDDLE + timedelta(days=1), each=True)
    night.run(MIDDLE, each=True)
    correct(night, ASSET, MIDDLE, PRICE)
    night.run(MIDDLE + timedelta(days=1))
    finish(night)
    assert_same(night.engine, right.engine)


def test_overlapping_runs_and_a_night_at_once_meet_no_deadlock(night: Night, right: Night) -> None:
    correct(right, OTHER, MIDDLE, PRICE)
    right.run(LAST, each=True)
    night.run(BEFORE_LAST, each=True)
    night.plan(LAST)
    correct(night, ASSET, MIDDLE, PRICE)
    correct(night, OTHER, MIDDLE, PRICE)
    night.publish()
    messages = [message.batch_id for message in night.queue.messages]
    random.Random(3).shuffle(messages)
    workers = [
        BatchWorker(night.engine, night.settings, night.queue, lambda: night.now, f"thread {number}", MarketCache(5))
        for number in range(4)
    ]

    def work(number: int) -> list[Outcome]:
        return [workers[number].advance(batch).outcome for batch in messages[number::4]]

    with ThreadPoolExecutor(4) as pool:
        outcomes = [outcome for done in pool.map(work, range(4)) for outcome in done]
    assert outcomes == [Outcome.DONE] * len(messages)
    night.queue.messages.clear()
    assert scalar(night.engine, "SELECT count(*) FROM batches WHERE attempts <> 1 OR error IS NOT NULL") == 0
    deadlocks = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
    assert scalar(night.engine, deadlocks) == 0
    finish(night)
    assert_same(night.engine, right.engine)


def test_what_makes_a_worker_load_the_closes_anew(night: Night) -> None:
    night.run(MIDDLE)
    cache = MarketCache(5)
    days = (day_number(MIDDLE), day_number(MIDDLE))

    def loaded() -> tuple[int, Market]:
        with night.engine.connect() as connection:
            driver = driver_connection(connection)
            return closes_version(driver).number, cache.get(driver, 1, days)

    version, market = loaded()
    # A day that no night has come to, and today's ticks, which come every five minutes.
    correct(night, ASSET, LAST, PRICE)
    tick = TickClose(ASSET, datetime.combine(night.now, time(11), UTC), 5)
    with session_scope(night.engine) as session:
        assert write_last_ticks(session, [tick], source="x", now=night.now, settings=night.settings).written == 1
    assert loaded() == (version, market)
    # A day that a night has come to, also where nobody has the asset.
    change(night.engine, "INSERT INTO assets (id, symbol) OVERRIDING SYSTEM VALUE VALUES (999, 'NOBODYS')")
    assert correct(night, 999, MIDDLE, PRICE).run is None
    assert loaded()[0] == version + 1
    assert loaded()[1] is not market
    correct(night, ASSET, FIRST_NIGHT - timedelta(days=100), PRICE)
    assert loaded()[0] == version + 2
