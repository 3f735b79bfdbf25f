"""Who speaks to servers by TLS, as tests ask: each kind of client alone, and all of our processes for a night."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import httpx
import kombu
import redis

from core import tls
from core.database import check_database, make_engine
from core.errors import ServerUnreachableError
from core.settings import Settings
from services.cache_server import cache_url
from services.login_limits import LoginLimits
from services.notify_limits import SendLimits
from services.price_cache import PriceCache
from services.queue_state import queue_lengths, redis_client
from tests.support.workers import System
from workers.app import make_app
from workers.embedded import ServerUrls
from workers.stack import Stack


def ask_postgres(settings: Settings) -> None:
    engine = make_engine(tls.database_url(settings))
    try:
        check_database(engine)
    finally:
        engine.dispose()


def ask_redis(settings: Settings) -> None:
    with redis_client(tls.redis_url(settings)) as client:
        client.ping()


def ask_kombu(settings: Settings) -> None:
    with make_app(settings, tls.redis_url(settings)) as app, app.connection() as connection:
        try:
            # Without the patience that a worker has.
            connection.ensure_connection(max_retries=1, interval_start=0, interval_step=0)
            connection.channel().client.ping()
        except (redis.RedisError, kombu.exceptions.KombuError) as error:
            raise ServerUnreachableError(str(error)) from None


WRONG = "of-somebody-else"
ASKS = {"database_url": ask_postgres, "redis_url": ask_redis, "kombu": ask_kombu}
Ask = Callable[[Settings], None]


@contextmanager
def everything_over_tls(chosen: Settings) -> Iterator[System]:
    """All of ours runs there; a night is done, and what has connections of its own has used them."""
    urls = ServerUrls(tls.database_url(chosen), tls.redis_url(chosen))
    engine = make_engine(urls.database_url)
    try:
        system = System(engine, urls, chosen)
        with Stack(chosen, urls, workers=1) as stack:
            system.plan()
            system.all_done()  # the tick is beat's
            metrics = httpx.get(stack.addresses["metrics"], timeout=20).text
            assert 'nightshift_source_up{source="database"} 1.0' in metrics
            assert 'nightshift_source_up{source="redis"} 1.0' in metrics
            broker = httpx.get(f"{stack.addresses['flower']}/broker", auth=("operator", WRONG), timeout=20)
            assert (broker.status_code, "simulations" in broker.text) == (200, True)
            # Pools of their own: the cache, the limits of mails and logins.
            cache = PriceCache(cache_url(chosen, urls.redis_url))
            assert cache.get(engine, []) == {}
            cache.close()
            limits = SendLimits(chosen, urls.redis_url)
            assert limits.take()
            limits.close()
            LoginLimits(chosen, urls.redis_url).failed("ada", "::1")
            yield system
        with redis_client(urls.redis_url) as client:
            assert not any(queue_lengths(client).values())
            assert list(client.scan_iter(b"*login-limit*"))
    finally:
        engine.dispose()
