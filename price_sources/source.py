"""The protocol of price sources: a source says what to ask and reads the answers; it does no I/O and has no clock.

Who fetches (price_sources/fetching.py), how often, and what becomes of the prices, is the same for all of them. Codes
are the source's own names of assets: `BTCUSDT`, `bitcoin`, `4151`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from decimal import Decimal
from enum import StrEnum
from typing import NamedTuple, Protocol

from core.errors import NightshiftError


class Kind(StrEnum):
    """What is asked for."""

    LIVE = "live"
    """The prices of one window, which is now."""
    FILL = "fill"
    """The prices of windows that are over."""
    CLOSES = "closes"
    """The closes of days."""


@dataclass(frozen=True, slots=True)
class Ask:
    """One request.

    Attributes:
        path: behind the source's base URL, beginning with a slash; empty: the base URL itself.
        codes: the assets that the answer is about; others in it are passed over.
        first, last: of LIVE and FILL the windows that begin in [first, last); of CLOSES the days in it.
        cost: what it takes of the source's limit.
    """

    kind: Kind
    path: str
    params: tuple[tuple[str, str], ...]
    codes: tuple[str, ...]
    first: datetime
    last: datetime
    cost: int = 1


class Quote(NamedTuple):
    """A price at a moment, in ticks of 1e-8."""

    code: str
    ts: datetime
    price: int


class DayClose(NamedTuple):
    """A finished day's close, in ticks of 1e-8; volume in units. None: not given."""

    code: str
    day: date
    close: int
    open: int | None = None
    high: int | None = None
    low: int | None = None
    volume: Decimal | None = None


class Reason(StrEnum):
    """Why a price in an answer is not used; the label of its counter."""

    MISSING = "missing"
    """Asked for, and silently left out."""
    MALFORMED = "malformed"
    """No number, or no row of the promised shape."""
    ZERO = "zero"
    """Zero or negative: a market that is gone."""
    STALE = "stale"
    """Older than the source allows."""
    FUTURE = "future"
    """From a moment that has not come."""
    UNFINISHED = "unfinished"
    """The last candle, or the point that is now: no close."""
    EMPTY = "empty"
    """Nothing traded: no average."""
    INCOHERENT = "incoherent"
    """A high below the low, or a close outside of both."""


class Refused(NamedTuple):
    """A price that is not used, and why; `detail` is one short line."""

    code: str
    reason: Reason
    detail: str = ""


@dataclass(slots=True)
class Answer:
    """What was read from one answer."""

    quotes: list[Quote] = field(default_factory=list)
    closes: list[DayClose] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)


class MalformedAnswerError(NightshiftError):
    """An answer that is not what the source promises: cut off, no JSON, another shape. Asking again may help."""


@dataclass(frozen=True, slots=True)
class Terms:
    """What a source allows and promises.

    Attributes:
        requests, per: at most so many requests (by their cost) in so long a time.
        symbols_per_request: of a LIVE request.
        symbols_per_chunk: of a FILL or CLOSES message: its requests fit the time that a message has.
        max_age: an older price is refused.
        settled: so long after the end of a UTC day its closes are finished.
        close: in words, what is taken as a day's close.
    """

    requests: int
    per: timedelta
    symbols_per_request: int
    symbols_per_chunk: int
    max_age: timedelta
    settled: timedelta
    close: str


class PriceSource(Protocol):
    """Where prices come from."""

    @property
    def name(self) -> str:
        """As in the settings: lower case."""

    @property
    def terms(self) -> Terms:
        """What it allows and promises."""

    @property
    def base_url(self) -> str:
        """Without a slash at its end."""

    def headers(self) -> Mapping[str, str]:
        """Headers of every request; a key among them is a secret."""

    def live(self, codes: Sequence[str], window: datetime) -> list[Ask]:
        """The requests for the prices of the window that begins at `window`."""

    def fill(self, codes: Sequence[str], first: datetime, last: datetime, window: timedelta) -> list[Ask]:
        """The requests for the prices of the windows of length `window` that begin in [first, last)."""

    def closes(self, codes: Sequence[str], first: date, last: date) -> list[Ask]:
        """The requests for the closes of the days [first, last); empty if it has none but the last ticks."""

    def read(self, ask: Ask, body: bytes, now: datetime) -> Answer:
        """What the answer `body` to `ask` says. Of each code and window at most one quote, of each day one close.

        Raises:
            MalformedAnswerError: it is no such answer as a whole. A single bad price is refused instead.
        """
