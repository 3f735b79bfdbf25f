"""The recorded responses that lie beside the repository. They are not part of it, so they may be absent."""

from __future__ import annotations

import csv
import gzip
import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from decimal import ROUND_HALF_EVEN, Decimal, localcontext
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from price_sources.binance import Binance
from price_sources.coingecko import CoinGecko
from price_sources.csv_closes import CsvCloses
from price_sources.osrs import GrandExchange
from price_sources.source import Ask, PriceSource, Reason

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"
needs_recorded = pytest.mark.skipif(
    not DATA.is_dir(),
    reason="recorded responses are not part of the repository: put api_fixtures/ and osrs/ into ../shared/data",
)


def body(name: str) -> bytes:
    """The bytes of a recorded response, e.g. `osrs/latest.json`; skips the test where it is absent."""
    path = DATA / name
    if not path.exists():
        pytest.skip(f"{name} is not in ../shared/data: recorded responses are not part of the repository")
    return path.read_bytes()


def coingecko(name: str) -> bytes:
    """A response of CoinGecko by the middle of its name."""
    return body(f"api_fixtures/coingecko_ruby__{name}.json")


@cache
def exactly(name: str) -> Any:
    """The same response read slowly: every number a Decimal."""
    return json.loads(body(name), parse_float=Decimal, parse_int=Decimal)


Prices = set[tuple[str, datetime, int]]


@dataclass(frozen=True)
class Expected:
    """What a slow reading of the same bytes finds: (code, moment or midnight, ticks), and how much is refused."""

    quotes: Prices = field(default_factory=set)
    closes: Prices = field(default_factory=set)
    refused: Counter[Reason] = field(default_factory=Counter)


@dataclass(frozen=True)
class Case:
    """A recorded answer: which source at a URL, what it is asked, the bytes it answers, and what they mean at `now`."""

    name: str
    source: Callable[[str], PriceSource]
    ask: Callable[[PriceSource], list[Ask]]
    body: Callable[[], bytes]
    now: datetime
    expected: Callable[[], Expected]

    def only_ask(self, source: PriceSource) -> Ask:
        """The one request."""
        (ask,) = self.ask(source)
        return ask


def ticks(number: Decimal) -> int:
    """Exactly, half to even."""
    with localcontext(prec=100):
        return int((number * 10**8).to_integral_value(ROUND_HALF_EVEN))


def at(seconds: Decimal | int) -> datetime:
    """Seconds since 1970."""
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=int(seconds * 1000))


_WINDOW = datetime(2020, 11, 1, tzinfo=UTC)
_FIVE = timedelta(minutes=5)
_HOUR = timedelta(hours=1)
_TICKERS = "api_fixtures/stafford__binance_ticker_price_all.json"
_DAY_TICKERS = "api_fixtures/stafford__binance_ticker_24hr_all.json"
_DAYS = "api_fixtures/tertiusn__binance_klines_BTCUSDT_1d_1000.json"
_MINUTES = "api_fixtures/sinan__binance_klines_1m_500.json"
_CHART = "api_fixtures/coingecko_ruby__minutely_historical_prices_for_one_coin__0__200.json"
_DAILY = "api_fixtures/coingecko_ruby__daily_historical_prices_for_one_coin__0__200.json"
_SPACED = "api_fixtures/coingecko_ruby__price_for_multiple_coins__0__200.json"
_MARKETS = "api_fixtures/coingecko_ruby__market_data_for_multiple_coins_in_eth__0__200.json"
_CHART_FIRST = datetime(2021, 5, 14, 14, 45, tzinfo=UTC)
_LATEST = at(1748242931)


def _symbols(name: str) -> list[str]:
    return [row["symbol"] for row in exactly(name)]


def _items() -> list[str]:
    return list(exactly("osrs/latest.json")["data"])


def _tickers() -> Expected:
    return Expected({(row["symbol"], _WINDOW, ticks(Decimal(row["price"]))) for row in exactly(_TICKERS)})


def _day_tickers() -> Expected:
    newest = max(row["closeTime"] for row in exactly(_DAY_TICKERS))
    gone = [row for row in exactly(_DAY_TICKERS) if Decimal(row["lastPrice"]) == 0]
    traded = [row for row in exactly(_DAY_TICKERS) if Decimal(row["lastPrice"]) != 0]
    fresh = [row for row in traded if newest - row["closeTime"] <= 86_400_000]
    return Expected(
        {(row["symbol"], at(row["closeTime"] / 1000), ticks(Decimal(row["lastPrice"]))) for row in fresh},
        refused=Counter({Reason.ZERO: len(gone), Reason.STALE: len(traded) - len(fresh)}),
    )


def _days() -> Expected:
    *finished, _ = exactly(_DAYS)
    return Expected(
        closes={("BTCUSDT", at(row[0] / 1000), ticks(Decimal(row[4]))) for row in finished},
        refused=Counter({Reason.UNFINISHED: 1}),
    )


def _minutes() -> Expected:
    return Expected({("X", at(row[0] / 1000), ticks(Decimal(row[1]))) for row in exactly(_MINUTES)})


