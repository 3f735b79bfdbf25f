"""How far the closes of a day are: of which assets one is due, and which closes are final."""

from __future__ import annotations

from datetime import date, datetime
from typing import Any

import pytest
from sqlalchemy import Engine, text

from core.database import session_scope
from services.price_wait import Readiness, closes_ready
from tests.support.closes import CHOSEN, DAY, DUE, ONE_DAY, add_closes, look, make_world
from tests.support.nights import change, rows, settings

KEPT = "SELECT day, since, cardinality(asset_ids) FROM night_waits"


def counted(engine: Engine, **how: Any) -> tuple[int, int]:
    readiness = look(engine, **how)
    return readiness.have, readiness.expected


def test_a_night_begins_with_exactly_99_percent(engine: Engine) -> None:
    make_world(engine, 200)
    add_closes(engine, range(1, 198))
    readiness = look(engine)
    assert (readiness.ready, readiness.have, readiness.expected) == (False, 197, 200)
    assert readiness.missing == ["A198", "A199", "A200"]
    add_closes(engine, [198])
    readiness = look(engine)
    assert (readiness.ready, readiness.late, readiness.have) == (True, False, 198)


def test_a_weekend_or_a_holiday_is_no_missing_price(engine: Engine) -> None:
    """Thanksgiving, the half day after it, a Saturday."""
    make_world(engine, 6)
    change(engine, "UPDATE assets SET calendar = 'XNYS' WHERE id <= 2")
    change(engine, "UPDATE assets SET calendar = 'weekdays' WHERE id BETWEEN 3 AND 5")
    days = [date(2026, 11, number) for number in (26, 27, 28)]
    expected = [counted(engine, now=datetime.combine(day + ONE_DAY, DUE.timetz()), day=day) for day in days]
    assert expected == [(0, 4), (0, 6), (0, 1)]
    add_closes(engine, [6], days[2])
    assert look(engine, now=datetime.combine(days[2] + ONE_DAY, DUE.timetz()), day=days[2]).ready


def test_a_day_on_which_nothing_trades_waits_for_nothing(engine: Engine) -> None:
    make_world(engine, 3, calendar="XNYS")
    thanksgiving = date(2026, 11, 26)
    readiness = look(engine, now=DUE + 2 * ONE_DAY, day=thanksgiving)
    assert (readiness.ready, readiness.late, readiness.expected) == (True, False, 0)


def test_a_calendar_that_cannot_be_read_stops_no_night(engine: Engine) -> None:
    make_world(engine, 4, calendar="XXXX")
    assert counted(engine) == (0, 4)
    assert counted(engine, now=DUE + 4 * ONE_DAY, day=date(2026, 11, 28)) == (0, 0)


@pytest.mark.parametrize("kind", ["candle", "import", "correction"])
def test_a_close_of_the_provider_a_file_or_a_person_is_final(engine: Engine, kind: str) -> None:
    make_world(engine, 1)
    add_closes(engine, [1], kind=kind)
    assert counted(engine) == (1, 1)


@pytest.mark.parametrize(("clock", "final"), [("23:59:59", 1), ("23:50:00", 1), ("23:49:59", 0), ("09:00:00", 0)])
def test_where_no_source_knows_better_the_last_tick_must_be_of_the_last_two_windows(
    engine: Engine, clock: str, final: int
) -> None:
    """A source knows the asset, but the settings do not name it any more."""
    make_world(engine, 1)
    change(engine, "INSERT INTO asset_sources VALUES ('osrs', 1, '4151')")
    add_closes(engine, [1], kind="tick", as_of=f"2026-11-24 {clock}+00")
    assert counted(engine, chosen=settings(price_sources="binance,coingecko")) == (final, 1)


