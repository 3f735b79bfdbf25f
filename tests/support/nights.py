"""Nights without Celery: a publisher that keeps the messages, and a worker that takes them from there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, text

from core.database import session_scope
from core.settings import Settings
from services.batches import BatchOutcome, BatchWorker
from services.market_data import MarketCache
from services.planning import plan_nights
from services.prices import import_closes
from services.publishing import BatchMessage, ChunkMessage, MarkMessage, Message
from services.relay import publish_planned
from services.seeding import seed

ROOT = Path(__file__).resolve().parents[2]
SAMPLES = ROOT / "samples" / "us_stocks_daily.csv.gz"
LAST_SAMPLE_DAY = date(2022, 12, 28)
FIRST_NIGHT = LAST_SAMPLE_DAY - timedelta(days=29)
USERS = 1200
NOW = datetime(2022, 12, 29, 12, tzinfo=UTC)


@dataclass
class Queue:
    """A publisher that only remembers: batches, and apart from them whatever is about prices."""

    messages: list[BatchMessage] = field(default_factory=list)
    prices: list[ChunkMessage | MarkMessage] = field(default_factory=list)

    def __call__(self, messages: Sequence[Message], /) -> None:
        """Remember them."""
        for message in messages:
            if isinstance(message, BatchMessage):
                self.messages.append(message)
            else:
                self.prices.append(message)


@dataclass
class Night:
    """A worker in this process, with its queue."""

    engine: Engine
    settings: Settings
    now: datetime = NOW
    queue: Queue = field(default_factory=Queue)
    name: str = "test@worker"

    def __post_init__(self) -> None:
        self.worker = BatchWorker(
            self.engine,
            self.settings,
            self.queue,
            lambda: self.now,
            self.name,
            MarketCache(self.settings.max_stale_days),
        )

    def plan(self, through: date, *, each: bool = False) -> list[int]:
        """Plan and commit."""
        with session_scope(self.engine) as session:
            return plan_nights(
                session, through=through, now=self.now, settings=self.settings, requested_by="test", each=each
            )

    def publish(self) -> int:
        """Publish what may start."""
        in_flight = self.settings.reprocess_in_flight
        return publish_planned(self.engine, self.queue, now=self.now, in_flight=in_flight)

    def drain(self) -> list[BatchOutcome]:
        """Work until no message is left, those that the work publishes included."""
        outcomes = []
        while self.queue.messages:
            outcomes.append(self.worker.advance(self.queue.messages.pop(0).batch_id))
        return outcomes

    def run(self, through: date, *, each: bool = False) -> list[BatchOutcome]:
        """Plan, publish and work."""
        self.plan(through, each=each)
        self.publish()
        return self.drain()


def settings(batch_users: int = 5000, **changes: object) -> Settings:
    """Settings that no shell and no `.env` has a part in."""
    return Settings(_env_file=None, batch_users=batch_users, **changes)  # type: ignore[arg-type]


def import_samples(engine: Engine) -> None:
    """The closes of `samples/`."""
    with session_scope(engine) as session:
        import_closes(session, SAMPLES, now=NOW)


def sample_world(engine: Engine, users: int, *, start: date = FIRST_NIGHT, spread_days: int = 20) -> None:
    """The sample prices, and users of whom three in ten begin within `spread_days` after `start`."""
    import_samples(engine)
    seed(engine, users=users, seed_number=7, start=start, spread_days=spread_days)


def scalar(engine: Engine, statement: str, **values: object) -> Any:
    """The first column of the first row."""
    with engine.connect() as connection:
        return connection.execute(text(statement), values).scalar_one()


def rows(engine: Engine, statement: str, **values: object) -> list[tuple[Any, ...]]:
    """All rows."""
    with engine.connect() as connection:
        return [tuple(row) for row in connection.execute(text(statement), values)]


def change(engine: Engine, statement: str, **values: object) -> None:
    """Execute and commit."""
    with engine.begin() as connection:
        connection.execute(text(statement), values)
