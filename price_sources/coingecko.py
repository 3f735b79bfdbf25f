"""CoinGecko: prices are JSON numbers of up to 17 digits; what it does not know, it leaves out without a word.

A space between ids, an id that is unknown and a currency that is unknown all give status 200 and an answer without the
price. A chart ends with a point that is "now", off its grid: it is no daily close.

What is past is asked by `market_chart/range`, the sibling of `market_chart` whose answer has the same shape: a number
of days "from now" would need a clock here, and would say nothing of a gap that is older.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any
from urllib.parse import quote, urlsplit

from pydantic import SecretStr

from price_sources.closes import shown
from price_sources.exact_json import parse, parse_object
from price_sources.reading import FillAsk, Reading, chunks, midnight, moment_from, seconds
from price_sources.source import Answer, Ask, Kind, MalformedAnswerError, Reason, Terms

_SECOND = timedelta(seconds=1)
_MILLISECOND = timedelta(milliseconds=1)
_DAY = timedelta(days=1)
_IDS_PER_REQUEST = 250
# Requests a minute: with no key 5 to 15, by the traffic of others; the key of the free plan; the smallest paid plan.
_WITHOUT_KEY, _WITH_KEY, _PRO = 10, 30, 250


@dataclass(frozen=True, slots=True)
class CoinGecko:
    """CoinGecko's API, public or with a key; prices in one currency."""

    base_url: str
    currency: str = "usd"
    api_key: SecretStr | None = None
    name: str = "coingecko"

    @property
    def terms(self) -> Terms:
        """What it allows depends on the key."""
        requests = _WITHOUT_KEY if self.api_key is None else _PRO if self._is_pro() else _WITH_KEY
        return Terms(
            requests=requests,
            per=timedelta(minutes=1),
            symbols_per_request=_IDS_PER_REQUEST,
            symbols_per_chunk=requests,
            max_age=timedelta(hours=1),
            # The point of midnight is there at 00:35, and caches of the answer expire by 00:40.
            settled=timedelta(minutes=41),
            close="the average over its exchanges at 00:00 UTC of the next day: the daily grid of market_chart",
        )

    def _is_pro(self) -> bool:
        return (urlsplit(self.base_url).hostname or "").startswith("pro-api.")

    def headers(self) -> Mapping[str, str]:
        """The key, if there is one."""
        if self.api_key is None:
            return {}
        return {f"x-cg-{'pro' if self._is_pro() else 'demo'}-api-key": self.api_key.get_secret_value()}

    def live(self, codes: Sequence[str], window: datetime) -> list[Ask]:
        """One request for 250 coins."""
        return [
            Ask(
                Kind.LIVE,
                "/simple/price",
                (("ids", ",".join(part)), ("vs_currencies", self.currency), ("include_last_updated_at", "true")),
                part,
                window,
                window + _SECOND,
            )
            for part in chunks(codes, _IDS_PER_REQUEST)
        ]

    def fill(self, codes: Sequence[str], first: datetime, last: datetime, window: timedelta) -> list[Ask]:
        """A chart of each coin: a point every five minutes of the last day, every hour of what is before.

        The last day of a longer range is asked by itself, for in one chart all points would be hours apart.
        """
        parts = [(first, last)]
        if last - first > _DAY:
            # Cut between two windows.
            cut = first + -(-(last - _DAY - first) // window) * window
            parts = [(first, cut), (cut, last)]
        return [
            FillAsk(Kind.FILL, self._chart(code), self._range(start, end), (code,), start, end, 1, window)
            for code in codes
            for start, end in parts
            if start < end
        ]

    def closes(self, codes: Sequence[str], first: date, last: date) -> list[Ask]:
        """A daily chart of each coin, from the first day's midnight to the one that ends the last day."""
        if first >= last:
            return []
        start, end = midnight(first), midnight(last)
        params = (*self._range(start, end + timedelta(hours=1)), ("interval", "daily"))
        return [Ask(Kind.CLOSES, self._chart(code), params, (code,), start, end) for code in codes]

    def _chart(self, code: str) -> str:
        return f"/coins/{quote(code, safe='')}/market_chart/range"

    def _range(self, first: datetime, last: datetime) -> tuple[tuple[str, str], ...]:
        return (("vs_currency", self.currency), ("from", str(seconds(first))), ("to", str(seconds(last))))

    def read(self, ask: Ask, body: bytes, now: datetime) -> Answer:
        """Of LIVE the answers of `simple/price` and of `coins/markets`; else the chart of the one coin asked for."""
        reading = Reading(ask, self.terms, now)
        if ask.kind is not Kind.LIVE:
            _read_chart(reading, ask.codes[0], parse_object(body))
            return reading.answer()
        value = parse(body)
        if isinstance(value, dict):
            for code, prices in value.items():
                _read_simple(reading, code, prices, self.currency)
        elif isinstance(value, list):
            for market in value:
                _read_market(reading, market)
        else:
            raise MalformedAnswerError(f"prices were promised, not {shown(str(value))}")
        return reading.answer()


def _read_simple(reading: Reading, code: str, prices: Any, currency: str) -> None:
    if not isinstance(prices, dict):
        raise MalformedAnswerError(f"the prices of {shown(code)} are no object")
    # An unknown currency leaves {} behind; what is missing is noted at the end.
    if not reading.wants(code) or currency not in prices:
        return
    updated = prices.get("last_updated_at")
    try:
        ts = reading.ask.first if updated is None else moment_from(updated, _SECOND)
    except ValueError as error:
        reading.refuse(code, Reason.MALFORMED, f"last_updated_at {error}")
        return
    reading.live(code, ts, reading.price(code, prices[currency]))


def _read_market(reading: Reading, market: Any) -> None:
    if not isinstance(market, dict) or not isinstance(market.get("id"), str):
        raise MalformedAnswerError("a market without an id")
    code = market["id"]
    if not reading.wants(code):
        return
    updated = market.get("last_updated")
    try:
        ts = reading.ask.first if updated is None else datetime.fromisoformat(updated).astimezone(UTC)
    except (TypeError, ValueError, OverflowError):
        reading.refuse(code, Reason.MALFORMED, f"last_updated is no time: {shown(str(updated))}")
        return
    reading.live(code, ts, reading.price(code, market.get("current_price")))


def _read_chart(reading: Reading, code: str, chart: Mapping[str, Any]) -> None:
    points = chart.get("prices")
    if not isinstance(points, list):
        raise MalformedAnswerError("a chart without prices")
    for point in points:
        if not isinstance(point, list) or len(point) != 2:
            raise MalformedAnswerError("a point of a chart of another shape")
        try:
            ts = moment_from(point[0], _MILLISECOND)
        except ValueError as error:
            raise MalformedAnswerError(f"a point of a chart whose time {error}") from None
        if reading.ask.kind is Kind.FILL:
            if reading.in_range(ts):
                reading.fill(code, ts, reading.price(code, point[1]))
        else:
            _read_daily_point(reading, code, ts, point[1])


def _read_daily_point(reading: Reading, code: str, ts: datetime, value: object) -> None:
    # The point of a day's first moment is the close of the day before.
    if not reading.in_range(ts - _DAY):
        return
    if ts != midnight(ts.date()):
        reading.refuse(code, Reason.UNFINISHED, f"{ts:%Y-%m-%d %H:%M:%S} is off the daily grid: it is now, no close")
    elif ts > reading.now:
        reading.refuse(code, Reason.FUTURE, f"of {ts:%Y-%m-%d %H:%M:%S}")
    else:
        reading.close(code, (ts - _DAY).date(), {"close": value})
