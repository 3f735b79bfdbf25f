"""One answer on its way to prices: what is wrong with one price is noted beside the others and spoils none of them.

The rules that all sources share are here: a price is positive and exact, not from the future, not older than the
source allows, and of a code and window there is one.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

from price_sources.closes import MAX_TICKS, NotPositiveError, price_from_text, shown, volume_from_text
from price_sources.source import Answer, Ask, DayClose, Quote, Reason, Refused, Terms

# How far a provider's clock may be ahead of ours.
_CLOCKS_DIFFER = timedelta(minutes=1)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_whole = re.compile(r"[0-9]{1,15}").fullmatch


@dataclass(frozen=True, slots=True)
class FillAsk(Ask):
    """A request of kind FILL, which also knows how long its windows are: they begin at `first` and every `window`."""

    window: timedelta = timedelta(minutes=5)


def seconds(moment: datetime) -> int:
    """Seconds since 1970."""
    return (moment - _EPOCH) // timedelta(seconds=1)


def milliseconds(moment: datetime) -> int:
    """Milliseconds since 1970."""
    return (moment - _EPOCH) // timedelta(milliseconds=1)


def moment_from(text: Any, unit: timedelta) -> datetime:
    """The moment so many units after 1970.

    Raises:
        ValueError: no whole number, or beyond the calendar.
    """
    if not isinstance(text, str) or not _whole(text):
        raise ValueError(f"is no time: {shown(str(text))}")
    try:
        return _EPOCH + int(text) * unit
    except OverflowError:
        raise ValueError(f"is beyond the calendar: {shown(text)}") from None


def midnight(day: date) -> datetime:
    """The beginning of a UTC day."""
    return datetime.combine(day, time(0), UTC)


def days_of(first: date, last: date) -> list[date]:
    """The days [first, last)."""
    return [first + timedelta(number) for number in range((last - first).days)]


def chunks(codes: Iterable[str], size: int) -> list[tuple[str, ...]]:
    """The codes in their order, at most `size` at a time."""
    every = tuple(codes)
    return [every[start : start + size] for start in range(0, len(every), size)]


class Reading:
    """Collects what an answer says of the codes that were asked for, and ends as an `Answer`."""

    def __init__(self, ask: Ask, terms: Terms, now: datetime) -> None:
        self.ask = ask
        self.now = now
        self._oldest = now - terms.max_age
        self._newest = now + _CLOCKS_DIFFER
        self._codes = frozenset(ask.codes)
        self._window = ask.window if isinstance(ask, FillAsk) else ask.last - ask.first
        self._quotes: dict[tuple[str, datetime], Quote] = {}
        self._closes: dict[tuple[str, date], DayClose] = {}
        self._refused: list[Refused] = []
        self._known: set[str] = set()
        self._rows: set[str] = set()
        self._days: set[tuple[str, date]] = set()

    def wants(self, code: object) -> bool:
        """Whether the code was asked for."""
        return code in self._codes

    def refuse(self, code: str, reason: Reason, detail: str = "") -> None:
        """Note that a price is not used."""
        self._known.add(code)
        self._refused.append(Refused(code, reason, detail))

    def refuse_all(self, reason: Reason, detail: str) -> None:
        """Note that nothing in the answer is used."""
        for code in self.ask.codes:
            self.refuse(code, reason, detail)

    def price(self, code: str, value: object) -> int | None:
        """The value as a price; None: it is none, which is noted."""
        if value is None:
            self.refuse(code, Reason.EMPTY)
        elif not isinstance(value, str):
            self.refuse(code, Reason.MALFORMED, f"price is no number: {shown(str(value))}")
        else:
            try:
                return price_from_text(value)
            except NotPositiveError as error:
                self.refuse(code, Reason.ZERO, f"price {error}")
            except ValueError as error:
                self.refuse(code, Reason.MALFORMED, f"price {error}")
        return None

    def live(self, code: str, ts: datetime, price: int | None) -> None:
        """The price of the window that is asked for. A code that comes twice is not believed at all."""
        if code in self._rows:
            self._quotes.pop((code, self.ask.first), None)
            self.refuse(code, Reason.MALFORMED, "twice in one answer")
            return
        self._rows.add(code)
        if price is None:
            return
        if ts < self._oldest:
            self.refuse(code, Reason.STALE, f"of {ts:%Y-%m-%d %H:%M:%S}")
        elif not self._from_the_future(code, ts):
            self._quotes[code, self.ask.first] = Quote(code, ts, price)

    def in_range(self, ts: datetime) -> bool:
        """Whether the moment lies in the windows or days that were asked for."""
        return self.ask.first <= ts < self.ask.last

    def fill(self, code: str, ts: datetime, price: int | None) -> None:
        """A price of the past, in range: of each window the earliest counts."""
        if price is None or self._from_the_future(code, ts):
            return
        window = self.ask.first + (ts - self.ask.first) // self._window * self._window
        other = self._quotes.get((code, window))
        if other is None or ts < other.ts:
            self._quotes[code, window] = Quote(code, ts, price)

    def close(self, code: str, day: date, values: dict[str, object]) -> None:
        """A finished day's `close` and, where given, `open`, `high`, `low` and `volume`, as they were written."""
        prices: dict[str, int | None] = {}
        for name in ("close", "open", "high", "low"):
            value = values.get(name)
            prices[name] = self.price(code, value) if value is not None or name == "close" else None
            if prices[name] is None and (value is not None or name == "close"):
                return
        volume: Decimal | None = None
        if isinstance(text := values.get("volume"), str):
            try:
                volume = volume_from_text(text)
            except ValueError as error:
                self.refuse(code, Reason.MALFORMED, f"volume of {day} {error}")
                return
        if (close := prices["close"]) is not None:
            self.day_close(DayClose(code, day, close, prices["open"], prices["high"], prices["low"], volume))

    def day_close(self, close: DayClose) -> None:
        """A finished day's close, in ticks. A day that comes twice is not believed at all."""
        code, day = close.code, close.day
        if (code, day) in self._days:
            self._closes.pop((code, day), None)
            self.refuse(code, Reason.MALFORMED, f"{day} is twice in one answer")
            return
        self._days.add((code, day))
        highest = close.high if close.high is not None else MAX_TICKS
        lowest = close.low if close.low is not None else 0
        if highest < lowest:
            self.refuse(code, Reason.INCOHERENT, f"high below low on {day}")
        elif not all(lowest <= price <= highest for price in (close.close, close.open) if price is not None):
            self.refuse(code, Reason.INCOHERENT, f"open or close beyond high or low on {day}")
        else:
            self._closes[code, day] = close

    def _from_the_future(self, code: str, ts: datetime) -> bool:
        if ts > self._newest:
            self.refuse(code, Reason.FUTURE, f"of {ts:%Y-%m-%d %H:%M:%S}")
        return ts > self._newest

    def answer(self, *, absent: Reason | None = Reason.MISSING) -> Answer:
        """The end: codes of which the answer said nothing are refused as `absent`; None: that says nothing."""
        if absent is not None:
            seen = self._known | {code for code, _ in self._quotes} | {code for code, _ in self._closes}
            self._refused += [Refused(code, absent) for code in self.ask.codes if code not in seen]
        return Answer(list(self._quotes.values()), list(self._closes.values()), self._refused)
