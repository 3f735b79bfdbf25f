"""A bad price is refused with its reason and spoils no other; an answer of another shape is refused as a whole."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest

from price_sources.binance import Binance
from price_sources.coingecko import CoinGecko
from price_sources.csv_closes import CsvCloses
from price_sources.osrs import GrandExchange
from price_sources.source import Answer, DayClose, Kind, MalformedAnswerError, PriceSource, Quote, Reason

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
FIVE = timedelta(minutes=5)
UNIT = 10**8
BINANCE = Binance("http://binance.invalid")
COINGECKO = CoinGecko("http://coingecko.invalid")
OSRS = GrandExchange("http://osrs.invalid", "tests")
CSV = CsvCloses("http://csv.invalid/prices.csv")


def live(source: PriceSource, codes: Sequence[str], answer: object) -> Answer:
    return source.read(source.live(codes, NOW)[0], json.dumps(answer).encode(), NOW)


def reasons(answer: Answer) -> list[tuple[str, Reason]]:
    return [(refused.code, refused.reason) for refused in answer.refused]


@pytest.mark.parametrize(
    ("source", "answer", "reason"),
    [
        (BINANCE, [{"symbol": "A", "price": "NaN"}], Reason.MALFORMED),
        (BINANCE, [{"symbol": "A", "price": True}], Reason.MALFORMED),
        (BINANCE, [{"symbol": "A", "price": None}], Reason.EMPTY),
        (BINANCE, [{"symbol": "A", "price": "-1"}], Reason.ZERO),
        (BINANCE, [{"symbol": "A", "price": "1e-9"}], Reason.ZERO),
        (BINANCE, [{"symbol": "A", "price": "1e99"}], Reason.MALFORMED),
        (BINANCE, [{"symbol": "A"}], Reason.EMPTY),
        (BINANCE, [{"symbol": "A", "lastPrice": "1", "closeTime": "yesterday"}], Reason.MALFORMED),
        (BINANCE, [{"symbol": "A", "lastPrice": "1", "closeTime": 10**14}], Reason.FUTURE),
        (BINANCE, [{"symbol": "A", "price": "1"}, {"symbol": "A", "price": "2"}], Reason.MALFORMED),
        (BINANCE, [], Reason.MISSING),
        (COINGECKO, {"A": {"usd": None}}, Reason.EMPTY),
        (COINGECKO, {"A": {"usd": 0}}, Reason.ZERO),
        (COINGECKO, {"A": {"usd": 1, "last_updated_at": 1}}, Reason.STALE),
        (COINGECKO, {"A": {"usd": 1, "last_updated_at": -1}}, Reason.MALFORMED),
        (COINGECKO, {"A": {"usd": 1, "last_updated_at": int(NOW.timestamp()) + 61}}, Reason.FUTURE),
        (COINGECKO, [{"id": "A", "current_price": None, "last_updated": None}], Reason.EMPTY),
        (COINGECKO, [{"id": "A", "current_price": 1, "last_updated": "noon"}], Reason.MALFORMED),
        (COINGECKO, [{"id": "A", "current_price": 1, "last_updated": "2026-03-01T10:00:00Z"}], Reason.STALE),
        (OSRS, {"data": {"A": {"high": None, "highTime": None, "low": None, "lowTime": None}}}, Reason.EMPTY),
        (OSRS, {"data": {"A": {"high": 1, "highTime": "x", "low": None, "lowTime": None}}}, Reason.MALFORMED),
        (OSRS, {"data": {"A": {"high": 0, "highTime": 1, "low": None, "lowTime": None}}}, Reason.ZERO),
        (OSRS, {"data": {}}, Reason.MISSING),
    ],
)
def test_a_bad_price_is_refused_with_its_reason_beside_a_good_one(
    source: PriceSource, answer: object, reason: Reason
) -> None:
    refused = live(source, ["A"], answer)
    assert refused.quotes == []
    assert {why for _, why in reasons(refused)} == {reason}
    assert all(len(each.detail) < 120 and each.detail.isprintable() for each in refused.refused)
    fresh = int(NOW.timestamp())
    good: dict[str, Any] = {
        "binance": {"symbol": "B", "price": "2"},
        "coingecko": {"id": "B", "current_price": 2} if isinstance(answer, list) else {"usd": 2},
        "osrs": {"high": 2, "highTime": fresh, "low": None, "lowTime": None},
    }
    if isinstance(answer, list):
        both: object = [*answer, good[source.name]]
    else:
        assert isinstance(answer, dict)
        both = {"data": answer["data"] | {"B": good["osrs"]}} if source is OSRS else answer | {"B": good[source.name]}
    assert live(source, ["A", "B"], both).quotes == [Quote("B", NOW, 2 * UNIT)]


def kline(day: date, o: str, h: str, low: str, c: str) -> list[object]:
    start = int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp() * 1000)
    return [start, o, h, low, c, "1.5", start + 86_400_000 - 1, "0", 1, "0", "0", "0"]


@pytest.mark.parametrize(
    ("prices", "reason"),
    [
        (("1", "2", "3", "1"), Reason.INCOHERENT),
        (("1", "2", "1", "3"), Reason.INCOHERENT),
        (("1", "2", "1", "0.5"), Reason.INCOHERENT),
        (("3", "2", "1", "1"), Reason.INCOHERENT),
        (("1", "2", "1", "0"), Reason.ZERO),
        (("x", "2", "1", "1"), Reason.MALFORMED),
    ],
)
def test_an_incoherent_candle_is_no_close(prices: tuple[str, str, str, str], reason: Reason) -> None:
    ask = BINANCE.closes(["A"], date(2026, 2, 1), date(2026, 2, 3))[0]
    rows = [kline(date(2026, 2, 1), *prices), kline(date(2026, 2, 2), "1", "2", "1", "2")]
    answer = BINANCE.read(ask, json.dumps(rows).encode(), NOW)
    assert [(close.day, close.close) for close in answer.closes] == [(date(2026, 2, 2), 2 * UNIT)]
    assert reasons(answer) == [("A", reason)]


def test_a_day_that_comes_twice_is_not_believed() -> None:
    ask = BINANCE.closes(["A"], date(2026, 2, 1), date(2026, 2, 3))[0]
    rows = [kline(date(2026, 2, 1), "1", "2", "1", close) for close in ("1", "2", "1")]
    answer = BINANCE.read(ask, json.dumps(rows).encode(), NOW)
    assert answer.closes == []
    assert reasons(answer) == [("A", Reason.MALFORMED)] * 2


def test_bad_rows_of_a_csv_file_are_named_and_today_is_unfinished() -> None:
    ask = CSV.closes(["A", "B", "C"], date(2026, 2, 1), date(2026, 3, 2))[0]
    rows = "A,2026-02-01,0.1\nA,2026-02-02,0\nA,2026-03-01,1\nB,2026-01-31,1\nX,2026-02-01,1\n"
    answer = CSV.read(ask, f"symbol,day,close\n{rows}".encode(), NOW)
    assert answer.closes == [DayClose("A", date(2026, 2, 1), UNIT // 10)]
    assert reasons(answer) == [
        ("", Reason.MALFORMED), ("A", Reason.UNFINISHED), ("B", Reason.MISSING), ("C", Reason.MISSING),
    ]  # fmt: skip


MALFORMED: list[Callable[[bytes], bytes]] = [
    lambda _: b"",
    lambda _: b"null",
    lambda _: b"1",
    lambda _: b'"prices"',
    lambda _: b"[1]",
    lambda _: b'{"data":[]}',
    lambda _: b'{"A":1}',
    lambda _: b"\xff\xfe",
    lambda _: b"[" * 100_000,
    lambda whole: whole[:-2],
    lambda whole: whole + b"x",
    lambda _: b"<html></html>",
    lambda _: b'{"error":"busy"}',
]


@pytest.mark.parametrize("number", range(len(MALFORMED)))
@pytest.mark.parametrize("source", [BINANCE, COINGECKO, OSRS, CSV], ids=lambda it: it.name)
@pytest.mark.parametrize("kind", list(Kind))
def test_what_is_no_such_answer_is_malformed_as_a_whole(source: PriceSource, kind: Kind, number: int) -> None:
    asks = {
        Kind.LIVE: source.live(["A"], NOW),
        Kind.FILL: source.fill(["A"], NOW - FIVE, NOW, FIVE),
        Kind.CLOSES: source.closes(["A"], date(2026, 2, 1), date(2026, 2, 2)),
    }[kind]
    if not asks:
        assert source is CSV
        return
    whole = b"symbol,day,close\nA,2026-02-01,12.5\n" if source is CSV else b'{"data":{},"timestamp":1,"prices":[]}'
    with pytest.raises(MalformedAnswerError) as caught:
        source.read(asks[0], MALFORMED[number](whole), NOW)
    assert str(caught.value).isprintable()


def test_a_number_is_one_name_and_finite() -> None:
    for text in (b'{"A":{"usd":NaN}}', b'{"A":{"usd":1},"A":{"usd":2}}', b'{"A":{"usd":Infinity}}'):
        with pytest.raises(MalformedAnswerError):
            COINGECKO.read(COINGECKO.live(["A"], NOW)[0], text, NOW)
