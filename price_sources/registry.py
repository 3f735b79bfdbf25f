"""The sources that the settings name, in their order: the first one's word counts most; and what each may be asked."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import limits

from core.errors import UsageError
from core.settings import PREFIX, Settings
from price_sources.binance import Binance
from price_sources.closes import shown
from price_sources.coingecko import CoinGecko
from price_sources.csv_closes import CsvCloses
from price_sources.osrs import GrandExchange
from price_sources.source import PriceSource, Terms

_SOURCES = f"{PREFIX}PRICE_SOURCES"
_LIMITS = f"{PREFIX}PRICE_LIMITS"


@dataclass(frozen=True, slots=True)
class Known:
    """A source that the settings may name: what it is in words, and how it is made."""

    description: str
    make: Callable[[Settings], PriceSource]


def _csv(settings: Settings) -> PriceSource:
    if not settings.csv_url:
        raise UsageError(f"{_SOURCES} names csv, but {PREFIX}CSV_URL is empty: say where the file is")
    return CsvCloses(settings.csv_url)


KNOWN: dict[str, Known] = {
    "binance": Known(
        "Binance spot: live prices of all symbols in one request, klines", lambda it: Binance(_base(it.binance_url))
    ),
    "coingecko": Known(
        "CoinGecko: averages over exchanges, 250 coins a request; with or without a key",
        lambda it: CoinGecko(_base(it.coingecko_url), it.coingecko_currency, it.coingecko_api_key),
    ),
    "osrs": Known(
        "Old School RuneScape's Grand Exchange: all items in one request",
        lambda it: GrandExchange(_base(it.osrs_url), it.price_user_agent),
    ),
    "csv": Known("a CSV file of closes behind a URL; no live prices", _csv),
}


def sources(settings: Settings) -> dict[str, PriceSource]:
    """The sources of `NIGHTSHIFT_PRICE_SOURCES` by name, the best first; empty: there are none.

    Raises:
        UsageError: a name is unknown or there twice, or a source lacks a setting.
    """
    found: dict[str, PriceSource] = {}
    for name in _parts(settings.price_sources):
        if name in found:
            raise UsageError(f"{_SOURCES} names {name} twice")
        found[name] = _known(_SOURCES, name).make(settings)
    return found


def limits_of(settings: Settings) -> dict[str, limits.RateLimitItem]:
    """What each source that the settings name may be asked, by their cost: its own terms, or `NIGHTSHIFT_PRICE_LIMITS`.

    Raises:
        UsageError: as of `sources`; or a limit is malformed, of an unknown source, or there twice.
    """
    other: dict[str, limits.RateLimitItem] = {}
    for part in _parts(settings.price_limits):
        name, _, text = (piece.strip() for piece in part.partition("="))
        _known(_LIMITS, name)
        if name in other:
            raise UsageError(f"{_LIMITS} names {name} twice")
        other[name] = _limit(part, text)
    return {name: other.get(name) or limit_of(source.terms) for name, source in sources(settings).items()}


def limit_of(terms: Terms) -> limits.RateLimitItem:
    """The limit that a source states."""
    return limits.RateLimitItemPerSecond(terms.requests, math.ceil(terms.per.total_seconds()))


def _limit(part: str, text: str) -> limits.RateLimitItem:
    try:
        parsed = limits.parse_many(text)
    except ValueError:
        parsed = []
    if len(parsed) != 1 or parsed[0].amount < 1 or parsed[0].get_expiry() < 1:
        raise UsageError(f"{_LIMITS}: {shown(part)} is no limit: write e.g. coingecko=30/minute or osrs=10/6second")
    return parsed[0]


def _parts(text: str) -> list[str]:
    return [part.strip().lower() for part in text.split(",") if part.strip()]


def _known(setting: str, name: str) -> Known:
    if name not in KNOWN:
        raise UsageError(f"{setting}: unknown source {shown(name)}: there are {', '.join(KNOWN)}")
    return KNOWN[name]


def _base(url: str) -> str:
    return url.rstrip("/")
