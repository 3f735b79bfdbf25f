"""Who asks a source keeps its wishes and its limit, tells nobody its key, and gives up in time and in one line."""

from __future__ import annotations

import gzip
import logging
import socket
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime

import limits
import pytest
from pydantic import SecretStr

from core.errors import ServerUnreachableError, UsageError
from price_sources.binance import Binance
from price_sources.coingecko import CoinGecko
from price_sources.errors import LimitedError, SourceRefusedError, SourceUnavailableError
from price_sources.fetching import Fetcher, Timeouts
from price_sources.osrs import GrandExchange
from price_sources.rate_limit import SharedLimit
from price_sources.source import Ask, PriceSource, Quote
from tests.support.provider import Provider

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
AMPLE = limits.parse("100000/second")
QUICK = Timeouts(connect=2, read=2, whole=2, backoff=0.01, longest_backoff=0.05)
PATH = "/api/v3/ticker/price"
BODY = b'[{"symbol":"A","price":"0.10000000"}]'
KEY = "CG-verysecretkey"


@pytest.fixture
def server() -> Iterator[Provider]:
    with Provider() as provider:
        provider.serve(PATH, BODY)
        yield provider


@pytest.fixture
def limit(redis_url: str) -> Iterator[SharedLimit]:
    with SharedLimit(redis_url) as limit:
        yield limit


def binance(server: Provider) -> tuple[PriceSource, Ask]:
    source = Binance(server.url)
    return source, source.live(["A"], NOW)[0]


def soon(seconds: float = 20) -> float:
    return time.monotonic() + seconds


@pytest.mark.parametrize("status", ["429", "418", "503"])
@pytest.mark.parametrize("after", ["1", "Wed, 21 Oct 2026 07:28:01 GMT"])
def test_a_source_that_names_a_time_is_left_alone_until_then_by_all(
    server: Provider, redis_url: str, status: str, after: str
) -> None:
    source, ask = binance(server)
    server.fault(PATH, status, retry_after=after)  # type: ignore[arg-type]
    with SharedLimit(redis_url) as first, SharedLimit(redis_url) as second:
        one = Fetcher(source, first, item=AMPLE, timeouts=QUICK)
        other = Fetcher(source, second, item=AMPLE, timeouts=QUICK)
        with one, other, pytest.raises(SourceUnavailableError, match=f"status {status}") as caught:
            one.fetch(ask, soon(0.5))
        assert caught.value.wait == 1
        with Fetcher(source, second, item=AMPLE, timeouts=QUICK) as other:
            assert other.answer(ask, NOW, soon()).quotes == [Quote("A", NOW, 10_000_000)]
    told, again = server.requests
    assert again.at - told.at >= 0.9


def test_a_wait_beyond_the_deadline_is_an_error_at_once_and_no_request(server: Provider, limit: SharedLimit) -> None:
    source, ask = binance(server)
    server.fault(PATH, "429", retry_after=3600)
    with Fetcher(source, limit, item=AMPLE, timeouts=QUICK) as fetcher:
        with pytest.raises(SourceUnavailableError, match="status 429") as told:
            fetcher.fetch(ask, soon(60))
        with pytest.raises(LimitedError, match="binance") as limited:
            fetcher.fetch(ask, soon(60))
    assert told.value.wait == 3600
    assert limited.value.wait is not None
    assert limited.value.wait > 3000
    assert len(server.requests) == 1


@pytest.mark.parametrize("after", ["0", "-5", "soon", "", "Wed, 21 Oct 2020 07:28:01 GMT", "9" * 40])
def test_a_retry_after_that_says_nothing_leaves_the_backoff(server: Provider, limit: SharedLimit, after: str) -> None:
    source, ask = binance(server)
    server.fault(PATH, "429", retry_after=after)
    with Fetcher(source, limit, item=AMPLE, timeouts=QUICK) as fetcher:
        assert fetcher.fetch(ask, soon()) == BODY


