"""Binance's spot market: prices are decimal strings, and of a symbol that is gone the last price is "0.00000000".

The live prices of all symbols come in one request without parameters. Naming symbols would be cheaper by nothing (4 for
two symbols as for all) and one that is unknown, as after a delisting, fails the request of all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any

from price_sources.exact_json import parse_list
from price_sources.reading import FillAsk, Reading, midnight, milliseconds, moment_from, seconds
from price_sources.source import Answer, Ask, Kind, MalformedAnswerError, Reason, Terms

_MILLISECOND = timedelta(milliseconds=1)
_DAY = timedelta(days=1)
_COST_OF_ALL = 4
_COST_OF_KLINES = 2
_KLINES = 1000
_INTERVALS = {
    86_400: "1d", 43_200: "12h", 28_800: "8h", 21_600: "6h", 14_400: "4h", 7_200: "2h", 3_600: "1h",
    1_800: "30m", 900: "15m", 300: "5m", 180: "3m", 60: "1m", 1: "1s",
}  # fmt: skip
# The places in a kline.
_OPEN_TIME, _OPEN, _HIGH, _LOW, _CLOSE, _VOLUME, _CLOSE_TIME = range(7)

TERMS = Terms(
    # Half of the 6,000 a minute that an address has: others may share the address.
    requests=3_000,
    per=timedelta(minutes=1),
    symbols_per_request=10_000,
    symbols_per_chunk=50,
    max_age=_DAY,
    settled=timedelta(minutes=1),
    close="the last trade of the UTC day: the finished daily kline",
)


@dataclass(frozen=True, slots=True)
class Binance:
    """Binance's public market data."""

    base_url: str
    terms: Terms = TERMS
    name: str = "binance"

    def headers(self) -> Mapping[str, str]:
        """None."""
        return {}

    def live(self, codes: Sequence[str], window: datetime) -> list[Ask]:
        """One request for all symbols there are."""
        if not codes:
            return []
        end = window + timedelta(seconds=1)
        return [Ask(Kind.LIVE, "/api/v3/ticker/price", (), tuple(codes), window, end, _COST_OF_ALL)]

    def fill(self, codes: Sequence[str], first: datetime, last: datetime, window: timedelta) -> list[Ask]:
        """Klines of each symbol, a thousand at a time.

        The interval is the longest that divides the windows, so that each begins with a kline's open.
        """
        length = max(window // timedelta(seconds=1), 1)
        start = seconds(first)
        interval = next(each for each in _INTERVALS if length % each == 0 and start % each == 0)
        # Whole windows to a page: a page's grid begins where the last one's ended.
        page = max(_KLINES * interval // length, 1) * window
        pages = []
        while first < last:
            pages.append((first, min(first + page, last)))
            first += page
        return [
            FillAsk(Kind.FILL, "/api/v3/klines", _range(code, _INTERVALS[interval], begin, end),
                    (code,), begin, end, _COST_OF_KLINES, window)
            for code in codes for begin, end in pages
        ]  # fmt: skip

    def closes(self, codes: Sequence[str], first: date, last: date) -> list[Ask]:
        """Daily klines of each symbol, a thousand at a time."""
        pages = [
            (midnight(first + timedelta(start)), midnight(min(first + timedelta(start + _KLINES), last)))
            for start in range(0, (last - first).days, _KLINES)
        ]
        return [
            Ask(Kind.CLOSES, "/api/v3/klines", _range(code, "1d", begin, end), (code,), begin, end, _COST_OF_KLINES)
            for code in codes
            for begin, end in pages
        ]

    def read(self, ask: Ask, body: bytes, now: datetime) -> Answer:
        """Of LIVE the answers of `ticker/price` and of `ticker/24hr`; else klines of the one symbol asked for."""
        rows = parse_list(body)
        reading = Reading(ask, self.terms, now)
        if ask.kind is Kind.LIVE:
            for row in rows:
                _read_ticker(reading, row)
        else:
            for row in rows:
                _read_kline(reading, ask.codes[0], row)
        return reading.answer()


def _range(symbol: str, interval: str, first: datetime, last: datetime) -> tuple[tuple[str, str], ...]:
    return (
        ("symbol", symbol),
        ("interval", interval),
        ("startTime", str(milliseconds(first))),
        # Binance's end is included.
        ("endTime", str(milliseconds(last) - 1)),
        ("limit", str(_KLINES)),
    )


def _read_ticker(reading: Reading, row: Any) -> None:
    if not isinstance(row, dict) or "symbol" not in row:
        raise MalformedAnswerError("a ticker without a symbol")
    code = row["symbol"]
    if not isinstance(code, str) or not reading.wants(code):
        return
    try:
        # ticker/price says nothing of the time: it is the last price at the moment of asking.
        ts = moment_from(row["closeTime"], _MILLISECOND) if "closeTime" in row else reading.ask.first
    except ValueError as error:
        reading.refuse(code, Reason.MALFORMED, f"closeTime {error}")
        return
    reading.live(code, ts, reading.price(code, row.get("price", row.get("lastPrice"))))


def _read_kline(reading: Reading, code: str, row: Any) -> None:
    if not isinstance(row, list) or len(row) <= _CLOSE_TIME:
        raise MalformedAnswerError("a kline of another shape")
    try:
        opened, closed = (moment_from(row[place], _MILLISECOND) for place in (_OPEN_TIME, _CLOSE_TIME))
    except ValueError as error:
        raise MalformedAnswerError(f"a kline whose time {error}") from None
    if not reading.in_range(opened):
        return
    if reading.ask.kind is Kind.FILL:
        # The open is what a live fetch would have seen at that moment; so even the kline that is unfinished has it.
        if not (isinstance(reading.ask, FillAsk) and (opened - reading.ask.first) % reading.ask.window):
            reading.fill(code, opened, reading.price(code, row[_OPEN]))
        return
    day = opened.date()
    if opened != midnight(day) or closed != midnight(day) + _DAY - _MILLISECOND:
        raise MalformedAnswerError(f"a kline from {opened} to {closed}, which is no day")
    if closed >= reading.now:
        reading.refuse(code, Reason.UNFINISHED, f"{day} ends at midnight")
        return
    places = {"open": _OPEN, "high": _HIGH, "low": _LOW, "close": _CLOSE, "volume": _VOLUME}
    reading.close(code, day, {name: row[place] for name, place in places.items()})
