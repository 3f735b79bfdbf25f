"""A source's limit, shared by every worker on every machine: never more requests than it, as the source counts them.

The limit lies in Redis, and so does a pause that the source asked for. Without Redis nothing is asked.

A request arrives later than it was allowed: one that was slow to connect may fall into the same stretch of time, on
the source's clock, as others that were allowed after it. So whoever has not sent its request within `SEND_WITHIN`
seconds of being allowed does not send it any more (price_sources/fetching.py), and the window here is longer than the
source's by that and one second, in which what was sent arrives.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Self

import redis
from limits import RateLimitItem, RateLimitItemPerSecond
from limits.storage import RedisStorage
from limits.strategies import MovingWindowRateLimiter
from redis.backoff import NoBackoff
from redis.retry import Retry

from core.errors import ServerUnreachableError, UsageError
from core.log import mask_secrets
from price_sources.errors import LimitedError

SEND_WITHIN = 4
_ON_THE_WAY = 1
_PREFIX = "nightshift:price-limit"
_LONGEST_PAUSE = 86_400.0
# Waiters that were told the same moment do not come back at the same moment.
_JITTER = 0.2


class SharedLimit:
    """The limits of all sources in one Redis; made once a process, and closed at its end.

    Args:
        url: of Redis; it may hold a password, which no error shows.
        send_within: how long after being allowed a request may still be sent, in seconds.
    """

    def __init__(self, url: str, *, send_within: int = SEND_WITHIN) -> None:
        self.send_within = send_within
        self._pool = redis.ConnectionPool.from_url(
            url, socket_timeout=5, socket_connect_timeout=2, retry=Retry(NoBackoff(), 0)
        )
        self._client = redis.Redis(connection_pool=self._pool)
        self._storage = _OneClock(self._pool)
        self._limiter = MovingWindowRateLimiter(self._storage)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._pool.disconnect()

    def acquire(self, source: str, cost: int, deadline: float, item: RateLimitItem, share: str = "") -> None:
        """Wait until the source may be asked something of this cost, and take it from the limit.

        Args:
            source: its name.
            cost: of the request.
            deadline: on the clock of `time.monotonic()`.
            item: the source's limit, or that of a share of it.
            share: the name of that share; it is counted apart.

        Raises:
            LimitedError: there is no room before the deadline; known as soon as it is so, not when it comes.
            UsageError: the limit is below what a single request costs.
            ServerUnreachableError: Redis is away.
        """
        if cost > item.amount:
            raise UsageError(f"the limit of {source}, {item}, is below the cost of one request, {cost}: raise it")
        window = RateLimitItemPerSecond(item.amount, item.get_expiry() + self.send_within + _ON_THE_WAY)
        while True:
            with _reachable():
                wait = self._paused(source) or self._take(f"{source}:{share}" if share else source, cost, window)
            if not wait:
                return
            if time.monotonic() + wait > deadline:
                raise LimitedError(source, f"its limit of {item} has no room for another {wait:.0f} s", wait)
            time.sleep(wait + random.uniform(0, _JITTER))  # noqa: S311 - jitter

    def pause(self, source: str, seconds: float) -> None:
        """Let nobody ask the source for so long, at most a day; a longer pause that is in force stands.

        Raises:
            ServerUnreachableError: Redis is away.
        """
        milliseconds = math.ceil(min(seconds, _LONGEST_PAUSE) * 1000)
        if milliseconds <= 0:
            return
        key = f"{_PREFIX}:pause:{source}"
        with _reachable(), self._client.pipeline(transaction=True) as pipeline:
            pipeline.set(key, b"1", px=milliseconds, nx=True)
            pipeline.pexpire(key, milliseconds, gt=True)
            pipeline.execute()

    def _paused(self, source: str) -> float:
        """Seconds until the end of a pause; 0: there is none."""
        left = int(self._client.pttl(f"{_PREFIX}:pause:{source}"))
        return max(left, 0) / 1000

    def _take(self, whose: str, cost: int, window: RateLimitItem) -> float:
        """0: taken. Else the seconds after which there may be room."""
        if self._limiter.hit(window, whose, cost=cost):
            return 0
        stats = self._limiter.get_window_stats(window, whose)
        # Room that has come in between, or that comes bit by bit, is looked for again soon.
        return max(stats.reset_time - self._storage.now(), 0.01)


class _OneClock(RedisStorage):
    """The library's storage, on Redis's clock: those of the workers' machines may differ by more than the slack."""

    def __init__(self, pool: redis.ConnectionPool) -> None:
        # With a pool the URL serves nothing but to name the driver; so the password is not kept here.
        super().__init__("redis://", connection_pool=pool, key_prefix=_PREFIX)

    def now(self) -> float:
        """Seconds since 1970."""
        whole, millionths = self.storage.time()
        return float(whole + millionths / 1_000_000)

    def acquire_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:
        return bool(self.lua_acquire_moving_window([self.prefixed_key(key)], [self.now(), limit, expiry, amount]))

    def get_moving_window(self, key: str, limit: int, expiry: int) -> tuple[float, int]:
        now = self.now()
        window = self.lua_moving_window([self.prefixed_key(key)], [now - expiry, limit])
        return (float(window[0]), int(window[1])) if window else (now, 0)


@contextmanager
def _reachable() -> Iterator[None]:
    try:
        yield
    except redis.RedisError as error:
        reason = mask_secrets(str(error)).splitlines()[:1] or [type(error).__name__]
        raise ServerUnreachableError(
            f"Redis is out of reach, and without it no source is asked: {reason[0]} (NIGHTSHIFT_REDIS_URL)"
        ) from None
