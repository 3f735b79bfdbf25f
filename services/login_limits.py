"""How often somebody may try to log in: so many failures of an account, and so many from an address.

Counted in Redis, and while that is away in this process: the page is needed most when something is away, and must not
become a place to guess passwords then. One process serves the pages, so its own count is as strict until it restarts.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import redis
from limits import parse
from limits.storage import MemoryStorage, RedisStorage, Storage
from limits.strategies import MovingWindowRateLimiter
from redis.backoff import NoBackoff
from redis.retry import Retry

from core.errors import UsageError
from core.settings import PREFIX, Settings

_Question = Callable[[MovingWindowRateLimiter], bool]
_KEYS = "nightshift:login-limit"
# Of whom nobody knows so many rows are written into the audit trail: it must not be filled from outside.
_ANONYMOUS_ROWS = parse("30/minute")


class LoginLimits:
    """The limits; connects when asked.

    Args:
        settings: with the limit.
        url: of Redis; it may hold a password, which no error shows.

    Raises:
        UsageError: the limit is not one.
    """

    def __init__(self, settings: Settings, url: str) -> None:
        try:
            self._limit = parse(settings.login_limit)
        except ValueError:
            raise UsageError(f"{PREFIX}LOGIN_LIMIT is not a limit like 10/15minutes") from None
        pool = redis.ConnectionPool.from_url(
            url, socket_timeout=2, socket_connect_timeout=1, retry=Retry(NoBackoff(), 0)
        )
        # With a pool the URL serves nothing but to name the driver; so the password is not kept here.
        self._storages: tuple[Storage, ...] = (
            RedisStorage("redis://", connection_pool=pool, key_prefix=_KEYS),
            MemoryStorage(),
        )

    def allowed(self, name: str, address: str) -> bool:
        """Whether this account may be tried from this address now; nothing is counted."""
        return self._each(lambda limiter: all(limiter.test(self._limit, *key) for key in _keys(name, address)))

    def failed(self, name: str, address: str) -> None:
        """Count a failure."""
        # A list: both are counted, whatever the first says.
        self._each(lambda limiter: False not in [limiter.hit(self._limit, *key) for key in _keys(name, address)])

    def worth_a_row(self, address: str) -> bool:
        """Whether what somebody unknown does there is still to be written down; counted."""
        return self._each(lambda limiter: limiter.hit(_ANONYMOUS_ROWS, "row", address))

    def _each(self, ask: _Question) -> bool:
        for storage in self._storages:
            try:
                return ask(MovingWindowRateLimiter(storage))
            except redis.RedisError:
                continue
        return False


def _keys(name: str, address: str) -> tuple[tuple[str, str], ...]:
    # Somebody may have typed his password where the name belongs.
    return ("account", hashlib.sha256(name.encode()).hexdigest()[:32]), ("address", address)
