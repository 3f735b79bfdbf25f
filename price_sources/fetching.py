"""Asking a source: within a time, within its limit, and never to a wrong price. What may pass is tried again.

A request is tried again after a lost connection, a timeout, a body that is too short, and the statuses of a provider
that is busy or broken; with exponential backoff and jitter, and not before the provider's Retry-After, which all
workers keep. Other refusals are permanent. A body that is slow or has no end is left at the deadline, or when it has
taken its time or `MAX_BYTES`; whoever calls from a task has that task's time limit besides.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from types import TracebackType
from typing import Any, Self, TypeVar

import httpx
import tenacity
from limits import RateLimitItem

from core.errors import NightshiftError
from core.log import MASK, get_logger
from price_sources.errors import LimitedError, SourceRefusedError, SourceUnavailableError
from price_sources.rate_limit import SEND_WITHIN, SharedLimit
from price_sources.registry import limit_of
from price_sources.responses import error_text, one_line, place_of, port_of, retry_after
from price_sources.source import Answer, Ask, Kind, MalformedAnswerError, PriceSource

__all__ = ["Fetcher", "LimitedError", "SourceRefusedError", "SourceUnavailableError", "Timeouts"]

MAX_BYTES = 32 * 2**20
_REDIRECTS = 3
_REDIRECT_STATUSES = frozenset({301, 302, 303, 307, 308})
# Besides 5xx. 418: Binance's ban of an address that did not heed its 429.
_BUSY = frozenset({408, 418, 425, 429})
_PAUSES = frozenset({418, 429, 503})
_ERROR_BYTES = 4096
_log = get_logger(__name__)
# It logs every URL, and a query may hold a key.
logging.getLogger("httpx").setLevel(logging.WARNING)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds: until a connection stands, something comes, an answer is whole; and the first and longest backoff."""

    connect: float = SEND_WITHIN
    read: float = 10.0
    whole: float = 20.0
    backoff: float = 0.5
    longest_backoff: float = 15.0


class _PassingError(NightshiftError):
    """What may be over at the next attempt; `wait`: not before so many seconds."""

    def __init__(self, reason: str, wait: float | None = None) -> None:
        super().__init__(reason)
        self.wait = wait


class _NoTimeError(_PassingError):
    """The deadline came before another attempt: what was wrong, the attempts before it tell."""


