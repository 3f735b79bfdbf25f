"""A small world for nights that wait: assets, a simulation of each, and a look at how far their closes are."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, date, datetime, timedelta

from sqlalchemy import Engine
from sqlalchemy.orm import Session

from core.settings import Settings
from services.price_wait import Readiness, closes_ready
from tests.support.nights import change, settings

ONE_DAY = timedelta(days=1)
DAY = date(2026, 11, 24)
DUE = datetime(2026, 11, 25, 0, 1, tzinfo=UTC)
SECOND = timedelta(seconds=1)
CHOSEN = settings()


def make_world(engine: Engine, assets: int, *, calendar: str = "24/7") -> None:
    """Assets A001, A002, … with a close of the day before, and a simulation of each."""
    change(
        engine,
        "INSERT INTO assets (symbol, calendar)"
        " SELECT 'A' || lpad(n::text, 3, '0'), :calendar FROM generate_series(1, :assets) AS n ORDER BY n",
        assets=assets,
        calendar=calendar,
    )
    change(engine, "INSERT INTO users (id, name) SELECT id, symbol FROM assets")
    change(
        engine,
        "INSERT INTO simulations (user_id, strategy, start_day, initial_cash, params, asset_ids, weights_ppm)"
        " SELECT id, 1, '2026-01-01', 100, '{}', ARRAY[id], ARRAY[1000000] FROM assets",
    )
    add_closes(engine, range(1, assets + 1), DAY - ONE_DAY)


def add_closes(
    engine: Engine, assets: Iterable[int], day: date = DAY, kind: str = "candle", as_of: str | None = None
) -> None:
    """A close of each of the assets."""
    change(
        engine,
        "INSERT INTO closes (day, asset_id, close, source, kind, as_of)"
        " SELECT :day, id, 100, 'binance', :kind, :as_of FROM unnest(CAST(:assets AS int[])) AS id",
        assets=list(assets),
        day=day,
        kind=kind,
        as_of=as_of,
    )


def look(engine: Engine, now: datetime = DUE, chosen: Settings = CHOSEN, day: date = DAY) -> Readiness:
    """What planning would be told, without leaving anything behind."""
    due = datetime.combine(day + ONE_DAY, DUE.timetz())
    with Session(engine) as session:
        return closes_ready(session, day, due=due, now=now, settings=chosen)
