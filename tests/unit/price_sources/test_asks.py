"""What a source is asked: all of the windows and days, each once, in as few requests as it allows."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from itertools import pairwise

import pytest

from price_sources.binance import Binance
from price_sources.coingecko import CoinGecko
from price_sources.csv_closes import CsvCloses
from price_sources.osrs import GrandExchange
from price_sources.source import Ask, PriceSource

FIRST = datetime(2026, 3, 1, tzinfo=UTC)
DAY = date(2026, 3, 1)
FIVE = timedelta(minutes=5)
BINANCE = Binance("http://binance.invalid")
COINGECKO = CoinGecko("http://coingecko.invalid")
OSRS = GrandExchange("http://osrs.invalid", "tests")
CSV = CsvCloses("http://csv.invalid/prices.csv")
ALL: list[PriceSource] = [BINANCE, COINGECKO, OSRS, CSV]


def ranges(asks: list[Ask]) -> list[tuple[datetime, datetime]]:
    return [(ask.first, ask.last) for ask in asks]


def seamless(asks: list[Ask], first: datetime, last: datetime) -> bool:
    parts = ranges(asks)
    return parts[0][0] == first and parts[-1][1] == last and all(
        one[1] == other[0] for one, other in pairwise(parts)
    )  # fmt: skip


@pytest.mark.parametrize("source", ALL, ids=lambda it: it.name)
def test_of_nothing_nothing_is_asked(source: PriceSource) -> None:
    assert source.live([], FIRST) == []
    assert source.fill([], FIRST, FIRST + FIVE, FIVE) == []
    assert source.fill(["A"], FIRST, FIRST, FIVE) == []
    assert source.closes([], DAY, DAY + timedelta(1)) == []
    assert source.closes(["A"], DAY, DAY) == []


def test_binance_is_asked_for_all_symbols_at_once() -> None:
    codes = [f"S{number}" for number in range(5000)]
    (ask,) = BINANCE.live(codes, FIRST)
    assert (ask.path, ask.params, ask.cost) == ("/api/v3/ticker/price", (), 4)
    assert ask.codes == tuple(codes)


@pytest.mark.parametrize(
    ("window", "interval"),
    [(60, "1m"), (300, "5m"), (600, "5m"), (900, "15m"), (1800, "30m"), (3600, "1h"), (86_400, "1d"), (420, "1m"),
     (90, "1s"), (1, "1s")],
)  # fmt: skip
def test_binance_is_asked_for_the_longest_klines_that_begin_with_every_window(window: int, interval: str) -> None:
    step = timedelta(seconds=window)
    first = datetime(1970, 1, 1, tzinfo=UTC) + (FIRST - datetime(1970, 1, 1, tzinfo=UTC)) // step * step
    ask = BINANCE.fill(["A"], first, first + step, step)[0]
    assert dict(ask.params)["interval"] == interval


def test_a_week_of_binance_comes_in_pages_of_a_thousand_without_a_gap() -> None:
    last = FIRST + timedelta(7)
    asks = BINANCE.fill(["A", "B"], FIRST, last, FIVE)
    assert [ask.codes for ask in asks] == [("A",)] * 3 + [("B",)] * 3
    assert seamless(asks[:3], FIRST, last)
    assert all(ask.last - ask.first <= 1000 * FIVE for ask in asks)
    params = dict(asks[0].params)
    assert int(params["endTime"]) - int(params["startTime"]) == 1000 * 300_000 - 1
    assert {ask.cost for ask in asks} == {2}


def test_years_of_closes_of_binance_come_in_pages_of_a_thousand_without_a_gap() -> None:
    asks = BINANCE.closes(["A"], date(2018, 1, 1), date(2026, 1, 1))
    assert len(asks) == 3
    assert seamless(asks, datetime(2018, 1, 1, tzinfo=UTC), datetime(2026, 1, 1, tzinfo=UTC))


def test_coingecko_is_asked_for_250_coins_at_a_time() -> None:
    codes = [f"coin-{number}" for number in range(600)]
    asks = COINGECKO.live(codes, FIRST)
    assert [len(ask.codes) for ask in asks] == [250, 250, 100]
    assert [code for ask in asks for code in ask.codes] == codes
    assert dict(asks[2].params) == {
        "ids": ",".join(codes[500:]), "vs_currencies": "usd", "include_last_updated_at": "true",
    }  # fmt: skip


@pytest.mark.parametrize("hours", [1, 24, 25, 72])
def test_the_last_day_of_a_gap_of_coingecko_is_asked_by_itself_for_its_points_are_closer(hours: int) -> None:
    last = FIRST + timedelta(hours=hours)
    asks = COINGECKO.fill(["bitcoin"], FIRST, last, FIVE)
    assert len(asks) == (1 if hours <= 24 else 2)
    assert seamless(asks, FIRST, last)
    assert asks[-1].last - asks[-1].first <= timedelta(1)
    assert dict(asks[-1].params)["to"] == str(int(last.timestamp()))


def test_the_name_of_a_coin_cannot_leave_its_place_in_the_path() -> None:
    (ask,) = COINGECKO.closes(["../ping?x=/"], DAY, DAY + timedelta(1))
    assert ask.path == "/coins/..%2Fping%3Fx%3D%2F/market_chart/range"


def test_the_exchange_is_asked_once_a_window_for_all_items() -> None:
    asks = OSRS.fill(["2", "6"], FIRST, FIRST + timedelta(hours=1), FIVE)
    assert len(asks) == 12
    assert {(ask.path, ask.codes) for ask in asks} == {("/5m", ("2", "6"))}
    assert seamless(asks, FIRST, FIRST + timedelta(hours=1))
    assert [dict(ask.params)["timestamp"] for ask in asks[:2]] == ["1772323200", "1772323500"]
    assert [ask.path for ask in OSRS.fill(["2"], FIRST, FIRST + timedelta(hours=2), timedelta(hours=1))] == ["/1h"] * 2


def test_a_window_in_which_no_bucket_begins_is_not_asked_of_the_exchange() -> None:
    asks = OSRS.fill(["2"], FIRST, FIRST + timedelta(minutes=10), timedelta(minutes=1))
    assert [ask.first for ask in asks] == [FIRST, FIRST + FIVE]


@pytest.mark.parametrize(
    ("days", "codes", "path", "requests"),
    [(1, 3, "/1h", 1), (14, 3, "/1h", 14), (15, 3, "/timeseries", 3), (15, 16, "/1h", 15), (365, 1, "/timeseries", 1)],
)
def test_closes_of_the_exchange_come_by_the_day_or_of_long_histories_by_the_item(
    days: int, codes: int, path: str, requests: int
) -> None:
    asks = OSRS.closes([str(number) for number in range(codes)], DAY, DAY + timedelta(days))
    assert {ask.path for ask in asks} == {path}
    assert len(asks) == requests
    if path == "/1h":
        assert dict(asks[0].params) == {"timestamp": str(int(FIRST.timestamp()) + 23 * 3600)}


def test_a_csv_file_has_closes_only() -> None:
    assert CSV.live(["A"], FIRST) == CSV.fill(["A"], FIRST, FIRST + FIVE, FIVE) == []
    (ask,) = CSV.closes(["A", "B"], DAY, DAY + timedelta(30))
    assert (ask.path, ask.params, ask.codes) == ("", (), ("A", "B"))
