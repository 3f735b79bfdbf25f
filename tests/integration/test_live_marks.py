"""Live marks after a month of nights: equal to the ledger at the closes, to an oracle at other prices; latest wins."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from decimal import ROUND_HALF_EVEN, Decimal
from pathlib import Path
from typing import Any

import pytest
import redis
from sqlalchemy import Engine

from core.database import make_engine
from core.errors import ServerUnreachableError
from services.live_marks import LEADERBOARD_KEY, SIMULATIONS_KEY, WINDOW_KEY, Marks, mark_live, read_marks
from services.price_cache import PriceCache
from tests.support.cli import Shell
from tests.support.database import new_database
from tests.support.nights import LAST_SAMPLE_DAY, change, rows, scalar
from workers.embedded import ServerUrls
from workers.server_process import free_port

NOW = datetime(2022, 12, 29, 12, 1, tzinfo=UTC)
WINDOW = datetime(2022, 12, 29, 12, tzinfo=UTC)
LIVE_USERS = 25
Client = redis.Redis


@pytest.fixture
def engine(servers: ServerUrls, month: Engine, request: pytest.FixtureRequest) -> Iterator[Engine]:
    """A month of nights, and live users; nothing has a latest price yet."""
    # A database can be a template while nobody is connected to it.
    month.dispose()
    name = f"live_{abs(hash(request.node.nodeid)) % 10**9}"
    with new_database(servers.database_url, name, template="night_month") as url:
        engine = make_engine(url)
        change(engine, "UPDATE users SET live = true WHERE id % 40 = 3 AND id <= :last", last=40 * LIVE_USERS)
        yield engine
        engine.dispose()


@pytest.fixture
def cache(redis_url: str) -> Iterator[PriceCache]:
    cache = PriceCache(redis_url)
    yield cache
    cache.close()


@pytest.fixture
def client(redis_url: str) -> Iterator[Client]:
    with redis.Redis.from_url(redis_url) as client:
        yield client


def mark(engine: Engine, cache: PriceCache, window: datetime = WINDOW, now: datetime = NOW) -> Marks:
    marks = mark_live(engine, cache, window=window, now=now)
    assert marks is not None
    return marks


def price_at_closes(engine: Engine) -> None:
    """The latest price of every asset is its last close."""
    change(
        engine,
        "INSERT INTO latest_prices (asset_id, ts, price, source)"
        " SELECT DISTINCT ON (asset_id) asset_id, :window, close, 'test' FROM closes ORDER BY asset_id, day DESC",
        window=WINDOW,
    )


def price_at_random(engine: Engine) -> dict[int, int]:
    """Another price for every asset, odd to the last tick; by asset."""
    draw = random.Random(11)
    prices = {asset: draw.randrange(1, 10**12) for (asset,) in rows(engine, "SELECT id FROM assets ORDER BY id")}
    for asset, price in prices.items():
        change(
            engine,
            "INSERT INTO latest_prices (asset_id, ts, price, source) VALUES (:asset, :ts, :price, 'test')",
            asset=asset, ts=WINDOW, price=price,
        )  # fmt: skip
    return prices


def newest_rows(engine: Engine) -> dict[int, Any]:
    """cash, equity, positions and initial cash by simulation, of the last night."""
    found = rows(
        engine,
        "SELECT p.simulation_id, p.cash, p.equity, p.asset_ids, p.quantities, s.initial_cash"
        " FROM portfolio_days p JOIN simulations s ON s.id = p.simulation_id WHERE p.day = :day",
        day=LAST_SAMPLE_DAY,
    )
    return {row[0]: row[1:] for row in found}


def live_ids(engine: Engine) -> list[int]:
    return [
        row[0]
        for row in rows(
            engine, "SELECT s.id FROM simulations s JOIN users u ON u.id = s.user_id WHERE u.live ORDER BY s.id"
        )
    ]


def test_at_the_closes_every_mark_is_the_row_of_the_night(engine: Engine, cache: PriceCache) -> None:
    price_at_closes(engine)
    marks, ledger = mark(engine, cache), newest_rows(engine)
    assert [m.simulation_id for m in marks.simulations] == live_ids(engine)
    assert len(marks.simulations) >= LIVE_USERS
    assert any(m.positions > 1 for m in marks.simulations)
    for m in [*marks.simulations, *(leader.mark for leader in marks.leaderboard)]:
        assert m.equity * 10**8 == ledger[m.simulation_id][1]
        assert (m.change_ppm, m.at_close, m.day) == (0, 0, LAST_SAMPLE_DAY)
        assert m.priced_at == (WINDOW if m.positions else None)
    board = rows(
        engine, "SELECT rank, user_id, simulation_id, return_ppm FROM leaderboard_entries WHERE day = :day"
        " ORDER BY rank", day=LAST_SAMPLE_DAY
    )  # fmt: skip
    assert len(board) == 100
    live = [(e.rank, e.mark.user_id, e.mark.simulation_id, e.mark.return_ppm) for e in marks.leaderboard]
    assert live == board
    assert all(entry.rank == entry.closed_rank for entry in marks.leaderboard)


def test_without_latest_prices_every_position_is_at_its_close(engine: Engine, cache: PriceCache) -> None:
    marks, ledger = mark(engine, cache), newest_rows(engine)
    for m in marks.simulations:
        assert m.equity * 10**8 == ledger[m.simulation_id][1]
        assert m.at_close == m.positions
        assert m.priced_at is None or m.priced_at <= datetime(2022, 12, 29, tzinfo=UTC)


def test_at_other_prices_every_mark_is_what_decimals_say(engine: Engine, cache: PriceCache) -> None:
    prices = price_at_random(engine)
    marks, ledger = mark(engine, cache), newest_rows(engine)
    tick = Decimal("0.00000001")
    for m in [*marks.simulations, *(leader.mark for leader in marks.leaderboard)]:
        cash, closed, assets, quantities, initial = ledger[m.simulation_id]
        equity = Decimal(cash) * tick
        for asset, quantity in zip(assets, quantities, strict=True):
            value = Decimal(quantity) * tick * (Decimal(prices[asset]) * tick)
            equity += value.quantize(tick, rounding=ROUND_HALF_EVEN)
        assert m.equity == equity
        ticks = int(equity / tick)
        assert m.change_ppm == ticks * 10**6 // closed - 10**6
        assert m.return_ppm == ticks * 10**6 // initial - 10**6
    returns = [(-entry.mark.return_ppm, entry.mark.simulation_id) for entry in marks.leaderboard]
    assert returns == sorted(returns)
    assert [entry.rank for entry in marks.leaderboard] == list(range(1, 101))
    assert sorted(entry.closed_rank for entry in marks.leaderboard) == list(range(1, 101))
    assert [entry.closed_rank for entry in marks.leaderboard] != list(range(1, 101))


def test_the_newer_of_price_and_close_counts(engine: Engine, cache: PriceCache) -> None:
    price_at_random(engine)
    # A source that has been silent since before the last close of one asset.
    asset = scalar(engine, "SELECT (asset_ids)[1] FROM portfolio_days WHERE day = :day AND quantities[1] > 0"
        " AND user_id = (SELECT min(id) FROM users WHERE live) LIMIT 1", day=LAST_SAMPLE_DAY)  # fmt: skip
    change(engine, "UPDATE latest_prices SET ts = '2022-12-28 12:00+00' WHERE asset_id = :asset", asset=asset)
    first = mark(engine, cache).simulations
    assert any(m.at_close == 1 for m in first)
    change(
        engine,
        "UPDATE latest_prices SET price = (SELECT close FROM closes WHERE asset_id = :asset ORDER BY day DESC LIMIT 1)"
        " WHERE asset_id = :asset", asset=asset,
    )  # fmt: skip
    assert [m.equity for m in mark(engine, cache).simulations] == [m.equity for m in first]
    # A close of today comes from a tick, and is no newer than that tick.
    change(
        engine,
        "INSERT INTO closes (day, asset_id, close, source, kind, as_of)"
        " SELECT '2022-12-29', asset_id, 1, 'test', 'tick', ts FROM latest_prices WHERE asset_id <> :asset",
        asset=asset,
    )
    assert [m.equity for m in mark(engine, cache).simulations] == [m.equity for m in first]


def test_each_simulation_is_marked_from_its_newest_row(engine: Engine, cache: PriceCache) -> None:
    price_at_closes(engine)
    begun = (
        "SELECT s.id FROM simulations s JOIN users u ON u.id = s.user_id WHERE u.live AND s.start_day < '2022-12-15'"
    )
    late, later, long_gone, on_time = (row[0] for row in rows(engine, f"{begun} ORDER BY s.id LIMIT 4"))
    change(engine, "DELETE FROM portfolio_days WHERE day = :day AND simulation_id = :id", day=LAST_SAMPLE_DAY, id=late)
    change(engine, "DELETE FROM portfolio_days WHERE day > '2022-12-24' AND simulation_id = :id", id=later)
    change(engine, "DELETE FROM portfolio_days WHERE simulation_id = :id", id=long_gone)
    # Partitions are made ahead of the nights.
    change(engine, "CREATE TABLE portfolio_days_20221230 PARTITION OF portfolio_days"
        " FOR VALUES FROM ('2022-12-30') TO ('2022-12-31')")  # fmt: skip
    marks = {m.simulation_id: m for m in mark(engine, cache).simulations}
    assert marks[late].day == LAST_SAMPLE_DAY - timedelta(days=1)
    assert marks[later].day == date(2022, 12, 24)
    assert long_gone not in marks
    assert marks[on_time].day == LAST_SAMPLE_DAY
    assert len(marks) == len(live_ids(engine)) - 1


def test_what_cannot_be_valued_is_left_out(engine: Engine, cache: PriceCache) -> None:
    before = {m.simulation_id: m for m in mark(engine, cache).simulations}
    holders = [m.simulation_id for m in before.values() if m.positions]
    too_big, priceless = holders[:2]
    change(engine, "UPDATE portfolio_days SET cash = 9223372036854775807 WHERE day = :day AND simulation_id = :id",
        day=LAST_SAMPLE_DAY, id=too_big)  # fmt: skip
    change(engine, "UPDATE portfolio_days SET asset_ids[1] = 999999, quantities[1] = 1"
        " WHERE day = :day AND simulation_id = :id", day=LAST_SAMPLE_DAY, id=priceless)  # fmt: skip
    after = {m.simulation_id: m for m in mark(engine, cache).simulations}
    assert set(after) == set(before) - {too_big, priceless}
    assert after == {key: before[key] for key in after}


def test_an_older_window_that_arrives_late_writes_nothing(engine: Engine, cache: PriceCache) -> None:
    price_at_closes(engine)
    newest = mark(engine, cache)
    change(engine, "UPDATE latest_prices SET price = price + 1")
    older = WINDOW - timedelta(minutes=5)
    away = make_engine("postgresql://127.0.0.1:1/none")
    for window, now in ((older, NOW + timedelta(minutes=9)), (WINDOW, NOW - timedelta(seconds=1))):
        # Nor does it ask the database.
        assert mark_live(away, cache, window=window, now=now) is None
    assert read_marks(cache) == newest
    again = mark(engine, cache, now=NOW + timedelta(seconds=1))
    assert again.simulations != newest.simulations
    assert read_marks(cache) == again
    following = mark(engine, cache, window=WINDOW + timedelta(minutes=5), now=NOW + timedelta(minutes=5))
    assert read_marks(cache) == following


def test_an_older_window_that_is_overtaken_while_it_counts_writes_nothing(
    engine: Engine, cache: PriceCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    import services.live_marks as module

    count = module._marks

    def overtaken(*arguments: Any) -> Marks:
        monkeypatch.setattr(module, "_marks", count)
        mark(engine, cache, window=WINDOW + timedelta(minutes=5), now=NOW + timedelta(minutes=5))
        return count(*arguments)

    monkeypatch.setattr(module, "_marks", overtaken)
    assert mark_live(engine, cache, window=WINDOW, now=NOW) is None
    marks = read_marks(cache)
    assert marks is not None
    assert marks.window == WINDOW + timedelta(minutes=5)


def test_marks_are_json_in_hashes_that_expire(engine: Engine, cache: PriceCache, client: Client) -> None:
    price_at_closes(engine)
    marks = mark(engine, cache)
    first = marks.simulations[0]
    document = json.loads(client.hget(SIMULATIONS_KEY, str(first.simulation_id)) or "")
    assert document == {
        "user": first.user_id,
        "simulation": first.simulation_id,
        "equity": f"{first.equity:.8f}",
        "change_ppm": 0,
        "return_ppm": first.return_ppm,
        "day": "2022-12-28",
        "positions": first.positions,
        "at_close": 0,
        "priced_at": "2022-12-29T12:00:00+00:00",
        "window": "2022-12-29T12:00:00+00:00",
        "marked_at": "2022-12-29T12:01:00+00:00",
    }
    assert json.loads(client.hget(LEADERBOARD_KEY, "1") or "")["closed_rank"] == 1
    for key in (WINDOW_KEY, SIMULATIONS_KEY, LEADERBOARD_KEY):
        assert 3590 < int(client.ttl(key)) <= 3600
    # Who is no longer live has no mark any more.
    change(engine, "UPDATE users SET live = false")
    assert mark(engine, cache).simulations == []
    assert client.exists(SIMULATIONS_KEY) == 0
    client.delete(WINDOW_KEY)
    assert read_marks(cache) is None


def test_a_system_without_nights_marks_nothing(database: str, cache: PriceCache) -> None:
    engine = make_engine(database)
    marks = mark(engine, cache)
    assert (marks.simulations, marks.leaderboard) == ([], [])
    assert read_marks(cache) == marks
    engine.dispose()


def test_a_cache_that_is_away_is_a_server_out_of_reach(engine: Engine) -> None:
    away = PriceCache(f"redis://:hush@127.0.0.1:{free_port(None)}/0")
    with pytest.raises(ServerUnreachableError, match="NIGHTSHIFT_CACHE_URL") as marking:
        mark_live(engine, away, window=WINDOW, now=NOW)
    with pytest.raises(ServerUnreachableError, match="NIGHTSHIFT_CACHE_URL") as reading:
        read_marks(away)
    assert "hush" not in f"{marking.value} {reading.value}"
    away.close()


@pytest.fixture
def shell(
    engine: Engine, redis_url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Shell:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NIGHTSHIFT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NIGHTSHIFT_DATABASE_URL", engine.url.render_as_string(hide_password=False))
    monkeypatch.setenv("NIGHTSHIFT_REDIS_URL", redis_url)
    return Shell(capsys)


def test_status_live_shows_the_marks_without_a_worker(shell: Shell, engine: Engine, cache: PriceCache) -> None:
    assert "nothing is marked yet" in shell.ok("status", "--live").out
    nothing = shell.ok("status", "--live", "--json").json
    assert (nothing["window"], nothing["leaderboard"], nothing["simulations"]) == (None, [], [])
    assert nothing["cache"] == {"hits": 0, "misses": 0, "hit_ratio": None}

    price_at_closes(engine)
    marks = mark(engine, cache)
    (symbol,) = (row[0] for row in rows(engine, "SELECT symbol FROM assets ORDER BY id LIMIT 1"))
    for _ in range(4):
        cache.get(engine, [symbol])
    shown = shell.ok("status", "--live", "--json").json
    assert shown["window"] == "2022-12-29T12:00:00+00:00"
    assert shown["simulations"] == [m.as_json() for m in marks.simulations]
    assert shown["leaderboard"] == [entry.as_json() for entry in marks.leaderboard]
    assert shown["cache"] == {"hits": 3, "misses": 1, "hit_ratio": 0.75}
    page = shell.ok("status", "--live").out
    assert "75.0 % of 4 prices" in page
    assert "window 2022-12-29 12:00:00" in page
    assert f"{marks.simulations[0].equity:,.2f}" in page
    assert "+0.00 %" in page


def test_status_names_alerts_and_sources(shell: Shell, engine: Engine) -> None:
    assert shell.ok("status", "--json").json["windows"] == []
    assert "alerts" not in shell.ok("status").out
    change(
        engine,
        "INSERT INTO price_windows (source, starts_at, status) VALUES"
        " ('binance', '2022-12-29 11:50+00', 'done'), ('binance', '2022-12-29 11:55+00', 'done'),"
        " ('binance', '2022-12-29 12:00+00', 'failed'), ('binance', '2022-12-29 12:05+00', 'planned'),"
        " ('osrs', '2022-12-29 12:00+00', 'filling')",
    )
    change(
        engine,
        "INSERT INTO alerts (key, kind, detail, raised_at, cleared_at) VALUES"
        " ('a', 'source_down', 'binance [does] not answer', '2022-12-29 12:03+00', NULL),"
        " ('b', 'source_down', 'over', '2022-12-29 10:03+00', '2022-12-29 10:08+00')",
    )
    status = shell.ok("status", "--json").json
    assert [(w["source"], w["newest_done"], w["open"]) for w in status["windows"]] == [
        ("binance", "2022-12-29T11:55:00+00:00", {"planned": 1, "failed": 1, "filling": 0}),
        ("osrs", None, {"planned": 0, "failed": 0, "filling": 1}),
    ]
    assert [(a["key"], a["kind"], a["detail"]) for a in status["alerts"]] == [
        ("a", "source_down", "binance [does] not answer")
    ]
    page = shell.ok("status").out
    assert "binance · newest window 2022-12-29 11:55:00 · 1 planned, 1 failed" in page
    assert "osrs · newest window – · 1 filling" in page
    assert "source_down since 2022-12-29 12:03:00: binance [does] not answer" in page
