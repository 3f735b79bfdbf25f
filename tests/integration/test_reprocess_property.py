"""Whatever is corrected, done again and advanced, in whatever order: the days are those of the final prices.

A walk does at random what people, sources and beat do: closes are corrected, work of random scopes is done again,
nights are planned, messages are published, and one batch at a time is worked on, not always the oldest. In the end
every row and every trade equals those of nights that had the final prices from the start.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date, timedelta

import pytest
from sqlalchemy import Engine

from core.database import make_engine, session_scope
from core.errors import UsageError
from services.digest import digest_of_day
from services.reprocessing import request, retry_quarantined
from services.scopes import Only, ReprocessScope
from tests.support.corrections import LAST, assert_same, correct, finish
from tests.support.database import new_database
from tests.support.nights import FIRST_NIGHT, Night, change, rows, sample_world, scalar, settings
from workers.embedded import ServerUrls

# More seeds, more walks: nothing else depends on their number.
SEEDS = range(5)
STEPS = 30
USERS = 150
DAYS = [FIRST_NIGHT + timedelta(days=offset) for offset in range((LAST - FIRST_NIGHT).days + 1)]
STRATEGIES = ("dca", "rebalance", "sma_cross", "momentum", "mean_reversion", "buy_and_hold")
LEAVE_OUT = (
    "INSERT INTO quarantine (user_id, simulation_id, day, reason, detail)"
    " SELECT user_id, id, :day, 'malformed', '' FROM simulations WHERE user_id = :user ON CONFLICT DO NOTHING"
)
QUARANTINED = ReprocessScope(quarantined=True)


@pytest.fixture(scope="module")
def small_world(servers: ServerUrls) -> Iterator[str]:
    """The name of a database with prices and a few users, before the first night."""
    with new_database(servers.database_url, "small_world") as url:
        engine = make_engine(url)
        sample_world(engine, USERS, spread_days=6)
        engine.dispose()
        yield "small_world"


@dataclass
class Walk:
    """One history, and what was done to it."""

    night: Night
    random: random.Random
    assets: list[tuple[int, str]]
    final: dict[tuple[int, date], str] = field(default_factory=dict)
    planned: int = 0
    requested: int = 0

    def step(self) -> None:
        """One thing of those that may happen."""
        steps: list[tuple[Callable[[], object], int]] = [
            (self.correct, 3),
            (self.reprocess, 6),
            (self.leave_out, 1),
            (self.plan, 2),
            (self.night.publish, 4),
            (self.work, 12),
        ]
        kinds, weights = zip(*steps, strict=True)
        self.random.choices(kinds, weights)[0]()

    def plan(self) -> None:
        """The next night, or the next two as one run."""
        last = min(self.planned + self.random.choice((0, 0, 1)), len(DAYS) - 1)
        self.night.plan(DAYS[last])
        self.planned = last + 1

    def work(self) -> None:
        """One batch; a message may be overtaken."""
        messages = self.night.queue.messages
        if messages:
            self.night.worker.advance(
                messages.pop(self.random.choice((0, 0, self.random.randrange(len(messages))))).batch_id
            )

    def correct(self) -> None:
        """A close of any of the days, those included that no night has come to."""
        (asset, _), day = self.random.choice(self.assets), self.random.choice(DAYS)
        price = f"{self.random.uniform(5, 500):.8f}"
        correct(self.night, asset, day, price)
        self.final[asset, day] = price

    def ended(self) -> list[date]:
        """The days whose nights have ended, and the one after them."""
        newest = scalar(self.night.engine, "SELECT max(day) FROM runs WHERE kind = 'nightly' AND status = 'done'")
        return DAYS[: DAYS.index(newest) + 2]

    def reprocess(self) -> None:
        """A random scope from a random day; what cannot be meant is refused, and changes nothing."""
        draw = self.random
        scope = draw.choice(
            (
                ReprocessScope(everything=True),
                ReprocessScope(users=tuple(draw.sample(range(1, USERS + 1), 20))),
                ReprocessScope(strategy=draw.choice(STRATEGIES)),
                ReprocessScope(symbols=(draw.choice(self.assets)[1],)),
                ReprocessScope(users=tuple(range(1, USERS // 2)), strategy=draw.choice(STRATEGIES)),
                ReprocessScope(failed=True),
                ReprocessScope(run=draw.randint(1, 10)),
                QUARANTINED,
            )
        )
        only = Only.EVERYTHING if scope.quarantined else draw.choice((Only.EVERYTHING, Only.EVERYTHING, *Only))
        try:
            with session_scope(self.night.engine) as session:
                asked = request(
                    session, scope, first_day=draw.choice(self.ended()), only=only, reason="a walk",
                    requested_by="tester", now=self.night.now, settings=self.night.settings,
                )  # fmt: skip
        except UsageError:
            return
        self.requested += asked.run is not None

    def leave_out(self) -> None:
        """A simulation goes into quarantine from the next night on, for a reason that no price mends."""
        change(self.night.engine, LEAVE_OUT, user=self.random.randint(1, USERS), day=self.ended()[-1])

    def end(self) -> None:
        """All nights are planned, everything that was begun is done, and whoever is in quarantine is let out of it."""
        while not self.requested:
            self.reprocess()
        self.night.plan(LAST)
        finish(self.night)
        with session_scope(self.night.engine) as session:
            retry_quarantined(
                session, reason="mended", requested_by="tester", now=self.night.now, settings=self.night.settings
            )
        finish(self.night)


@contextmanager
def history(servers: ServerUrls, name: str, world: str) -> Iterator[Engine]:
    """A clone of the world."""
    with new_database(servers.database_url, name, template=world) as url:
        engine = make_engine(url)
        try:
            yield engine
        finally:
            engine.dispose()


@pytest.mark.parametrize("seed", SEEDS)
def test_a_walk_ends_where_the_final_prices_lead(servers: ServerUrls, small_world: str, seed: int) -> None:
    with (
        history(servers, "walked", small_world) as engine,
        history(servers, "straight", small_world) as other,
    ):
        assets = [(asset, symbol) for asset, symbol in rows(engine, "SELECT id, symbol FROM assets ORDER BY id")]
        walk = Walk(Night(engine, settings(40)), random.Random(seed), assets)
        walk.night.run(DAYS[2])
        walk.planned = 3
        for _ in range(STEPS):
            walk.step()
        walk.end()
        assert walk.final

        straight = Night(other, settings(5000))
        for (asset, day), price in walk.final.items():
            correct(straight, asset, day, price)
        straight.run(LAST)
        for day in DAYS:
            assert digest_of_day(engine, day) == digest_of_day(other, day), day
        assert_same(engine, other)
