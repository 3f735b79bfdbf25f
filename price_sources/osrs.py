"""The Grand Exchange of Old School RuneScape: all items in one answer; a code is an item's id; a coin is one unit.

Nobody quotes there: a price is the last trade of an instant buyer or seller, or their averages over some minutes.
Where nothing traded, the average is null. In `latest` a high below its low is no error: the two trades are of different
times. An answer may be about another bucket than was asked for, the same hour once more: its `timestamp` decides.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import Any

from price_sources.closes import shown
from price_sources.exact_json import parse_list, parse_object
from price_sources.reading import FillAsk, Reading, days_of, midnight, moment_from, seconds
from price_sources.source import Answer, Ask, DayClose, Kind, MalformedAnswerError, Reason, Terms

_SECOND = timedelta(seconds=1)
_HOUR = timedelta(hours=1)
_DAY = timedelta(days=1)
_BUCKETS = {"/5m": timedelta(minutes=5), "/1h": _HOUR, "/timeseries": _DAY}
_LONG = 14

TERMS = Terms(
    # The API states no limit, but blocks whoever is a burden.
    requests=60,
    per=timedelta(minutes=1),
    symbols_per_request=10_000,
    symbols_per_chunk=10_000,
    max_age=timedelta(days=30),
    # A poll soon after the hour returns the previous hour again.
    settled=timedelta(minutes=10),
    close="the middle of the average buy and sell prices of the UTC day's last hour, if anything traded in it",
)


@dataclass(frozen=True, slots=True)
class GrandExchange:
    """The wiki's API of the Grand Exchange. `user_agent` says who asks, as it demands."""

    base_url: str
    user_agent: str
    terms: Terms = TERMS
    name: str = "osrs"

    def headers(self) -> Mapping[str, str]:
        """Who asks."""
        return {"User-Agent": self.user_agent}

    def live(self, codes: Sequence[str], window: datetime) -> list[Ask]:
        """One request for all items there are."""
        return [Ask(Kind.LIVE, "/latest", (), tuple(codes), window, window + _SECOND)] if codes else []

    def fill(self, codes: Sequence[str], first: datetime, last: datetime, window: timedelta) -> list[Ask]:
        """For each window the bucket of five minutes, or of an hour, that begins with it; all items are in it."""
        path = "/5m" if window % _HOUR else "/1h"
        asks: list[Ask] = []
        while codes and first < last:
            if not seconds(first) % _BUCKETS[path].seconds:
                params = (("timestamp", str(seconds(first))),)
                asks.append(FillAsk(Kind.FILL, path, params, tuple(codes), first, first + window, 1, window))
            first += window
        return asks

    def closes(self, codes: Sequence[str], first: date, last: date) -> list[Ask]:
        """The last hour of each day, with all items in it.

        Of a long history of few items the daily averages of each are asked for: fewer requests, less exact.
        """
        days = days_of(first, last)
        if len(days) > _LONG and len(codes) <= len(days):
            return [
                Ask(Kind.CLOSES, "/timeseries", (("timestep", "24h"), ("id", code)), (code,),
                    midnight(first), midnight(last))
                for code in codes
            ]  # fmt: skip
        return [
            Ask(Kind.CLOSES, "/1h", (("timestamp", str(seconds(_last_hour(day)))),), tuple(codes),
                midnight(day), midnight(day) + _DAY)
            for day in days if codes
        ]  # fmt: skip

    def read(self, ask: Ask, body: bytes, now: datetime) -> Answer:
        """The answers of `latest`, `5m`, `1h` and `timeseries`."""
        reading = Reading(ask, self.terms, now)
        answer = parse_object(body)
        data = answer.get("data")
        if ask.path == "/timeseries":
            if answer.get("itemId", ask.codes[0]) != ask.codes[0]:
                raise MalformedAnswerError(f"the history of another item, {shown(str(answer['itemId']))}")
            _read_series(reading, data)
            return reading.answer()
        if not isinstance(data, dict):
            raise MalformedAnswerError("no object `data`")
        if ask.kind is Kind.LIVE:
            for code, item in data.items():
                if reading.wants(code):
                    _read_latest(reading, code, item)
            return reading.answer()
        _read_bucket(reading, data, answer.get("timestamp"))
        # What did not trade is not in the bucket. For a close that is no error: the last tick stands.
        return reading.answer(absent=Reason.EMPTY if ask.kind is Kind.FILL else None)


