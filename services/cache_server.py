"""The server that caches: losing it, or what is in it, costs time and is never an error to whoever asked softly.

Whoever has the truth in PostgreSQL asks `softly`. What is nowhere but here, like the live marks, is asked `firmly`:
there an outage is an error.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from core import tls
from core.errors import ServerUnreachableError, UsageError
from core.log import get_logger, mask_secrets
from core.settings import Settings

log = get_logger(__name__)
T = TypeVar("T")

# Nobody waits for a cache longer than the truth would take.
_CONNECT_SECONDS = 0.5
_ANSWER_SECONDS = 2.0

Client = redis.Redis  # of bytes: what others left under our keys need not be text


def cache_url(settings: Settings, redis_url: str) -> str:
    """The URL of the cache: NIGHTSHIFT_CACHE_URL, else that of the broker, which is `redis_url`."""
    return tls.cache_url(settings) or redis_url


class CacheServer:
    """A pool of connections, made once a process after its fork; it connects when used. Threads may share it.

    Raises:
        UsageError: `url` is no Redis URL.
    """

    def __init__(self, url: str) -> None:
        try:
            self._client = redis.Redis.from_url(
                url,
                socket_timeout=_ANSWER_SECONDS,
                socket_connect_timeout=_CONNECT_SECONDS,
                # The second attempt is for a connection that a restart of the server has left dead in the pool.
                retry=Retry(NoBackoff(), 1),
            )
        except ValueError:
            raise UsageError("NIGHTSHIFT_CACHE_URL is not a URL like redis://:password@host:6379/1") from None

    def softly(self, doing: str, question: Callable[[Client], T]) -> T | None:
        """The answer to `question`; None where the server has none: that is logged with what was being done."""
        try:
            return question(self._client)
        except redis.RedisError as error:
            log.warning("the cache did not answer", doing=doing, error=type(error).__name__)
            return None

    @contextmanager
    def firmly(self) -> Iterator[Client]:
        """A client for a block, in which an outage is a ServerUnreachableError, in one line without the password."""
        try:
            yield self._client
        except redis.RedisError as error:
            reason = mask_secrets(str(error)).splitlines()[:1] or [type(error).__name__]
            raise ServerUnreachableError(f"the cache is out of reach: {reason[0]} (NIGHTSHIFT_CACHE_URL)") from None

    def close(self) -> None:
        """Close the connections; a later use opens new ones."""
        self._client.close()