def test_many_workers_together_never_ask_more_than_the_limit(server: Provider, redis_url: str) -> None:
    source, ask = binance(server)
    item = limits.parse("20/second")

    def work() -> None:
        with SharedLimit(redis_url, send_within=1) as limit, Fetcher(source, limit, item=item) as fetcher:
            for _ in range(3):
                fetcher.fetch(ask, soon(60))

    workers = [threading.Thread(target=work) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    times = sorted(request.at for request in server.requests)
    assert len(times) == 12
    # A request costs 4 of 20.
    assert min(later - earlier for earlier, later in zip(times, times[5:], strict=False)) >= 1


def test_what_was_allowed_too_long_ago_is_not_sent(server: Provider, redis_url: str) -> None:
    source, ask = binance(server)
    with SharedLimit(redis_url, send_within=0) as limit, Fetcher(source, limit, item=AMPLE, timeouts=QUICK) as fetcher:
        limit.send_within = -1
        with pytest.raises(SourceUnavailableError, match="allowance is over"):
            fetcher.fetch(ask, soon(0.3))
    assert server.requests == []


def test_a_limit_below_the_cost_of_a_request_is_refused(limit: SharedLimit) -> None:
    with pytest.raises(UsageError, match="below the cost of one request, 4"):
        limit.acquire("binance", 4, soon(), limits.parse("3/minute"))


def test_without_redis_nothing_is_asked_and_its_password_is_not_told(server: Provider) -> None:
    source, ask = binance(server)
    with (
        SharedLimit(f"redis://:hunter2@127.0.0.1:{free_port()}/0") as limit,
        Fetcher(source, limit, timeouts=QUICK) as fetcher,
        pytest.raises(ServerUnreachableError, match="NIGHTSHIFT_REDIS_URL") as caught,
    ):
        fetcher.fetch(ask, soon())
    assert "hunter2" not in str(caught.value)
    assert server.requests == []


def test_a_source_that_nobody_serves_is_unavailable(limit: SharedLimit) -> None:
    source = Binance(f"http://127.0.0.1:{free_port()}")
    with (
        Fetcher(source, limit, item=AMPLE, timeouts=QUICK) as fetcher,
        pytest.raises(SourceUnavailableError, match="ConnectError"),
    ):
        fetcher.fetch(source.live(["A"], NOW)[0], soon(0.3))


@pytest.mark.parametrize("url", ["api.example.invalid/v3", "http://127.0.0.1:port", "file:///etc/hosts", ""])
def test_a_malformed_url_is_refused(url: str, limit: SharedLimit) -> None:
    source = Binance(url)
    with (
        Fetcher(source, limit, item=AMPLE, timeouts=QUICK) as fetcher,
        pytest.raises(SourceRefusedError, match="settings is malformed"),
    ):
        fetcher.fetch(source.live(["A"], NOW)[0], soon())


def test_the_key_is_sent_and_never_told(server: Provider, limit: SharedLimit, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="price_sources")
    source = CoinGecko(f"{server.url}", api_key=SecretStr(KEY))
    ask = source.live(["bitcoin"], NOW)[0]
    messages = []
    with Fetcher(source, limit, item=AMPLE, timeouts=QUICK) as fetcher:
        for status in (401, 500):
            server.serve(ask.path, (status, b'{"error":"invalid key %s"}' % KEY.encode()))
            with pytest.raises((SourceRefusedError, SourceUnavailableError)) as caught:
                fetcher.fetch(ask, soon(0.3))
            messages.append(str(caught.value))
        server.fault(ask.path, "redirect-elsewhere", to=f"http://localhost:1/{KEY}?key={KEY}")
        with pytest.raises(SourceRefusedError, match="another server, 'http://localhost'") as caught:
            fetcher.fetch(ask, soon())
        messages.append(str(caught.value))
    assert all(request.headers["x-cg-demo-api-key"] == KEY for request in server.requests)
    assert messages[0].endswith("status 401: invalid key ********")
    assert KEY not in "".join(messages) + repr(source) + caplog.text
    assert "source asked again" in caplog.text


def test_a_key_that_is_no_header_is_refused_and_not_told(server: Provider, limit: SharedLimit) -> None:
    source = CoinGecko(server.url, api_key=SecretStr("secret\r\nX: y"))
    with Fetcher(source, limit, item=AMPLE, timeouts=QUICK) as fetcher, pytest.raises(SourceRefusedError) as caught:
        fetcher.fetch(source.live(["bitcoin"], NOW)[0], soon())
    assert "secret" not in str(caught.value)
    assert server.requests == []


def test_a_user_agent_may_hold_any_letter(server: Provider, limit: SharedLimit) -> None:
    source = GrandExchange(server.url, "Jörg Müller ✓")
    server.serve("/latest", b'{"data":{}}')
    with Fetcher(source, limit, item=AMPLE, timeouts=QUICK) as fetcher:
        fetcher.fetch(source.live(["2"], NOW)[0], soon())
    assert server.requests[0].headers["user-agent"].encode("latin-1").decode() == "Jörg Müller ✓"


def test_an_answer_that_unpacks_to_more_than_the_limit_is_left(server: Provider, limit: SharedLimit) -> None:
    source, ask = binance(server)
    bomb = gzip.compress(bytes(8 * 2**20))
    server.serve(PATH, (200, bomb, {"Content-Encoding": "gzip"}))
    with (
        Fetcher(source, limit, item=AMPLE, timeouts=QUICK, max_bytes=2**20) as fetcher,
        pytest.raises(SourceUnavailableError, match="more than 1,048,576 bytes"),
    ):
        fetcher.fetch(ask, soon(0.5))


def test_a_packed_answer_is_unpacked(server: Provider, limit: SharedLimit) -> None:
    source, ask = binance(server)
    server.serve(PATH, (200, gzip.compress(BODY), {"Content-Encoding": "gzip"}))
    with Fetcher(source, limit, item=AMPLE, timeouts=QUICK) as fetcher:
        assert fetcher.fetch(ask, soon()) == BODY


def test_a_deadline_that_is_over_asks_nothing(server: Provider, limit: SharedLimit) -> None:
    source, ask = binance(server)
    with (
        Fetcher(source, limit, item=AMPLE, timeouts=QUICK) as fetcher,
        pytest.raises(SourceUnavailableError, match="no time is left"),
    ):
        fetcher.fetch(ask, time.monotonic() - 1)
    assert server.requests == []


def free_port() -> int:
    """A port of this machine on which nobody listens."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