@pytest.mark.parametrize("clock", ["09:00", "23:59"])
def test_a_last_tick_waits_for_every_source_to_say_that_it_has_no_better_close(engine: Engine, clock: str) -> None:
    make_world(engine, 2)
    change(engine, "INSERT INTO asset_sources SELECT s, 1, '1' FROM unnest(ARRAY['binance', 'coingecko', 'csv']) AS s")
    add_closes(engine, [1], kind="tick", as_of=f"2026-11-24 {clock}+00")
    add_closes(engine, [2])

    def asked(source: str, first: str, last: str, status: str, assets: str = "{1,2}") -> int:
        """How many closes are final after this message of closes."""
        change(
            engine,
            "INSERT INTO price_chunks (source, kind, first, last, seq, asset_ids, status)"
            " VALUES (:source, 'closes', :first, :last, (SELECT count(*) FROM price_chunks), :assets, :status)",
            source=source,
            first=f"{first} 00:00+00",
            last=f"{last} 00:00+00",
            status=status,
            assets=assets,
        )
        return counted(engine, chosen=settings(price_sources="binance, coingecko"))[0]

    assert asked("binance", "2026-11-24", "2026-11-25", "done") == 1
    assert asked("coingecko", "2026-11-23", "2026-11-24", "done") == 1
    # A message of several days whose end the day is, answered but for the other asset.
    assert asked("coingecko", "2026-11-20", "2026-11-25", "running", "{2}") == 2
    for status in ("planned", "queued", "running", "failed"):
        assert asked("coingecko", "2026-11-24", "2026-11-25", status) == 1
        change(engine, "UPDATE price_chunks SET status = 'done'")
        assert asked("coingecko", "2026-11-25", "2026-11-26", status) == 2


def test_only_assets_in_use_are_waited_for(engine: Engine) -> None:
    make_world(engine, 6)
    change(engine, "DELETE FROM simulations WHERE user_id = 1")
    change(engine, "UPDATE simulations SET start_day = :day WHERE user_id = 2", day=DAY + ONE_DAY)
    change(engine, "UPDATE simulations SET start_day = :day WHERE user_id = 3", day=DAY)
    # Unknown assets have no market to wait for.
    change(engine, "UPDATE simulations SET asset_ids = '{4,99}', weights_ppm = '{1,1}' WHERE user_id = 4")
    add_closes(engine, [4, 5])
    readiness = look(engine)
    assert (readiness.have, readiness.expected, readiness.missing) == (2, 4, ["A003", "A006"])


def test_an_asset_without_recent_closes_is_not_waited_for(engine: Engine) -> None:
    """The first never had any; the closes of the second ended six days before the newest, those of the third five."""
    make_world(engine, 10)
    change(engine, "DELETE FROM closes WHERE asset_id <= 3")
    add_closes(engine, [2], DAY - 7 * ONE_DAY)
    add_closes(engine, [3], DAY - 6 * ONE_DAY)
    add_closes(engine, range(4, 11))
    readiness = look(engine)
    assert (readiness.have, readiness.expected, readiness.missing) == (7, 8, ["A003"])
    # With a last tick of the day it is alive again.
    add_closes(engine, [1], kind="tick", as_of="2026-11-24 12:00+00")
    assert look(engine).missing == ["A001", "A003"]


def scans(engine: Engine) -> tuple[int, Readiness]:
    """How often a look reads the table of simulations, and what it finds."""
    total = text("SELECT seq_scan + coalesce(idx_scan, 0) FROM pg_stat_xact_user_tables WHERE relname = 'simulations'")
    with session_scope(engine) as session:
        # A connection may still carry counts of what it did before.
        before = session.execute(total).scalar_one()
        readiness = closes_ready(session, DAY, due=DUE, now=DUE, settings=CHOSEN)
        return session.execute(total).scalar_one() - before, readiness


def test_simulations_are_read_once_a_night_and_only_if_a_close_is_missing(engine: Engine) -> None:
    make_world(engine, 10)
    add_closes(engine, range(1, 11))
    read, readiness = scans(engine)
    assert (read, readiness.ready, readiness.have) == (0, True, 10)
    assert rows(engine, KEPT) == []

    change(engine, "DELETE FROM closes WHERE day = :day AND asset_id = 1", day=DAY)
    looks = [scans(engine) for _ in range(3)]
    assert [read for read, _ in looks] == [1, 0, 0]
    assert [readiness.missing for _, readiness in looks] == [["A001"]] * 3
    assert rows(engine, KEPT) == [(DAY, DUE, 10)]
