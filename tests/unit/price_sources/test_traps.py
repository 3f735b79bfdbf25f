"""What really happens in the recorded answers, trap by trap: none of it becomes a price that is not one."""

from __future__ import annotations

import csv
import gzip
import json
from collections import Counter
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

from price_sources.coingecko import CoinGecko
from price_sources.osrs import GrandExchange, read_mapping
from price_sources.source import Answer, DayClose, Quote, Reason
from tests.support.recorded import CASES, at, body, exactly, needs_recorded, ticks

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
FIVE = timedelta(minutes=5)
UNIT = 10**8
COINGECKO = CoinGecko("http://coingecko.invalid")
OSRS = GrandExchange("http://osrs.invalid", "tests")


def reads(name: str) -> Answer:
    """What a recorded case is read to."""
    case = next(case for case in CASES if case.name == name)
    source = case.source("http://source.invalid")
    return source.read(case.only_ask(source), case.body(), case.now)


def reasons(answer: Answer) -> list[tuple[str, Reason]]:
    return [(refused.code, refused.reason) for refused in answer.refused]


@needs_recorded
def test_coins_left_out_for_a_space_and_currencies_that_are_unknown_are_missing() -> None:
    answer = reads("coingecko simple/price")
    assert answer.quotes == [Quote("bitcoin", datetime(2020, 11, 1, tzinfo=UTC), 49357 * UNIT)]
    assert reasons(answer) == [("ethereum", Reason.MISSING)]

    source = CoinGecko("http://coingecko.invalid", "ethereum")
    unknown = body("api_fixtures/coingecko_ruby__btc_to_eth_exchange_rate__0__200.json")
    assert unknown == b'{"bitcoin":{}}'
    answer = source.read(source.live(["bitcoin"], NOW)[0], unknown, NOW)
    assert answer.quotes == []
    assert reasons(answer) == [("bitcoin", Reason.MISSING)]


def test_no_space_is_ever_put_between_coins() -> None:
    (ask,) = COINGECKO.live(["bitcoin", "ethereum"], NOW)
    assert dict(ask.params)["ids"] == "bitcoin,ethereum"


@needs_recorded
def test_the_point_that_is_now_is_no_close() -> None:
    answer = reads("coingecko daily chart")
    last = exactly("api_fixtures/coingecko_ruby__daily_historical_prices_for_one_coin__0__200.json")["prices"][-1]
    assert reasons(answer) == [("bitcoin", Reason.UNFINISHED)]
    assert answer.closes[-1].day == date(2021, 5, 14)
    assert ticks(last[1]) not in {close.close for close in answer.closes}


@needs_recorded
def test_the_last_kline_is_no_close_but_its_open_is_a_price() -> None:
    answer = reads("binance klines of days")
    assert reasons(answer) == [("BTCUSDT", Reason.UNFINISHED)]
    assert answer.closes[-1] == DayClose(
        "BTCUSDT", date(2024, 8, 31), 5897399000000, 5912399000000, 5946238000000, 5874400000000,
        Decimal("8798.40900000"),
    )  # fmt: skip
    quotes = reads("binance klines of minutes").quotes
    assert quotes[-1] == Quote("X", datetime(2024, 11, 16, 17, 26, tzinfo=UTC), 75490000)


@needs_recorded
def test_a_last_price_of_zero_is_a_market_that_is_gone() -> None:
    counts = Counter(reason for _, reason in reasons(reads("binance ticker/24hr")))
    assert counts == {Reason.ZERO: 272, Reason.STALE: 2}


@needs_recorded
def test_the_hour_before_sent_again_is_recognised() -> None:
    codes = ["2", "6", "30848"]
    again = body("osrs/1h-1747764000.json")
    assert again == body("osrs/1h-1747760400.json")
    now = at(1747764000)
    first, second = OSRS.fill(codes, at(1747756800), at(1747764000), timedelta(hours=1))
    assert len(OSRS.read(first, again, now).quotes) == 3
    answer = OSRS.read(second, again, now)
    assert answer.quotes == []
    assert reasons(answer) == [(code, Reason.STALE) for code in codes]
    assert answer.refused[0].detail == "the answer is about 2025-05-20 16:00"


