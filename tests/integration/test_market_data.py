"""The market that a worker loads equals the one that slow, obvious code puts together, of any range of days."""

from __future__ import annotations

import dataclasses
from datetime import date, timedelta
from random import Random

import numpy as np
import pytest
from sqlalchemy import Engine, text

from core.clock import day_number
from core.database import driver_connection, make_engine, session_scope
from engine.market import Market
from engine.strategies.base import MAX_LOOKBACK
from services import closes_seen
from services.market_data import MarketCache
from tests.support.database import new_database
from workers.embedded import ServerUrls

LAST = date(2026, 3, 20)
DAYS = 900  # of history, to the day after LAST

# What is traded when: the days before LAST on which an asset has a close.
TRADED = {
    1: range(DAYS),
    2: [back for back in range(DAYS) if (LAST - timedelta(days=back)).weekday() < 5],
    # Once a week: what signals see of it reaches back further than is usual.
    3: range(3, DAYS, 7),
    # None for a year, and before that more than enough.
    4: range(420, DAYS),
    # New.
    5: range(4),
    # One close fewer than a window in the days that are usual, and one more before them.
    6: [*range(2, MAX_LOOKBACK + 2), 600],
    # The same, and one on the day of the first row besides.
    9: [*range(1, MAX_LOOKBACK + 2), 600],
    # None at all: 7. Only after the days that are asked for: 8.
    8: [-1],
}
ASSETS = (1, 2, 3, 4, 5, 6, 7, 8, 9, 1000)
Closes = list[tuple[int, date, int]]


@pytest.fixture
def closes(engine: Engine) -> Closes:
    """The closes of the table, sorted by asset and day; written in another order."""
    found = [
        (asset, LAST - timedelta(days=back), 1_000_000 * asset + 7 * back % 1000)
        for asset, traded in TRADED.items()
        for back in traded
    ]
    shuffled = [found[place] for place in np.random.default_rng(5).permutation(len(found))]
    with session_scope(engine) as session:
        insert = "INSERT INTO assets (id, symbol) OVERRIDING SYSTEM VALUE VALUES (:id, :symbol)"
        session.execute(text(insert), [{"id": asset, "symbol": f"A{asset}"} for asset in ASSETS])
        insert = "INSERT INTO closes (asset_id, day, close, source) VALUES (:asset, :day, :close, 'test')"
        session.execute(text(insert), [{"asset": a, "day": day, "close": close} for a, day, close in shuffled])
    return sorted(found)


def obvious(closes: Closes, first: int, last: int, max_stale_days: int) -> Market:
    """Of each asset the closes of the rows, and as many before them as the longest window takes."""
    seen: Closes = []
    for asset in ASSETS:
        own = [close for close in closes if close[0] == asset and day_number(close[1]) <= last]
        seen += [close for close in own if day_number(close[1]) < first][-(MAX_LOOKBACK + 1) :]
        seen += [close for close in own if day_number(close[1]) >= first]
    columns = (
        np.array([asset for asset, _, _ in seen], dtype=np.int32),
        np.array([day_number(day) for _, day, _ in seen], dtype=np.int32),
        np.array([close for _, _, close in seen], dtype=np.int64),
    )
    return Market.from_closes(np.array(ASSETS, dtype=np.int32), (first, last), columns, max_stale_days)


def load(engine: Engine, days: tuple[int, int]) -> Market:
    with engine.connect() as connection:
        return MarketCache(5).get(driver_connection(connection), 1, days)


def assert_same(loaded: Market, expected: Market) -> None:
    for field in dataclasses.fields(Market):
        mine, right = getattr(loaded, field.name), getattr(expected, field.name)
        assert np.array_equal(mine, right), field.name
        assert not isinstance(right, np.ndarray) or mine.dtype == right.dtype, field.name


# A night, a week, a day before there is anything, the very first days, and all that there is.
@pytest.mark.parametrize("back", [(0, 0), (6, 0), (DAYS + 50, DAYS + 40), (DAYS, DAYS - 3), (300, 290), (DAYS + 5, 0)])
def test_a_market_has_the_closes_that_its_days_can_see(engine: Engine, closes: Closes, back: tuple[int, int]) -> None:
    first, last = (day_number(LAST) - days for days in back)
    assert_same(load(engine, (first, last)), obvious(closes, first - 1, last, 5))


