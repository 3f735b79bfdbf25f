"""How much is sent: so many over all, so many to a user, counted in Redis by every worker together.

Without Redis nothing is sent: nobody could say how much was.
"""

from __future__ import annotations

import time
from datetime import timedelta

import redis
from limits import RateLimitItem, parse
from limits.storage import RedisStorage
from limits.strategies import FixedWindowRateLimiter, MovingWindowRateLimiter
from redis.backoff import NoBackoff
from redis.retry import Retry

from core.errors import ServerUnreachableError, UsageError
from core.log import mask_secrets
from core.settings import PREFIX, Settings

_KEYS = "nightshift:notify-limit"


class SendLimits:
    """Both limits; connects when asked.

    Args:
        settings: with the limits.
        url: of Redis; it may hold a password, which no error shows.

    Raises:
        UsageError: a limit is not one.
    """

    def __init__(self, settings: Settings, url: str) -> None:
        self._over_all = _limit("notify_limit", settings.notify_limit)
        self._each = _limit("notify_user_limit", settings.notify_user_limit)
        self._pool = redis.ConnectionPool.from_url(
            url, socket_timeout=5, socket_connect_timeout=2, retry=Retry(NoBackoff(), 0)
        )
        # With a pool the URL serves nothing but to name the driver; so the password is not kept here.
        storage = RedisStorage("redis://", connection_pool=self._pool, key_prefix=_KEYS)
        self._moving = MovingWindowRateLimiter(storage)
        # A number for each user, where a moving window would keep every mail of a million of them.
        self._fixed = FixedWindowRateLimiter(storage)

    def close(self) -> None:
        """Close the connections."""
        self._pool.disconnect()

    def take(self) -> bool:
        """Take one from the limit over all; False if there is nothing left of it now.

        Raises:
            ServerUnreachableError: Redis is away.
        """
        try:
            return self._moving.hit(self._over_all, "all")
        except redis.RedisError as error:
            raise _unreachable(error) from None

    def wait_of(self, user_id: int) -> timedelta | None:
        """Take one from a user's limit; or how long there will be nothing left of it.

        Raises:
            ServerUnreachableError: Redis is away.
        """
        try:
            if self._fixed.hit(self._each, "user", str(user_id)):
                return None
            reset = self._fixed.get_window_stats(self._each, "user", str(user_id)).reset_time
        except redis.RedisError as error:
            raise _unreachable(error) from None
        return timedelta(seconds=max(reset - time.time(), 1.0))  # noqa: TID251 - the library's clock


def _limit(name: str, text: str) -> RateLimitItem:
    try:
        return parse(text)
    except ValueError:
        raise UsageError(f"{PREFIX}{name.upper()} is not a limit like 600/minute") from None


def _unreachable(error: redis.RedisError) -> ServerUnreachableError:
    reason = mask_secrets(str(error)).splitlines()[:1] or [type(error).__name__]
    return ServerUnreachableError(
        f"Redis is out of reach, and without it nothing is sent: {reason[0]} (NIGHTSHIFT_REDIS_URL)"
    )