@needs_recorded
def test_what_did_not_trade_is_empty_and_what_half_traded_has_the_other_half() -> None:
    answer = reads("osrs 5m")
    data = exactly("osrs/5m-1748241900.json")["data"]
    prices = {quote.code: quote.price for quote in answer.quotes}
    assert data["6"]["avgHighPrice"] is None
    assert prices["6"] == 193177 * UNIT
    assert prices["2"] == 1895 * UNIT // 10
    assert Counter(reason for _, reason in reasons(answer)) == {Reason.EMPTY: 2682}
    nothing = {"avgHighPrice": None, "highPriceVolume": 0, "avgLowPrice": None, "lowPriceVolume": 0}
    ask = OSRS.fill(["2"], NOW, NOW + FIVE, FIVE)[0]
    bucket = {"data": {"2": nothing}, "timestamp": int(NOW.timestamp())}
    assert reasons(OSRS.read(ask, json.dumps(bucket).encode(), NOW + FIVE)) == [("2", Reason.EMPTY)]


@needs_recorded
def test_a_high_below_the_low_is_the_later_trade_and_no_error() -> None:
    data = exactly("osrs/latest.json")["data"]
    crossed = {code: item for code, item in data.items() if (item["high"] or 10**12) < (item["low"] or 0)}
    assert len(crossed) == 696
    answer = reads("osrs latest")
    prices = {quote.code: quote for quote in answer.quotes}
    old = {code for code, _ in reasons(answer)}
    for code, item in crossed.items():
        side = "high" if item["highTime"] >= item["lowTime"] else "low"
        assert code in old or prices[code] == Quote(code, at(item[f"{side}Time"]), ticks(item[side]))
    assert len(crossed.keys() - old) > 600


@needs_recorded
def test_what_last_traded_a_month_ago_is_stale() -> None:
    assert Counter(reason for _, reason in reasons(reads("osrs latest"))) == {Reason.STALE: 42}


@needs_recorded
def test_sixteen_items_have_a_price_but_no_name() -> None:
    names = read_mapping(body("osrs/mapping.json"))
    assert len(names) == 4275
    assert names["4151"] == "Abyssal whip"
    codes = {quote.code for quote in reads("osrs latest").quotes} | {code for code, _ in reasons(reads("osrs latest"))}
    assert len(codes - names.keys()) == 16


@needs_recorded
def test_the_last_hour_of_a_day_is_its_close_and_hours_that_are_missing_are_none() -> None:
    hours: dict[datetime, dict[str, dict[str, Any]]] = {}
    for row in csv.DictReader(gzip.decompress(body("osrs/osrs_ge_hourly.csv.gz")).decode().splitlines()):
        hours.setdefault(at(int(row["ts"])), {})[row["item_id"]] = {
            name: int(row[name]) if row[name] else None for name in ("avgHighPrice", "avgLowPrice")
        }
    last_hours = {hour: items for hour, items in hours.items() if hour.hour == 23}
    assert last_hours
    for hour, items in last_hours.items():
        (ask,) = OSRS.closes(["0", *items], hour.date(), hour.date() + timedelta(1))
        answer = OSRS.read(ask, json.dumps({"data": items, "timestamp": int(hour.timestamp())}).encode(), NOW)
        expected = {}
        for code, item in items.items():
            prices = [Decimal(price) for price in item.values() if price is not None]
            if prices:
                expected[code] = ticks(sum(prices, Decimal(0)) / len(prices))
        assert {close.code: close.close for close in answer.closes} == expected
        assert {close.day for close in answer.closes} == {hour.date()}
        # Item 0 did not trade: that is no error, its last tick stands.
        assert "0" not in {code for code, _ in reasons(answer)}
    missing = min(hours) + timedelta(hours=next(n for n in range(200) if min(hours) + timedelta(hours=n) not in hours))
    ask = OSRS.fill(["2"], missing, missing + timedelta(hours=1), timedelta(hours=1))[0]
    before = {"data": hours[missing - timedelta(hours=1)], "timestamp": int(missing.timestamp()) - 3600}
    assert reasons(OSRS.read(ask, json.dumps(before).encode(), NOW)) == [("2", Reason.STALE)]