def test_many_closes_come_in_parts(engine: Engine, closes: Closes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(closes_seen, "_MOST_AT_ONCE", 25 * len(ASSETS))
    last = day_number(LAST)
    assert_same(load(engine, (last - 2, last)), obvious(closes, last - 3, last, 5))


def test_a_market_without_closes_and_without_assets(engine: Engine) -> None:
    day = day_number(LAST)
    nothing = load(engine, (day, day))
    assert (len(nothing.asset_ids), nothing.last.shape) == (0, (2, 1))
    with session_scope(engine) as session:
        session.execute(text("INSERT INTO assets (id, symbol) OVERRIDING SYSTEM VALUE VALUES (3, 'A3')"))
    unpriced = load(engine, (day, day))
    assert (unpriced.asset_ids.tolist(), unpriced.last.tolist()) == ([3], [[0, 0], [0, 0]])


# As Nightshift's own commands do it: they raise the version themselves, or know that nobody has seen the day.
PLANNED = "SELECT set_config('nightshift.closes_planned', 'on', true)"
RAISE = "UPDATE closes_version SET version = version + 1"
SET_CLOSE = (
    "INSERT INTO closes (asset_id, day, close, source) VALUES (:asset, :day, :close, 'test')"
    " ON CONFLICT (asset_id, day) DO UPDATE SET close = excluded.close"
)


def put(engine: Engine, asset: int, day: date, close: int, *, raising: bool) -> None:
    with session_scope(engine) as session:
        session.execute(text(PLANNED))
        session.execute(text(SET_CLOSE), {"asset": asset, "day": day, "close": close})
        if raising:
            session.execute(text(RAISE))


def of_worker(engine: Engine, cache: MarketCache, run: int, days: tuple[int, int]) -> Market:
    with engine.connect() as connection:
        return cache.get(driver_connection(connection), run, days)


@pytest.mark.usefixtures("closes")
@pytest.mark.parametrize("seed", range(4))
def test_a_worker_that_has_done_nights_sees_what_a_new_one_does(engine: Engine, seed: int) -> None:
    random = Random(seed)
    warm, today, assets = MarketCache(5), LAST, list(ASSETS)
    for run in range(25):
        today += timedelta(days=random.choice([0, 1, 1, 1, 2, 9]))
        for asset in random.sample(assets, 5):
            put(engine, asset, today, random.randrange(1, 10**9), raising=False)
        what = random.choice(["nothing", "late tick", "correction", "new asset", "history"])
        if what == "late tick":
            put(engine, random.choice(assets), today - timedelta(days=random.randrange(5)), 77 + run, raising=False)
        elif what == "correction":
            put(engine, random.choice(assets), today - timedelta(days=random.randrange(300)), 5 + run, raising=True)
        elif what != "nothing":
            assets.append(2_000 - run)
            with session_scope(engine) as session:
                insert = "INSERT INTO assets (id, symbol) OVERRIDING SYSTEM VALUE VALUES (:id, :symbol)"
                session.execute(text(insert), {"id": assets[-1], "symbol": f"A{assets[-1]}"})
            for back in range(0, 500, 90) if what == "history" else ():
                put(engine, assets[-1], today - timedelta(days=back), 10**6 + back, raising=True)
        through = day_number(today)
        # Nights, and now and then days that are done again, which may lie before what the worker has seen.
        since = through - random.choice([0, 0, 0, 2, 40])
        last = random.choice([through, through, through, since])
        mine = of_worker(engine, warm, run, (since, last))
        assert_same(mine, of_worker(engine, MarketCache(5), run, (since, last)))


@pytest.mark.usefixtures("closes")
def test_of_days_that_are_settled_nothing_is_read_again_until_the_version_is_another(engine: Engine) -> None:
    cache, night = MarketCache(5), day_number(LAST)
    asset, settled, recent = 1, LAST - timedelta(days=30), LAST - timedelta(days=2)
    before = of_worker(engine, cache, 1, (night, night))
    put(engine, asset, settled, 111, raising=False)
    put(engine, asset, recent, 222, raising=False)
    after = of_worker(engine, cache, 2, (night, night))
    new = set(after.compact[:, 0].tolist()) - set(before.compact[:, 0].tolist())
    assert new == {222}
    with session_scope(engine) as session:
        session.execute(text(RAISE))
    assert 111 in of_worker(engine, cache, 3, (night, night)).compact[:, 0]


def test_a_database_that_was_brought_back_is_another_one(servers: ServerUrls) -> None:
    """Though its closes have the version, and its run the number, of those that the worker has seen."""
    cache, night, found = MarketCache(5), day_number(LAST), []
    for number in range(2):
        with new_database(servers.database_url, f"market_{number}") as url:
            engine = make_engine(url, application="test")
            with session_scope(engine) as session:
                session.execute(text("INSERT INTO assets (id, symbol) OVERRIDING SYSTEM VALUE VALUES (1, 'A1')"))
            put(engine, 1, LAST - timedelta(days=100), 10 + number, raising=False)
            found.append(of_worker(engine, cache, 1, (night, night)).last[:, 0].tolist())
            engine.dispose()
    assert found == [[10, 10], [11, 11]]


@pytest.mark.usefixtures("closes")
@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE closes SET close = 1 WHERE asset_id = 1",
        "DELETE FROM closes WHERE asset_id = 1",
        "INSERT INTO closes (asset_id, day, close, source) SELECT 1000, day, 1, 'x' FROM closes WHERE asset_id = 1",
        "TRUNCATE closes",
    ],
)
def test_a_worker_sees_what_is_changed_by_hand(engine: Engine, statement: str) -> None:
    cache, night = MarketCache(5), day_number(LAST)
    before = of_worker(engine, cache, 1, (night, night))
    with session_scope(engine) as session:
        session.execute(text(statement))
    after = of_worker(engine, cache, 1, (night, night))
    assert not np.array_equal(after.last, before.last)
    assert_same(after, load(engine, (night, night)))
    assert of_worker(engine, cache, 1, (night, night)) is after
