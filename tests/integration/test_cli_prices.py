"""`nightshift prices` with a provider on this machine: fetch, follow, look, decide; and what wrong use comes to."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import Engine

from tests.support.cli import Shell
from tests.support.nights import change, rows, scalar
from tests.support.price_world import Exchange, text_of, wave
from tests.support.provider import Provider


@pytest.fixture
def exchange() -> Iterator[Exchange]:
    """Binance as it is now."""
    with Provider() as server:
        yield Exchange(server, ["BTCUSDT", "ETHUSDT"], wave, datetime.now(UTC))  # noqa: TID251 - the command's clock


@pytest.fixture
def shell(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    database: str,
    redis_url: str,
    exchange: Exchange,
) -> Shell:
    """Works with a database and a Redis of its own, and with that exchange, in an empty directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NIGHTSHIFT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NIGHTSHIFT_DATABASE_URL", database)
    monkeypatch.setenv("NIGHTSHIFT_REDIS_URL", redis_url)
    monkeypatch.setenv("NIGHTSHIFT_BINANCE_URL", exchange.server.url)
    monkeypatch.setenv("NIGHTSHIFT_PRICE_SOURCES", "binance")
    return Shell(capsys)


def test_fetch_follows_and_stores_the_newest_prices(shell: Shell, engine: Engine, exchange: Exchange) -> None:
    fetched = shell.ok("prices", "fetch", "--source", "binance", "--symbols", "BTC=BTCUSDT,ETH=ETHUSDT", "--json").json
    assert (fetched["assets"], fetched["requests"], fetched["stored"], fetched["refused"]) == (2, 1, 2, {})
    newest = shell.ok("prices", "latest", "BTC", "--json").json["newest"]
    assert (newest["price"], newest["source"]) == (text_of(wave("BTCUSDT", exchange.now)), "binance")
    shown = shell.ok("prices", "latest", "ETH").out
    assert text_of(wave("ETHUSDT", exchange.now)) in shown
    assert "highest in 24 hours" in shown
    shell.ok("prices", "fetch", "--source", "binance")
    (state,) = shell.ok("prices", "sources", "--json").json["enabled"]
    assert (state["name"], state["assets"], state["failed_windows"]) == ("binance", 2, 0)
    assert "2" in shell.ok("prices", "unfollow", "--source", "binance", "BTC", "ETH").err
    assert scalar(engine, "SELECT count(*) FROM asset_sources") == 0
    assert scalar(engine, "SELECT count(*) FROM assets") == 2


def test_fetch_since_a_day_brings_every_close_since(shell: Shell, engine: Engine, exchange: Exchange) -> None:
    since = exchange.now.date() - timedelta(days=9)
    done = shell.ok("prices", "fetch", "--source", "binance", "--symbols", "BTC=BTCUSDT", "--since", since)
    assert "9 new prices" in done.err
    found = rows(engine, "SELECT day, kind FROM closes ORDER BY day")
    assert found == [(since + timedelta(days=number), "candle") for number in range(9)]


