"""From the text of an answer to ticks nothing passes through a binary float: each reader equals Decimal arithmetic."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, timedelta
from decimal import ROUND_HALF_EVEN, Decimal, localcontext

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from price_sources import exact_json
from price_sources.binance import Binance
from price_sources.coingecko import CoinGecko
from price_sources.csv_closes import CsvCloses
from price_sources.osrs import GrandExchange
from price_sources.reading import midnight
from price_sources.source import Answer, Ask, Kind, PriceSource

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
DAY = date(2026, 2, 1)
AT = int(NOW.timestamp())
FIVE = timedelta(minutes=5)
BINANCE = Binance("http://binance.invalid")
COINGECKO = CoinGecko("http://coingecko.invalid")
OSRS = GrandExchange("http://osrs.invalid", "tests")
CSV = CsvCloses("http://csv.invalid/prices.csv")
START = int(midnight(DAY).timestamp() * 1000)

# What JSON calls a number: digits, a point, an exponent, as providers write 0.00001 and 1.0e-5.
numbers = st.builds(
    lambda digits, places, exponent: f"{Decimal(digits).scaleb(-places):f}" + exponent,
    st.integers(1, 10**17),
    st.integers(0, 17),
    st.sampled_from(["", "e0", "E+1", "e-3", "e-7"]),
)


def ticks(text: str) -> int:
    with localcontext(prec=100):
        return int((Decimal(text) * 10**8).to_integral_value(ROUND_HALF_EVEN))


def middle(one: str, other: str) -> int:
    with localcontext(prec=100):
        return int((Decimal(ticks(one) + ticks(other)) / 2).to_integral_value(ROUND_HALF_EVEN))


def fill(source: PriceSource) -> Ask:
    return source.fill(["A"], NOW, NOW + FIVE, FIVE)[0]


def closes(source: PriceSource) -> Ask:
    return source.closes(["A"], DAY, DAY + timedelta(1))[0]


READERS: dict[str, tuple[PriceSource, Kind, str]] = {
    "binance ticker": (BINANCE, Kind.LIVE, '[{"symbol":"A","price":"%s"}]'),
    "binance day ticker": (BINANCE, Kind.LIVE, f'[{{"symbol":"A","lastPrice":"%s","closeTime":{AT}000}}]'),
    "binance kline": (BINANCE, Kind.FILL, f'[[{AT}000,"%s","9","1","2","0",{AT + 300}999]]'),
    "binance daily kline": (
        BINANCE, Kind.CLOSES, f'[[{START},"%s","%s","%s","%s","0",{START + 86_399_999}]]',
    ),
    "coingecko simple": (COINGECKO, Kind.LIVE, '{"A":{"usd":%s}}'),
    "coingecko markets": (COINGECKO, Kind.LIVE, '[{"id":"A","current_price":%s}]'),
    "coingecko chart": (COINGECKO, Kind.FILL, f'{{"prices":[[{AT}000,%s]]}}'),
    "coingecko daily chart": (COINGECKO, Kind.CLOSES, f'{{"prices":[[{START + 86_400_000},%s]]}}'),
    "osrs latest": (OSRS, Kind.LIVE, f'{{"data":{{"A":{{"high":%s,"highTime":{AT},"low":null,"lowTime":null}}}}}}'),
    "osrs bucket": (
        OSRS, Kind.FILL, f'{{"data":{{"A":{{"avgHighPrice":%s,"avgLowPrice":null}}}},"timestamp":{AT}}}',
    ),
    "osrs hour": (
        OSRS, Kind.CLOSES,
        f'{{"data":{{"A":{{"avgHighPrice":null,"avgLowPrice":%s}}}},"timestamp":{START // 1000 + 82_800}}}',
    ),
    "csv": (CSV, Kind.CLOSES, "symbol,day,close\nA,2026-02-01,%s\n"),
}  # fmt: skip


def read(name: str, text: str) -> Answer:
    source, kind, template = READERS[name]
    ask = source.live(["A"], NOW)[0] if kind is Kind.LIVE else fill(source) if kind is Kind.FILL else closes(source)
    return source.read(ask, template.replace("%s", text).encode(), NOW + FIVE)


@pytest.mark.parametrize("name", READERS)
@settings(max_examples=60)
@given(text=numbers)
def test_every_reader_reads_a_number_as_it_is_written(name: str, text: str) -> None:
    answer = read(name, text)
    expected = ticks(text)
    prices = [quote.price for quote in answer.quotes] + [close.close for close in answer.closes]
    assert prices == ([expected] if 0 < expected < 2**63 else [])
    assert bool(answer.refused) == (prices == [])


@pytest.mark.parametrize("name", READERS)
def test_a_number_that_no_binary_float_holds_is_read_to_its_last_digit(name: str) -> None:
    assert float("90071992547.40993001") != Decimal("90071992547.40993001")
    answer = read(name, "90071992547.40993001")
    assert [each[2] for each in (*answer.quotes, *answer.closes)] == [9007199254740993001]


@given(high=numbers, low=numbers)
def test_the_middle_of_two_averages_is_exact(high: str, low: str) -> None:
    bucket = f'{{"data":{{"A":{{"avgHighPrice":{high},"avgLowPrice":{low}}}}},"timestamp":{AT}}}'
    answer = OSRS.read(fill(OSRS), bucket.encode(), NOW + FIVE)
    if all(0 < ticks(text) < 2**63 for text in (high, low)):
        assert [quote.price for quote in answer.quotes] == [middle(high, low)]
    else:
        assert answer.quotes == []


json_values = st.recursive(
    st.none() | st.booleans() | st.text() | st.integers() | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@given(value=json_values)
def test_json_keeps_the_text_of_its_numbers_and_everything_else(value: object) -> None:
    def as_text(value: object) -> object:
        if isinstance(value, dict):
            return {name: as_text(member) for name, member in value.items()}
        if isinstance(value, list):
            return [as_text(member) for member in value]
        return value if isinstance(value, str | bool | None) else json.dumps(value)

    assert exact_json.parse(json.dumps(value).encode()) == as_text(value)
