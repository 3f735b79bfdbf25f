"""A worker that has done nights computes with the closes that a new one would, whatever happened to them meanwhile."""

from __future__ import annotations

import dataclasses
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import Engine, text

from core.clock import day_number
from core.database import driver_connection, session_scope
from engine.market import Market
from services.closes import CandleClose, TickClose, write_candles, write_last_ticks
from services.market_data import MarketCache
from services.planning import plan_due
from services.prices import import_closes
from tests.support.nights import LAST_SAMPLE_DAY, NOW, Night, change, scalar, settings

ASSET = 1
TODAY = NOW.date()
# Nights of days that are still to come, as far as the last closes value anything.
DEV = settings(dev_night_every=timedelta(seconds=1), max_stale_days=30)


def market(engine: Engine, cache: MarketCache, run: int, day: date) -> Market:
    with engine.connect() as connection:
        return cache.get(driver_connection(connection), run, (day_number(day), day_number(day)))


def assert_as_new(engine: Engine, warm: MarketCache, run: int, day: date) -> Market:
    """The market of a warm worker, which is that of a new one."""
    mine, new = market(engine, warm, run, day), market(engine, MarketCache(5), run, day)
    for field in dataclasses.fields(Market):
        assert np.array_equal(getattr(mine, field.name), getattr(new, field.name)), field.name
    return mine


def symbol_of(engine: Engine) -> str:
    return str(scalar(engine, "SELECT symbol FROM assets WHERE id = :id", id=ASSET))


def import_one(engine: Engine, directory: Path, day: date, close: int) -> None:
    file = directory / "closes.csv"
    file.write_text(f"symbol,day,close\n{symbol_of(engine)},{day},{close}\n", encoding="ascii")
    with session_scope(engine) as session:
        import_closes(session, file, now=NOW, settings=DEV)


@pytest.mark.parametrize("means", ["tick", "candle", "import"])
def test_a_close_of_today_after_nights_of_days_to_come(fresh: Engine, tmp_path: Path, means: str) -> None:
    """In development days pass faster than prices come."""
    for seconds in (0, 50):
        with session_scope(fresh) as session:
            plan_due(session, now=NOW + timedelta(seconds=seconds), settings=DEV)
    newest: date = scalar(fresh, "SELECT max(day) FROM runs WHERE status = 'planned'")
    assert newest > TODAY + timedelta(days=7)
    warm = MarketCache(5)
    before = market(fresh, warm, 1, newest)

    if means == "import":
        import_one(fresh, tmp_path, TODAY, 777)
    else:
        with session_scope(fresh) as session:
            about = {"source": "binance", "now": NOW, "settings": DEV}
            if means == "tick":
                write_last_ticks(session, [TickClose(ASSET, NOW, 777 * 10**8)], **about)  # type: ignore[arg-type]
            else:
                write_candles(session, [CandleClose(ASSET, TODAY, 777 * 10**8)], **about)  # type: ignore[arg-type]
    after = assert_as_new(fresh, warm, 2, newest)
    assert 777 * 10**8 in after.compact[:, 0]
    assert 777 * 10**8 not in before.compact[:, 0]
    # And the nights that went by other closes are done again.
    assert scalar(fresh, "SELECT count(*) FROM runs WHERE kind = 'reprocess'") == 1


def test_closes_that_came_while_there_were_no_simulations(fresh: Engine, tmp_path: Path) -> None:
    night, warm = Night(fresh, settings()), MarketCache(5)
    night.run(LAST_SAMPLE_DAY)
    market(fresh, warm, 1, LAST_SAMPLE_DAY)
    change(fresh, "DELETE FROM simulations")
    sunday = LAST_SAMPLE_DAY - timedelta(days=LAST_SAMPLE_DAY.weekday() + 8)
    import_one(fresh, tmp_path, sunday, 777)
    assert 777 * 10**8 in assert_as_new(fresh, warm, 2, LAST_SAMPLE_DAY).compact[:, 0]


PLANNED = "SELECT set_config('nightshift.closes_planned', 'on', true)"


def test_a_version_that_was_brought_back_counts_on_to_other_closes(fresh: Engine) -> None:
    """Tables that are restored into the same database of the same server."""
    warm, old = MarketCache(5), LAST_SAMPLE_DAY - timedelta(days=30)
    kept = scalar(fresh, "SELECT version FROM closes_version")
    for close in (111, 222):
        with session_scope(fresh) as session:
            session.execute(text(PLANNED))
            session.execute(text("DELETE FROM closes_version"))
            session.execute(text("INSERT INTO closes_version (version) VALUES (:kept)"), {"kept": kept})
            change_of = text("UPDATE closes SET close = :close WHERE asset_id = :asset AND day <= :day")
            session.execute(change_of, {"close": close, "asset": ASSET, "day": old})
        change(fresh, "UPDATE closes_version SET version = version + 1")
        assert close in assert_as_new(fresh, warm, 1, LAST_SAMPLE_DAY).compact[:, 0]


def test_a_close_from_before_the_days_that_are_counted_from(fresh: Engine) -> None:
    """Day 0 is that of 2000-01-01: by hand, one may be there of an earlier one."""
    values = {"asset": ASSET, "first": date(1999, 12, 1)}
    change(fresh, "DELETE FROM closes WHERE asset_id = :asset", **values)
    change(
        fresh,
        "INSERT INTO closes (asset_id, day, close, source)"
        " SELECT :asset, CAST(:first AS date) + n, 7 + n, 'by hand' FROM generate_series(0, 60) AS n",
        **values,
    )
    warm = MarketCache(5)
    assert market(fresh, warm, 1, LAST_SAMPLE_DAY).compact[:61, 0].tolist() == list(range(7, 68))
    assert_as_new(fresh, warm, 2, LAST_SAMPLE_DAY)
