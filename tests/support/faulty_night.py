"""A night on a real stack in which everything goes wrong that an operator can see; and prices, mail and a past.

Half of its users are locked for a while, so that the night stands still where a test breaks something. What it breaks:
all workers and the exporter are killed, every message is lost, two sessions are ended, messages come twice, one makes
no sense, two users break their batches of whom only one may be put into quarantine, one user's parameters are
malformed, and a price jumps.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import httpx
import psycopg
import redis
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import Engine, make_url

from core.clock import utc_now
from core.database import session_scope
from core.queues import Queue
from schedules.calendar import due_at, last_due_day
from services.alerts import raise_alert
from services.following import Wanted, follow
from services.locks import lock_granules
from services.planning import plan_due, plan_night
from services.price_cache import PriceCache
from services.queue_state import PRIORITY_STEPS, queue_key
from services.seeding import seed
from tests.support.exporter import Samples
from tests.support.nights import LAST_SAMPLE_DAY, Night, change, import_samples, rows, scalar, settings
from tests.support.polling import wait_until
from tests.support.price_stack import PRICES
from tests.support.provider import Provider
from tests.support.workers import System
from workers.embedded import ServerUrls
from workers.stack import Stack

USERS, BATCH_USERS = 1200, 100
FREE = 512
"""Users below it are done at once; the others when they are let go."""
POISON, FAILING, MALFORMED = 1010, 1150, 700
COINS = ("COIN-A", "COIN-B")
_ONE_DAY = timedelta(days=1)
PATIENCE = 60.0


@dataclass(slots=True)
class FaultyNight:
    """The night while its stack runs; `prices` are what the provider says, by code."""

    system: System
    stack: Stack
    run: int
    holds: ExitStack
    prices: dict[str, float]

    @property
    def engine(self) -> Engine:
        """On its database."""
        return self.system.engine

    @property
    def exporter(self) -> str:
        """Its address, host:port."""
        return self.stack.addresses["metrics"].removeprefix("http://").removesuffix("/metrics")

    def scrape(self) -> Samples:
        """What the exporter's process shows now: (name, label values) to value."""
        page = httpx.get(self.stack.addresses["metrics"], timeout=10).raise_for_status().text
        return {
            (sample.name, tuple(sample.labels.values())): sample.value
            for family in text_string_to_metric_families(page)
            for sample in family.samples
        }

    def stands_still(self) -> None:
        """Wait until the first users are done, and both processes wait for the others."""
        wait_until(lambda: self._count("done") == FREE // BATCH_USERS, seconds=PATIENCE, what="the first users")
        waiting = (
            "SELECT count(DISTINCT pid) FROM pg_locks JOIN pg_stat_activity USING (pid) WHERE NOT granted"
            " AND datname = current_database() AND application_name LIKE 'nightshift worker%'"
        )
        wait_until(lambda: scalar(self.engine, waiting) == 2, seconds=PATIENCE, what="workers that wait")

    def kill_workers_and_exporter(self) -> None:
        """All of them at once; wait until both are there again, and the night stands still as before."""
        before = {name: self.stack.processes[name] for name in ("simulations", "exporter")}
        for pid in before.values():
            os.killpg(os.getpgid(pid), signal.SIGKILL)
        for name, pid in before.items():
            wait_until(lambda name=name, pid=pid: self.stack.processes.get(name) not in {None, pid})  # type: ignore[misc]
        wait_until(lambda: self._put_back("abandoned") >= 2, seconds=PATIENCE, what="abandoned batches")
        self.stands_still()
        wait_until(self._answers, seconds=PATIENCE, what="the exporter")

    def lose_messages(self) -> None:
        """Every batch that waits has lost its message; wait until they are published again."""
        with redis.Redis.from_url(self.system.urls.redis_url) as client:
            client.delete(*(queue_key(Queue.SIMULATIONS, step) for step in PRIORITY_STEPS))
        wait_until(lambda: self._put_back("lost") > 0, seconds=PATIENCE, what="lost messages")

    def end_sessions(self) -> None:
        """The database ends what the workers have open: both batches are retried."""
        self.stands_still()
        change(
            self.engine,
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND application_name LIKE 'nightshift worker%'",
        )

    def send_nonsense(self) -> None:
        """Messages of a batch that is done, and one that is none."""
        done = scalar(self.engine, "SELECT min(id) FROM batches WHERE run_id = :run AND status = 'done'", run=self.run)
        for _ in range(3):
            self.system.deliver(done)
        with redis.Redis.from_url(self.system.urls.redis_url) as client:
            client.lpush(queue_key(Queue.SIMULATIONS), "{")

    def jump(self) -> None:
        """A price jumps too far to be believed; wait until it is held back."""
        self.prices[COINS[1]] *= 30
        wait_until(lambda: rows(self.engine, "SELECT 1 FROM held_prices"), seconds=PATIENCE, what="a held price")

    def ask_for_prices(self) -> None:
        """Through the cache: the first question finds nothing there."""
        cache = PriceCache(self.system.urls.redis_url)
        with redis.Redis.from_url(self.system.urls.redis_url) as client:
            client.delete(*(f"nightshift:price:{coin}" for coin in COINS))
        for _ in range(3):
            cache.get(self.engine, [COINS[0]])
        cache.close()

    def end(self) -> None:
        """Let everybody go, and wait until the night is over and no message waits."""
        self.holds.close()
        unfinished = "SELECT count(*) FROM runs WHERE status IN ('planned', 'running')"
        wait_until(lambda: scalar(self.engine, unfinished) == 0, seconds=PATIENCE, what="the end of the night")
        # Those that the killed workers had in hand are unacknowledged for as long as the visibility timeout.
        waiting = "nightshift_queue_length", ("simulations",)
        wait_until(lambda: self.scrape().get(waiting) == 0, seconds=PATIENCE, what="no message that waits")

    def _count(self, status: str) -> int:
        counted = "SELECT count(*) FROM batches WHERE run_id = :run AND status = :status"
        return int(scalar(self.engine, counted, run=self.run, status=status))

    def _put_back(self, cause: str) -> int:
        counted = rows(self.engine, "SELECT runs FROM beat_ticks WHERE name = :name", name=f"put_back:{cause}")
        return int(counted[0][0]) if counted else 0

    def _answers(self) -> bool:
        try:
            return bool(self.scrape())
        except httpx.TransportError:
            return False


@contextmanager
def faulty_night(engine: Engine, urls: ServerUrls, home: Path) -> Iterator[FaultyNight]:
    """The stack at work on the night of the newest day that is due, all of whose users from `FREE` on are locked."""
    with Provider() as provider, ExitStack() as holds:
        chosen = settings(
            BATCH_USERS, home=home, exporter_port=0, tick_seconds=1, overdue_seconds=3, max_poison_users=1,
            price_sources="coingecko", coingecko_url=provider.url, price_window_seconds=2, price_fill_days=0,
            price_limits="coingecko=1000/minute", notify_urls="json://127.0.0.1:1", workers=2,
            backup_to=str(home / "backups"),
        )  # fmt: skip
        system = System(engine, urls, chosen)
        prices = dict.fromkeys(COINS, 100.0)
        provider.serve(PRICES, lambda query: _answer(query, prices))
        run = _plan_tonight(system)
        # Not from the engine, whose sessions may not be idle for so long.
        lock_granules(holds.enter_context(psycopg.connect(urls.database_url)), FREE, USERS + 1, exclusive=True)
        with Stack(chosen, urls, workers=2, flower=False) as stack:
            yield FaultyNight(system, stack, run, holds, prices)


def empty_redis(url: str, number: int = 9) -> str:
    """The URL of an empty Redis database in the server at `url`."""
    own = make_url(url).set(database=str(number)).render_as_string(hide_password=False)
    with redis.Redis.from_url(own) as client:
        client.flushdb()
    return own


def _answer(query: dict[str, str], prices: dict[str, float]) -> bytes:
    now = int(utc_now().timestamp())
    found = {code: {"usd": prices[code], "last_updated_at": now} for code in query["ids"].split(",")}
    return json.dumps(found).encode()


def _plan_tonight(system: System) -> int:
    """Users, prices up to yesterday, a night long ago, two that were missed, one last night; tonight's run."""
    engine, now = system.engine, utc_now()
    tonight = last_due_day(now, system.settings.nightly_at)
    import_samples(engine)
    # Twice, because days that are there already must not meet the shifted ones.
    for days in (100_000, (tonight - LAST_SAMPLE_DAY).days - 100_000):
        change(engine, "UPDATE closes SET day = day + :days", days=days)
    seed(engine, users=USERS, seed_number=7, start=tonight - 5 * _ONE_DAY, spread_days=0)
    for day in (tonight - 4 * _ONE_DAY, tonight - _ONE_DAY):
        _night(engine, due_at(day, system.settings.nightly_at) + timedelta(minutes=1))
    change(engine, "UPDATE simulations SET params = '{1}' WHERE user_id = :user", user=MALFORMED)
    change(engine, _BACKUP)
    with session_scope(engine) as session:
        (run,) = plan_night(session, day=tonight, now=now, settings=system.settings, requested_by="test")
        raise_alert(session, f"closes:{tonight}", "closes_missing", "a test says so", now=now)
        wanted = [Wanted(coin, coin) for coin in COINS]
        follow(session, "coingecko", wanted, now=now)
    change(
        engine,
        f"ALTER TABLE portfolio_days_{tonight:%Y%m%d} ADD CONSTRAINT no CHECK (user_id NOT IN ({POISON}, {FAILING}))",
    )
    return int(run)


# Whether a backup can be made and restored is not what is seen here.
_BACKUP = """
    INSERT INTO backups (place, name, state, started_at, finished_at, bytes, verified_at, verify_seconds)
    VALUES ('elsewhere', 'a', 'done', now() - interval '1 hour', now() - interval '59 minutes', 1000, now(), 2.5)
"""


def _night(engine: Engine, now: datetime) -> None:
    """The night that was due at that moment; days before it that nobody planned are missed."""
    night = Night(engine, settings(5000, catch_up_days=1, price_deadline_minutes=0), now=now)
    with session_scope(engine) as session:
        assert plan_due(session, now=now, settings=night.settings).runs
    night.publish()
    night.drain()
