"""One contract for all sources: recorded answers are read to the right prices; no fault ever ends in a wrong one."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta

import limits
import pytest

from core.errors import NightshiftError
from price_sources.binance import Binance
from price_sources.fetching import Fetcher, LimitedError, SourceRefusedError, SourceUnavailableError, Timeouts
from price_sources.rate_limit import SharedLimit
from price_sources.reading import midnight
from price_sources.source import Answer, Ask, PriceSource
from tests.support.provider import FAULTS, Fault, Provider
from tests.support.recorded import CASES, Case, body, needs_recorded

NOW = datetime(2026, 3, 10, 12, 0, tzinfo=UTC)
AMPLE = limits.parse("100000/second")
QUICK = Timeouts(connect=2, read=2, whole=1, backoff=0.01, longest_backoff=0.05)
PERMANENT: tuple[Fault, ...] = ("redirect-elsewhere", "redirect-loop")
# One answer of each source, and both shapes of Binance's.
SOURCES = [
    case for case in CASES
    if case.name in {"binance ticker/price", "binance klines of days", "coingecko daily chart", "osrs latest", "csv"}
]  # fmt: skip
MakeFetcher = Callable[[PriceSource], Fetcher]


@pytest.fixture
def server() -> Iterator[Provider]:
    with Provider() as provider:
        yield provider


@pytest.fixture
def limit(redis_url: str) -> Iterator[SharedLimit]:
    with SharedLimit(redis_url) as limit:
        yield limit


@pytest.fixture
def make(limit: SharedLimit) -> Iterator[MakeFetcher]:
    made: list[Fetcher] = []

    def make(source: PriceSource) -> Fetcher:
        made.append(Fetcher(source, limit, item=AMPLE, timeouts=QUICK, max_bytes=4 * 2**20))
        return made[-1]

    yield make
    for fetcher in made:
        fetcher.close()


def prepared(case: Case, server: Provider) -> tuple[PriceSource, Ask, str]:
    """The source at the server, what it is asked, and the path under which the server has the answer."""
    source = case.source(server.url)
    ask = case.only_ask(source)
    path = ask.path or "/prices.csv"
    server.serve(path, case.body())
    server.serve("/moved", case.body())
    return source, ask, path


def as_expected(case: Case, answer: Answer) -> None:
    """Every price, no other, and what was refused."""
    expected = case.expected()
    assert {(quote.code, quote.ts, quote.price) for quote in answer.quotes} == expected.quotes
    assert {(close.code, midnight(close.day), close.close) for close in answer.closes} == expected.closes
    assert Counter(refused.reason for refused in answer.refused) == +expected.refused
    assert len(answer.quotes) + len(answer.closes) == len(expected.quotes) + len(expected.closes) > 0


@needs_recorded
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_recorded_answers_are_read_to_the_right_prices(case: Case, server: Provider, make: MakeFetcher) -> None:
    source, ask, path = prepared(case, server)

    as_expected(case, make(source).answer(ask, case.now, time.monotonic() + 20))

    (request,) = server.asked(path)
    assert request.query == dict(ask.params)
    for name, value in source.headers().items():
        assert request.headers[name.lower()] == value


@needs_recorded
@pytest.mark.parametrize("fault", [fault for fault in FAULTS if fault not in PERMANENT])
@pytest.mark.parametrize("case", SOURCES, ids=lambda case: case.name)
def test_a_fault_that_passes_ends_in_the_right_prices(
    case: Case, fault: Fault, server: Provider, make: MakeFetcher
) -> None:
    source, ask, path = prepared(case, server)
    server.fault(path, fault)

    as_expected(case, make(source).answer(ask, case.now, time.monotonic() + 30))

    assert [request.path for request in server.requests] == [path, "/moved" if fault == "redirect" else path]


@needs_recorded
@pytest.mark.parametrize("fault", [fault for fault in FAULTS if fault != "redirect"])
@pytest.mark.parametrize("case", SOURCES, ids=lambda case: case.name)
def test_a_fault_that_stays_ends_in_an_error_of_one_line_that_names_the_source(
    case: Case, fault: Fault, server: Provider, make: MakeFetcher
) -> None:
    source, ask, path = prepared(case, server)
    server.fault(path, fault, times=10_000)
    kind: type[NightshiftError] = SourceRefusedError if fault in PERMANENT else SourceUnavailableError

    with pytest.raises(kind) as caught:
        make(source).answer(ask, case.now, time.monotonic() + (20 if fault in PERMANENT else 0.3))

    message = str(caught.value)
    assert message.startswith(f"{source.name} ")
    assert message.isprintable()
    assert len(message) < 300
    assert server.requests
    if fault in PERMANENT:
        assert len(server.requests) == (1 if fault == "redirect-elsewhere" else 4)


@needs_recorded
def test_an_error_in_words_is_quoted_and_asked_again_only_if_it_is_the_providers_own(
    server: Provider, make: MakeFetcher
) -> None:
    case = next(case for case in CASES if case.name == "coingecko daily chart")
    source, ask, path = prepared(case, server)

    server.serve(path, (422, body("api_fixtures/coingecko_ruby__market_data_for_a_coin__1__422.json")))
    with pytest.raises(SourceRefusedError, match="status 422: Missing parameter vs_currency"):
        make(source).answer(ask, case.now, time.monotonic() + 20)
    assert len(server.requests) == 1

    error = body("api_fixtures/coingecko_ruby__ohlc_data_for_one_coin_in_the_last_7_days__1__500.json")
    server.serve(path, case.body())
    server.fault(path, "500", body=error)
    as_expected(case, make(source).answer(ask, case.now, time.monotonic() + 20))
    server.serve(path, (500, error))
    with pytest.raises(SourceUnavailableError, match="status 500: Internal Server Error"):
        make(source).answer(ask, case.now, time.monotonic() + 0.3)


def test_what_is_past_leaves_half_of_the_limit_to_the_window_that_is_now(server: Provider, limit: SharedLimit) -> None:
    source = Binance(server.url)
    server.serve("/api/v3/klines", b"[]")
    server.serve("/api/v3/ticker/price", b"[]")
    history = source.fill(["BTCUSDT"], NOW - timedelta(hours=1), NOW, timedelta(minutes=5))[0]
    (live,) = source.live(["BTCUSDT"], NOW)
    # Room for ten requests of history, which cost two each, or for five of live prices, which cost four.
    with Fetcher(source, limit, item=limits.parse("20/minute"), timeouts=QUICK) as fetcher:
        for _ in range(5):
            fetcher.fetch(history, time.monotonic() + 5)
        with pytest.raises(LimitedError):
            fetcher.fetch(history, time.monotonic() + 5)
        fetcher.fetch(live, time.monotonic() + 5)
        fetcher.fetch(live, time.monotonic() + 5)
        with pytest.raises(LimitedError):
            fetcher.fetch(live, time.monotonic() + 5)
    assert len(server.requests) == 7
