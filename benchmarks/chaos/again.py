"""Work that is done again while everything breaks: closes that are corrected and scopes that are asked for, by a seed.

Of some days and assets the database of the faults begins with a wrong close. While the nights go on, each is corrected,
and in between random scopes are asked for again. In the end every close is that of the other database, which has it
from the start, so the days must be its days. All of it goes around the network's faults: what breaks is whoever works.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date, timedelta
from threading import Thread

import numpy as np
from sqlalchemy import text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from benchmarks.chaos.site import POLL_SECONDS, Site
from benchmarks.chaos.world import CHAOS, NOW, World
from core.database import session_scope
from core.errors import UsageError
from core.settings import Settings
from models.ticks import from_ticks
from services.corrections import correct_close
from services.reprocessing import request
from services.scopes import ReprocessScope

CORRECTIONS, REQUESTS = 3, 3
_DAYS_BEFORE = 5
_PATIENCE_SECONDS = 60.0
_CLOSES = text(
    """
    SELECT c.asset_id, a.symbol, c.day, c.close FROM closes c JOIN assets a ON a.id = c.asset_id
    WHERE c.day BETWEEN :first AND :last ORDER BY c.day, c.asset_id
    """
)
_WRONG = text("UPDATE closes SET close = close + close / 2 WHERE asset_id = :asset_id AND day = :day")


_ENDED = text("SELECT count(*) FROM runs WHERE kind = 'nightly' AND status = 'done'")


@dataclass(frozen=True, slots=True)
class Again:
    """One order, when this share of the nights is done: a close to be corrected, or users to be done again.

    Attributes:
        day: of a correction.
        symbol, price: the same; in units.
        users: of a request, the first and the last; None: everybody.
        pick: of a request, chooses the day since when, among those whose nights have ended.
    """

    number: int
    at: float
    day: date | None = None
    symbol: str = ""
    price: str = ""
    users: tuple[int, int] | None = None
    pick: int = 0


@dataclass(slots=True)
class Orders:
    """What became of the orders: how many were taken, and what was not."""

    taken: int = 0
    errors: list[str] = field(default_factory=list)


def make_wrong(world: World, seed: int, users: int) -> tuple[Again, ...]:
    """Put wrong closes into the database of the faults; the orders of a seed (>= 0), which make them right again."""
    draws = np.random.PCG64([seed, 2])
    engine = world.engine(CHAOS)
    with engine.begin() as connection:
        span = {"first": world.days[0] - timedelta(days=_DAYS_BEFORE), "last": world.days[-1]}
        closes = connection.execute(_CLOSES, span).all()
        places = np.random.Generator(draws).permutation(len(closes))[:CORRECTIONS].tolist()
        for place in places:
            connection.execute(_WRONG, {"asset_id": closes[place].asset_id, "day": closes[place].day})
    # Of its top bits, as every draw: the low ones are weaker.
    words = [int(word) >> 20 for word in draws.random_raw(3 * (CORRECTIONS + REQUESTS))]
    orders = []
    for number in range(CORRECTIONS + REQUESTS):
        moment, pick, size = words[3 * number : 3 * number + 3]
        at = moment % 1000 / 1000
        if number < CORRECTIONS:
            close = closes[places[number]]
            price = str(from_ticks(close.close))
            orders.append(Again(number, at, day=close.day, symbol=close.symbol, price=price))
        else:
            first = 1 + pick % users
            some = None if number == CORRECTIONS else (first, min(first + size % 100, users))
            orders.append(Again(number, at, users=some, pick=pick))
    return tuple(sorted(orders, key=lambda order: order.at))


@contextmanager
def given(site: Site, orders: Sequence[Again], wait_progress: Callable[[float], None]) -> Iterator[Orders]:
    """Give the orders, each at its share of the work; at the end of the block all of them have been given."""
    record = Orders()

    def give_all() -> None:
        for order in orders:
            wait_progress(order.at)
            try:
                _give(order, site.world, site.settings)
                record.taken += 1
            except Exception as error:  # noqa: BLE001 - an order that cannot be given is reported, and fails the run
                record.errors.append(f"{type(error).__name__}: {error}".splitlines()[0])

    thread = Thread(target=give_all, name="again", daemon=True)
    thread.start()
    try:
        yield record
    finally:
        thread.join()


def _give(order: Again, world: World, settings: Settings) -> None:
    """Again and again until it is taken, since the server may be away.

    Raises:
        SQLAlchemyError, NotYetError: it was not taken for long.
    """
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            with session_scope(world.engine(CHAOS)) as session:
                (_correct if order.symbol else _ask)(session, order, world, settings)
        except (SQLAlchemyError, _NotYetError):
            if time.monotonic() > deadline:
                raise
            time.sleep(POLL_SECONDS)
        else:
            return


class _NotYetError(Exception):
    """No night has ended yet."""


def _correct(session: Session, order: Again, _world: World, settings: Settings) -> None:
    assert order.day is not None  # noqa: S101 - of a correction
    try:
        correct_close(
            session, order.symbol, order.day, order.price, reason="chaos", requested_by="chaos", now=NOW,
            settings=settings,
        )  # fmt: skip
    except UsageError as error:
        # It was taken before, and the server's answer was lost.
        if "already" not in str(error):
            raise


def _ask(session: Session, order: Again, world: World, settings: Settings) -> None:
    ended: int = session.execute(_ENDED).scalar_one()
    if not ended:
        raise _NotYetError
    users = () if order.users is None else tuple(range(order.users[0], order.users[1] + 1))
    request(
        session, ReprocessScope(users=users, everything=not users), first_day=world.days[order.pick % ended],
        reason="chaos", requested_by="chaos", now=NOW, settings=settings, key=f"chaos-{order.number}",
    )  # fmt: skip