class Fetcher:
    """Asks one source. Made once a process and source, after the fork; holds a pool of connections.

    Args:
        source: whom to ask.
        limit: shared by all workers.
        item: the source's limit, from `registry.limits_of`; None: what its terms say.
        timeouts: in seconds.
        max_bytes: of one body, unpacked.
    """

    def __init__(
        self,
        source: PriceSource,
        limit: SharedLimit,
        *,
        item: RateLimitItem | None = None,
        timeouts: Timeouts | None = None,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        self.source = source
        self._limit = limit
        self._item = item or limit_of(source.terms)
        self._timeouts = timeouts or Timeouts()
        self._max_bytes = max_bytes
        self._secrets = [value for name, value in source.headers().items() if name.lower() != "user-agent"]
        # As bytes: a user agent may hold any letter. Redirects are followed here, where they are paid and judged.
        headers = [(name.encode(), value.encode()) for name, value in source.headers().items()]
        self._client = httpx.Client(headers=headers, follow_redirects=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def answer(self, ask: Ask, now: datetime, deadline: float) -> Answer:
        """What the source says to `ask`. An answer that is cut off or of another shape is asked for again.

        Args:
            ask: one of the source's own.
            now: what prices are too old or unfinished at.
            deadline: on the clock of `time.monotonic()`.

        Raises:
            SourceUnavailableError: there was no usable answer by the deadline.
            LimitedError: its limit had no room.
            SourceRefusedError: asking again is of no use.
            ServerUnreachableError: Redis, which holds the limit, is away.
        """

        def attempt() -> Answer:
            body = self._ask(ask, deadline)
            try:
                return self.source.read(ask, body, now)
            except MalformedAnswerError as error:
                raise _PassingError(f"a malformed answer: {error}") from None

        return self._persist(attempt, ask, deadline)

    def fetch(self, ask: Ask, deadline: float) -> bytes:
        """The body of the answer, unread; raises as `answer`."""
        return self._persist(lambda: self._ask(ask, deadline), ask, deadline)

    def _persist(self, attempt: Callable[[], T], ask: Ask, deadline: float) -> T:
        backoff = tenacity.wait_random_exponential(self._timeouts.backoff, self._timeouts.longest_backoff)

        def wait(state: tenacity.RetryCallState) -> float:
            error = state.outcome.exception() if state.outcome else None
            asked = error.wait if isinstance(error, _PassingError) and error.wait else 0.0
            return asked + backoff(state)

        told: list[_PassingError] = []

        def note(state: tenacity.RetryCallState) -> None:
            error = state.outcome.exception() if state.outcome else None
            if isinstance(error, _PassingError):
                told.append(error)
            _log.debug(
                "source asked again",
                source=self.source.name, path=ask.path, attempt=state.attempt_number,
                seconds=round(state.upcoming_sleep, 2), error=str(error),
            )  # fmt: skip

        retrying = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(_PassingError),
            stop=tenacity.stop_before_delay(deadline - time.monotonic()),
            wait=wait,
            before_sleep=note,
            reraise=True,
        )
        try:
            return retrying(attempt)
        except _PassingError as error:
            cause = told[-1] if told and isinstance(error, _NoTimeError) else error
            raise SourceUnavailableError(self.source.name, str(cause), cause.wait) from None

    def _ask(self, ask: Ask, deadline: float) -> bytes:
        """One attempt: the request and the redirects that it leads to."""
        url = self._url(self.source.base_url + ask.path, ask.params)
        for _ in range(1 + _REDIRECTS):
            if time.monotonic() >= deadline:
                raise _NoTimeError("no time is left")
            if ask.kind is not Kind.LIVE:
                # What is past waits: the other half is always there for the window that is now.
                self._limit.acquire(self.source.name, ask.cost, deadline, self._half(ask.cost), share="past")
            self._limit.acquire(self.source.name, ask.cost, deadline, self._item)
            answer = self._request(url, deadline)
            if isinstance(answer, bytes):
                return answer
            url = answer
        raise self._refused(f"more than {_REDIRECTS} redirects, the last to {place_of(url)}")

    def _half(self, cost: int) -> RateLimitItem:
        return type(self._item)(max(self._item.amount // 2, cost), self._item.multiples)

    def _url(self, text: str, params: tuple[tuple[str, str], ...]) -> httpx.URL:
        try:
            url = httpx.URL(text)
        except httpx.InvalidURL:
            raise self._refused("its URL in the settings is malformed") from None
        return url.copy_merge_params(dict(params)) if params else url

    def _request(self, url: httpx.URL, deadline: float) -> bytes | httpx.URL:
        """The body, or where it is instead."""
        allowed = time.monotonic()
        left = max(min(deadline - allowed, self._timeouts.whole), 0.001)
        timeout = httpx.Timeout(
            connect=min(self._timeouts.connect, left), read=min(self._timeouts.read, left), write=left, pool=1
        )
        trace = {"trace": _in_time(allowed + self._limit.send_within)}
        try:
            with self._client.stream("GET", url, timeout=timeout, extensions=trace) as response:
                if response.status_code == httpx.codes.OK:
                    return self._body(response, allowed + left)
                if response.status_code in _REDIRECT_STATUSES:
                    return self._elsewhere(url, response)
                raise self._failure(response, allowed + left)
        except (httpx.UnsupportedProtocol, httpx.LocalProtocolError):
            # Their messages quote the URL or the header.
            raise self._refused("its URL, its key or the user agent in the settings is malformed") from None
        except httpx.HTTPError as error:
            raise _PassingError(one_line(f"{type(error).__name__} {error}")) from None

    def _body(self, response: httpx.Response, end: float) -> bytes:
        body = bytearray()
        for part in response.iter_bytes():
            body += part
            if len(body) > self._max_bytes:
                raise _PassingError(f"an answer of more than {self._max_bytes:,} bytes")
            if time.monotonic() > end:
                raise _PassingError(f"an answer that was not complete in time, after {len(body):,} bytes")
        return bytes(body)

    def _elsewhere(self, url: httpx.URL, response: httpx.Response) -> httpx.URL:
        """Where a redirect leads: on the same server only, for a key must not go to another."""
        try:
            target = url.join(response.headers.get("Location", ""))
        except httpx.InvalidURL:
            raise self._refused("a redirect to no URL") from None
        if (target.scheme, target.host, port_of(target)) != (url.scheme, url.host, port_of(url)):
            raise self._refused(
                f"a redirect to another server, {place_of(target)}: set the URL in the settings if that is right"
            )
        return target

    def _failure(self, response: httpx.Response, end: float) -> NightshiftError:
        status = response.status_code
        reason = f"status {status}{self._words(response, end)}"
        if status < 500 and status not in _BUSY:
            return self._refused(reason)
        wait = retry_after(response.headers)
        if wait is not None and status in _PAUSES:
            self._limit.pause(self.source.name, wait)
        return _PassingError(reason, wait)

    def _words(self, response: httpx.Response, end: float) -> str:
        """What the body of an error says, in short; nothing if it does not say it in time."""
        body = bytearray()
        try:
            for part in response.iter_bytes():
                body += part
                if len(body) > _ERROR_BYTES or time.monotonic() > end:
                    break
        except httpx.HTTPError:
            return ""
        text = error_text(bytes(body))
        for secret in self._secrets:
            text = text.replace(secret, MASK)
        return f": {one_line(text)}" if text else ""

    def _refused(self, reason: str) -> SourceRefusedError:
        return SourceRefusedError(self.source.name, reason)


def _in_time(latest: float) -> Callable[[str, Mapping[str, Any]], None]:
    """For httpx's trace: a request that was allowed too long ago is not sent."""

    def trace(event: str, _info: Mapping[str, Any]) -> None:
        if event == "http11.send_request_headers.started" and time.monotonic() > latest:
            raise _PassingError("the connection took too long: the limit's allowance is over")

    return trace