def _chart() -> Expected:
    firsts: dict[int, list[Decimal]] = {}
    for ms, price in sorted(exactly(_CHART)["prices"]):
        firsts.setdefault(int(ms // 300_000), [ms, price])
    return Expected({("bitcoin", at(ms / 1000), ticks(price)) for ms, price in firsts.values()})


def _daily() -> Expected:
    *grid, _ = exactly(_DAILY)["prices"]
    return Expected(
        closes={("bitcoin", at(ms / 1000) - timedelta(1), ticks(price)) for ms, price in grid},
        refused=Counter({Reason.UNFINISHED: 1}),
    )


def _markets() -> Expected:
    return Expected(
        {
            (row["id"], datetime.fromisoformat(row["last_updated"]), ticks(row["current_price"]))
            for row in exactly(_MARKETS)
        }
    )


def _latest() -> Expected:
    quotes: Prices = set()
    old = 0
    for code, item in exactly("osrs/latest.json")["data"].items():
        trades = [(item[f"{side}Time"], item[side]) for side in ("low", "high") if item[side] is not None]
        newest = max(moment for moment, _ in trades)
        price = [price for moment, price in trades if moment == newest][-1]
        if _LATEST - at(newest) > timedelta(days=30):
            old += 1
        else:
            quotes.add((code, at(newest), ticks(price)))
    return Expected(quotes, refused=Counter({Reason.STALE: old}))


def _middle(bucket: dict[str, Any]) -> Decimal:
    prices = [bucket[name] for name in ("avgHighPrice", "avgLowPrice") if bucket[name] is not None]
    return Decimal(sum(prices)) / len(prices)


def _bucket(name: str) -> Expected:
    bucket = exactly(name)
    quotes = {(code, at(bucket["timestamp"]), ticks(_middle(item))) for code, item in bucket["data"].items()}
    quotes = {quote for quote in quotes if quote[0] in _items()}
    return Expected(quotes, refused=Counter({Reason.EMPTY: len(_items()) - len(quotes)}))


def _series() -> Expected:
    data = exactly("osrs/timeseries_24h_4151.json")["data"]
    return Expected(closes={("4151", at(bucket["timestamp"]), ticks(_middle(bucket))) for bucket in data})


def csv_body(rows: int = 1500) -> bytes:
    """The first rows of the daily candles as a plain CSV file."""
    lines = gzip.decompress(body("crypto_daily.csv.gz")).splitlines(keepends=True)
    return b"".join(lines[: rows + 1])


def _csv() -> Expected:
    rows = csv.DictReader(csv_body().decode().splitlines())
    return Expected(
        closes={
            (row["symbol"], datetime.fromisoformat(row["day"]).replace(tzinfo=UTC), ticks(Decimal(row["close"])))
            for row in rows
        }
    )


def _csv_symbols() -> list[str]:
    return sorted({code for code, _, _ in _csv().closes})


def _binance(url: str) -> PriceSource:
    return Binance(url)


def _exchange(url: str) -> PriceSource:
    return GrandExchange(url, "Nightshift's tests")


CASES = [
    Case("binance ticker/price", _binance, lambda it: it.live(_symbols(_TICKERS), _WINDOW),
         lambda: body(_TICKERS), _WINDOW, _tickers),
    Case("binance ticker/24hr", _binance, lambda it: it.live(_symbols(_DAY_TICKERS), at(1602209100)),
         lambda: body(_DAY_TICKERS), at(Decimal("1602209144.029")), _day_tickers),
    Case("binance klines of days", _binance, lambda it: it.closes(["BTCUSDT"], date(2021, 12, 7), date(2024, 9, 2)),
         lambda: body(_DAYS), datetime(2024, 9, 1, 12, tzinfo=UTC), _days),
    Case("binance klines of minutes", _binance,
         lambda it: it.fill(["X"], at(1731748020), at(1731778020), timedelta(minutes=1)),
         lambda: body(_MINUTES), at(1731778000), _minutes),
    Case("coingecko simple/price", CoinGecko, lambda it: it.live(["bitcoin", "ethereum"], _WINDOW),
         lambda: body(_SPACED), _WINDOW,
         lambda: Expected({("bitcoin", _WINDOW, 49357 * 10**8)}, refused=Counter({Reason.MISSING: 1}))),
    Case("coingecko coins/markets", lambda url: CoinGecko(url, "eth"),
         lambda it: it.live(["bitcoin", "ethereum"], _WINDOW),
         lambda: body(_MARKETS), datetime(2021, 5, 15, 16, 1, 6, tzinfo=UTC), _markets),
    Case("coingecko chart", CoinGecko, lambda it: it.fill(["bitcoin"], _CHART_FIRST, _CHART_FIRST + 288 * _FIVE, _FIVE),
         lambda: body(_CHART), _CHART_FIRST + timedelta(1), _chart),
    Case("coingecko daily chart", CoinGecko, lambda it: it.closes(["bitcoin"], date(2021, 2, 14), date(2021, 5, 16)),
         lambda: body(_DAILY), at(1621089600), _daily),
    Case("osrs latest", _exchange, lambda it: it.live(_items(), _LATEST - timedelta(seconds=131)),
         lambda: body("osrs/latest.json"), _LATEST, _latest),
    Case("osrs 5m", _exchange, lambda it: it.fill(_items(), at(1748241900), at(1748242200), _FIVE),
         lambda: body("osrs/5m-1748241900.json"), _LATEST, lambda: _bucket("osrs/5m-1748241900.json")),
    Case("osrs 1h", _exchange, lambda it: it.fill(_items(), at(1748239200), at(1748242800), _HOUR),
         lambda: body("osrs/1h-1748242800.json"), _LATEST, lambda: _bucket("osrs/1h-1748242800.json")),
    Case("osrs timeseries", _exchange, lambda it: it.closes(["4151"], date(2024, 8, 6), date(2025, 8, 6)),
         lambda: body("osrs/timeseries_24h_4151.json"), datetime(2025, 8, 6, tzinfo=UTC), _series),
    Case("csv", lambda url: CsvCloses(url + "/prices.csv"),
         lambda it: it.closes(_csv_symbols(), date(2018, 1, 1), date(2019, 1, 1)), csv_body,
         datetime(2026, 2, 1, tzinfo=UTC), _csv),
]  # fmt: skip