def read_mapping(body: bytes) -> dict[str, str]:
    """Names by code, from `/mapping`. A few items have a price but no name.

    Raises:
        MalformedAnswerError: it is no such answer.
    """
    items = parse_list(body)
    if not all(isinstance(item, dict) and {"id", "name"} <= item.keys() for item in items):
        raise MalformedAnswerError("an item without id or name")
    return {str(item["id"]): str(item["name"]) for item in items}


def _last_hour(day: date) -> datetime:
    return midnight(day) + _DAY - _HOUR


def _read_latest(reading: Reading, code: str, item: Any) -> None:
    if not isinstance(item, dict):
        raise MalformedAnswerError(f"item {shown(code)} is no object")
    try:
        trades = [
            (moment_from(item[f"{side}Time"], _SECOND), item[side])
            for side in ("high", "low")
            if item.get(side) is not None and item.get(f"{side}Time") is not None
        ]
    except ValueError as error:
        reading.refuse(code, Reason.MALFORMED, f"the time of a trade {error}")
        return
    if not trades:
        reading.refuse(code, Reason.EMPTY)
        return
    # Of one second, the purchase.
    ts, value = max(trades, key=lambda trade: trade[0])
    reading.live(code, ts, reading.price(code, value))


def _read_bucket(reading: Reading, data: Mapping[str, Any], timestamp: Any) -> None:
    ask = reading.ask
    try:
        ts = moment_from(timestamp, _SECOND)
    except ValueError as error:
        raise MalformedAnswerError(f"timestamp {error}") from None
    if not (ts == _last_hour(ask.first.date()) if ask.kind is Kind.CLOSES else reading.in_range(ts)):
        reading.refuse_all(Reason.STALE, f"the answer is about {ts:%Y-%m-%d %H:%M}")
    elif ts + _BUCKETS[ask.path] > reading.now:
        reading.refuse_all(Reason.UNFINISHED, f"the bucket of {ts:%Y-%m-%d %H:%M} is not over")
    else:
        for code in ask.codes:
            if code not in data:
                continue
            price = _middle(reading, code, data[code])
            if ask.kind is Kind.FILL:
                reading.fill(code, ts, price)
            elif price is not None:
                reading.day_close(DayClose(code, ts.date(), price))


def _read_series(reading: Reading, data: Any) -> None:
    (code,) = reading.ask.codes
    if not isinstance(data, list) or not all(isinstance(bucket, dict) for bucket in data):
        raise MalformedAnswerError("no list `data` of buckets")
    for bucket in data:
        try:
            ts = moment_from(bucket.get("timestamp"), _SECOND)
        except ValueError as error:
            raise MalformedAnswerError(f"timestamp {error}") from None
        if not reading.in_range(ts):
            continue
        if ts != midnight(ts.date()):
            raise MalformedAnswerError(f"a bucket of {ts}, which is no day")
        if ts + _DAY > reading.now:
            reading.refuse(code, Reason.UNFINISHED, f"{ts:%Y-%m-%d} ends at midnight")
        elif (price := _middle(reading, code, bucket)) is not None:
            volumes = [bucket.get(f"{side}PriceVolume") for side in ("high", "low")]
            known = all(isinstance(volume, str) and volume.isascii() and volume.isdigit() for volume in volumes)
            volume = Decimal(sum(int(volume) for volume in volumes)) if known else None
            reading.day_close(DayClose(code, ts.date(), price, volume=volume))


def _middle(reading: Reading, code: str, bucket: Any) -> int | None:
    """The middle of the two averages, or the one that is there; None: there is none, which is noted."""
    if not isinstance(bucket, dict):
        raise MalformedAnswerError(f"item {shown(code)} is no object")
    values = [bucket.get(name) for name in ("avgHighPrice", "avgLowPrice")]
    given = [value for value in values if value is not None]
    if not given:
        reading.refuse(code, Reason.EMPTY)
        return None
    first, last = (reading.price(code, value) for value in (given[0], given[-1]))
    if first is None or last is None:
        return None
    half, odd = divmod(first + last, 2)
    # Half to even, as everywhere: coins are whole, so it is a matter of principle.
    return half + (odd & half)
