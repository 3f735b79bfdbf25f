"""The world of a chaos run: two databases with the same prices and users, one for the truth and one for the faults.

The truth is made first, in this process, without Celery, proxy and faults. It leaves poisonous users out: of the other
database nothing else is asked than what it would be without them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path

import psycopg
from sqlalchemy import Engine, make_url, text

from benchmarks.chaos.schedule import POISON, Fault, Kind
from core.database import make_engine, session_scope
from core.errors import UsageError
from core.settings import Settings
from models.migrate import migrate
from services.batches import BatchWorker
from services.market_data import MarketCache
from services.planning import plan_nights
from services.prices import import_closes
from services.publishing import BatchMessage, Message
from services.relay import publish_planned
from services.seeding import seed

SAMPLES = Path(__file__).resolve().parents[2] / "samples" / "us_stocks_daily.csv.gz"
LAST_SAMPLE = date(2022, 12, 28)
NOW = datetime.combine(LAST_SAMPLE + timedelta(days=1), time(12), UTC)
REFERENCE, CHAOS = "reference", "chaos"
# In the order of the variants that a fault picks from: strategy, reason, how its detail begins.
_POISONS: dict[Kind, tuple[tuple[int, str, str], ...]] = {
    Kind.POISON_EXCEPTION: ((1001, "error", "PoisonError"),),
    Kind.POISON_SEGFAULT: ((1002, "worker_lost", "the worker died"),),
    Kind.POISON_MEMORY: ((1003, "error", "MemoryError"),),
    Kind.POISON_HANG: ((1004, "error", "SoftTimeLimitExceeded"), (1005, "worker_lost", "the worker died")),
}


@dataclass(frozen=True, slots=True)
class PoisonUser:
    """A user who breaks the night in which he begins, and how he must be found in quarantine."""

    fault: Fault
    user_id: int
    day: date
    strategy: int
    reason: str
    detail: str


@dataclass(slots=True)
class World:
    """Both databases, without a proxy in between."""

    server_url: str
    days: tuple[date, ...]
    batch_users: int
    poison: tuple[PoisonUser, ...]
    _engines: dict[str, Engine] = field(default_factory=dict)

    def url(self, name: str) -> str:
        """The URL of one of the two."""
        return make_url(self.server_url).set(database=name).render_as_string(hide_password=False)

    def engine(self, name: str) -> Engine:
        """An engine on it."""
        if name not in self._engines:
            self._engines[name] = make_engine(self.url(name), application="nightshift-chaos", pool_size=10)
        return self._engines[name]

    def close(self) -> None:
        """Close every connection."""
        for engine in self._engines.values():
            engine.dispose()


def make_world(server_url: str, *, seed_number: int, users: int, nights: int, faults: Sequence[Fault]) -> World:
    """Prices, users and poison, in both databases.

    Raises:
        UsageError: more nights than the samples have, or too few users to poison.
    """
    if not SAMPLES.is_file():
        raise UsageError(f"{SAMPLES} is missing: chaos runs from a clone of the repository")
    days = tuple(LAST_SAMPLE - timedelta(days=nights - 1 - night) for night in range(nights))
    world = World(server_url, days, batch_size(users), _choose_poison(faults, users, days))
    engine = make_engine(server_url, application="nightshift-chaos")
    try:
        migrate(engine)
        with session_scope(engine) as session:
            import_closes(session, SAMPLES, now=NOW)
        seed(engine, users=users, seed_number=seed_number + 1, start=days[0])
    finally:
        # A database with a session in it cannot be a template.
        engine.dispose()
    template = make_url(server_url).database
    with psycopg.connect(world.url("postgres"), autocommit=True) as connection:
        for name in (REFERENCE, CHAOS):
            connection.execute(f"CREATE DATABASE {name} TEMPLATE {template}".encode())
    _poison(world)
    return world


def batch_size(users: int) -> int:
    """About twenty batches a night, the last of them of at most four users: whoever hangs is among those."""
    size = max(users // 20, 4)
    while size > 4 and not 1 <= users % size <= 4:
        size -= 1
    return size


def _choose_poison(faults: Sequence[Fault], users: int, days: Sequence[date]) -> tuple[PoisonUser, ...]:
    chosen: dict[int, PoisonUser] = {}
    for fault in faults:
        if fault.kind not in POISON:
            continue
        user = users if fault.kind is Kind.POISON_HANG else 1 + fault.pick % max(users - 2, 1)
        while user in chosen:
            user -= 1
        if user < 1:
            raise UsageError(f"{users} users are too few for chaos: take 10 or more")
        variants = _POISONS[fault.kind]
        strategy, reason, detail = variants[fault.pick % len(variants)]
        chosen[user] = PoisonUser(fault, user, days[round(fault.at * len(days))], strategy, reason, detail)
    return tuple(chosen.values())


def _poison(world: World) -> None:
    with world.engine(REFERENCE).begin() as reference, world.engine(CHAOS).begin() as chaos:
        for user in world.poison:
            values = {"user": user.user_id, "strategy": user.strategy, "day": user.day}
            reference.execute(text("DELETE FROM simulations WHERE user_id = :user"), values)
            chaos.execute(
                text(
                    "UPDATE simulations SET strategy = :strategy, start_day = :day, params = params[1:5]"
                    " WHERE user_id = :user"
                ),
                values,
            )


def run_undisturbed(world: World, settings: Settings, name: str = REFERENCE) -> None:
    """The nights as they should be, in one of the databases: planned, done and finished in this process."""
    engine = world.engine(name)
    waiting: list[Message] = []
    worker = BatchWorker(
        engine, settings, waiting.extend, lambda: NOW, "reference", MarketCache(settings.max_stale_days)
    )
    with session_scope(engine) as session:
        plan_nights(session, through=world.days[-1], now=NOW, settings=settings, requested_by="chaos", each=True)
    publish_planned(engine, worker.publish, now=NOW)
    while waiting:
        message = waiting.pop(0)
        if isinstance(message, BatchMessage):
            worker.advance(message.batch_id)