def test_a_source_that_nothing_fetches_by_itself_says_so(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NIGHTSHIFT_PRICE_SOURCES", "")
    done = shell.ok("prices", "fetch", "--source", "binance", "--symbols", "BTCUSDT")
    assert "binance is not in NIGHTSHIFT_PRICE_SOURCES" in done.err
    sources = shell.ok("prices", "sources")
    assert "no source is enabled" in sources.err
    assert "Binance spot" in sources.err


def test_held_prices_are_listed_and_decided(shell: Shell, engine: Engine) -> None:
    shell.ok("prices", "fetch", "--source", "binance", "--symbols", "BTC=BTCUSDT,ETH=ETHUSDT")
    change(engine, "UPDATE latest_prices SET price = price / 3, ts = ts - interval '5 min'")
    assert "2 held" in shell.ok("prices", "fetch", "--source", "binance").err
    listed = shell.ok("prices", "held", "--json").json
    assert [(one["symbol"], one["status"]) for one in listed] == [("ETH", "held"), ("BTC", "held")]
    assert "price 1 is used" in shell.ok("prices", "held", "--accept", 1).err
    assert "price 2 is not used" in shell.ok("prices", "held", "--reject", 2).err
    assert shell.ok("prices", "held", "--json").json == []
    assert {one["status"] for one in shell.ok("prices", "held", "--all", "--json").json} == {"accepted", "rejected"}
    assert "accepted already" in shell.refused("prices", "held", "--accept", 1)


def test_a_correction_is_written_down(shell: Shell, engine: Engine, exchange: Exchange) -> None:
    day = exchange.now.date() - timedelta(days=2)
    shell.ok("prices", "fetch", "--source", "binance", "--symbols", "BTC=BTCUSDT", "--since", day)
    done = shell.ok("prices", "correct", "BTC", day, "123.45", "--reason", "the exchange said so", "--json")
    assert (done.json["new"], done.json["run"]) == ("123.45000000", None)
    assert "no night has used that close" in done.err
    assert rows(engine, "SELECT close, kind FROM closes WHERE day = :day", day=day) == [(12_345_000_000, "correction")]


def test_a_close_of_a_closed_day_is_told_of_or_has_to_be_meant(shell: Shell, engine: Engine, tmp_path: Path) -> None:
    file = tmp_path / "stocks.csv"
    file.write_text("symbol,day,close\nA,2024-01-05,1\nA,2024-01-06,2\n", encoding="utf-8")
    told = shell.ok("prices", "import", file, "--calendar", "weekdays").err
    assert "1 close is of a day on which the market is closed (calendar weekdays: A on Saturday 2024-01-06)" in told
    sunday = ["prices", "correct", "A", "2024-01-07", "3", "--reason", "x"]
    assert "the market of A is closed on Sunday 2024-01-07" in shell.refused(*sunday)
    shell.ok(*sunday, "--closed-day")
    assert rows(engine, "SELECT kind FROM closes WHERE day = '2024-01-07'") == [("correction",)]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["fetch", "--source", "nyse"], "unknown source 'nyse': there are binance, coingecko, osrs, csv"),
        (["fetch", "--source", "binance"], "binance follows nothing yet: say what, with --symbols"),
        (["fetch", "--source", "binance", "--symbols", "A,,B"], "--symbols: '' is not SYMBOL or SYMBOL=CODE"),
        (["fetch", "--source", "binance", "--symbols", "A,A"], "--symbols: 'A' is there twice"),
        (
            ["fetch", "--source", "binance", "--symbols", "A", "--since", "yesterday"],
            "--since: 'yesterday' is not a day",
        ),
        (["fetch", "--source", "binance", "--symbols", "A", "--since", "2999-01-01"], "that day is not over yet"),
        (["fetch", "--source", "binance", "--calendar", "weekdays"], "--calendar belongs to --symbols"),
        (["fetch", "--source", "binance", "--symbols", "A", "--calendar", "moon"], "moon"),
        (["unfollow", "--source", "binance", "BTC"], "binance is not asked for 'BTC'"),
        (["held", "--accept", "1", "--reject", "2"], "one price at a time"),
        (["held", "--accept", "1"], "there is no held price 1"),
        (["correct", "BTC", "2024-13-01", "1", "--reason", "x"], "DAY: '2024-13-01' is not a day"),
        (["correct", "BTC", "2024-01-01", "1", "--reason", " "], "--reason must not be empty"),
        (["correct", "BTC", "2024-01-01", "1", "--reason", "x"], "BTC"),
    ],
)
def test_wrong_use_gets_one_line(shell: Shell, arguments: list[str], said: str) -> None:
    assert said in shell.refused("prices", *arguments)


def test_a_source_that_does_not_answer_is_one_line(shell: Shell, exchange: Exchange) -> None:
    exchange.server.serve("/api/v3/ticker/price", (403, b'{"msg":"not from here"}'))
    done = shell("prices", "fetch", "--source", "binance", "--symbols", "BTC=BTCUSDT")
    assert done.code == 1
    assert "status 403: not from here" in done.err
    assert "Traceback" not in done.err


def test_an_import_may_say_when_its_symbols_trade(shell: Shell, engine: Engine, tmp_path: Path) -> None:
    file = tmp_path / "closes.csv"
    file.write_text("symbol,day,close\nAAPL,2024-03-01,179.66\n")
    shell.ok("prices", "import", file)
    assert scalar(engine, "SELECT calendar FROM assets") == "24/7"
    shell.ok("prices", "import", file, "--calendar", "XNYS")
    assert scalar(engine, "SELECT calendar FROM assets") == "XNYS"
    assert "moon" in shell.refused("prices", "import", file, "--calendar", "moon")
