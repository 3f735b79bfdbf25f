"""Real beats and workers that fetch prices from a provider on this machine; what it was asked tells how they behave."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, text

from core.database import session_scope
from core.settings import Settings
from services.following import Wanted, follow
from tests.support.nights import rows
from tests.support.polling import wait_until
from tests.support.provider import Provider, Request
from workers.child_process import ChildProcess
from workers.embedded import ServerUrls
from workers.stack import Stack

PRICES = "/simple/price"
_CLOSES_ASKED = text(
    "INSERT INTO price_chunks (source, kind, first, last, seq, asset_ids, status)"
    " VALUES ('coingecko', 'closes', CAST(:day AS date) - 1, CAST(:day AS date), 0, '{}', 'done')"
)


def coins(count: int) -> list[Wanted]:
    """So many coins, each under one name."""
    return [Wanted(f"coin-{number:05}", f"coin-{number:05}") for number in range(count)]


def simple_price(query: dict[str, str]) -> bytes:
    """What CoinGecko says: a price and its moment, now."""
    moment = int(datetime.now(UTC).timestamp())  # noqa: TID251 - the provider has a clock of its own
    ids = query["ids"].split(",")
    return json.dumps({code: {"usd": 100 + moment % 2, "last_updated_at": moment} for code in ids}).encode()


@dataclass(frozen=True, slots=True)
class PriceStack:
    """Two beats, and two groups of two workers for prices."""

    engine: Engine
    server: Provider
    settings: Settings

    def done(self) -> list[datetime]:
        """The windows that are done."""
        return [row[0] for row in rows(self.engine, "SELECT starts_at FROM price_windows WHERE status = 'done'")]

    def wait_done(self, count: int, seconds: float) -> None:
        """Wait for so many windows."""
        wait_until(lambda: len(self.done()) >= count, seconds=seconds, what=f"{count} windows with their prices")


@contextmanager
def price_stack(
    engine: Engine, urls: ServerUrls, home: Path, server: Provider, wanted: Sequence[Wanted], **changes: Any
) -> Iterator[PriceStack]:
    """Two beats and four price workers on the same servers; `changes` of the settings."""
    values = {"price_sources": "coingecko", "coingecko_url": server.url, "tick_seconds": 1, **changes}
    first, second = (Settings(_env_file=None, home=home / name, **values) for name in ("a", "b"))
    with session_scope(engine) as session:
        now = datetime.now(UTC)  # noqa: TID251 - this process plays a person
        follow(session, "coingecko", wanted, now=now)
        # Closes were asked for already: the limit is the windows' alone.
        session.execute(_CLOSES_ASKED, {"day": now.date()})
    server.serve(PRICES, simple_price)
    others = Stack(second, urls, workers=1, flower=False, exporter=False)
    with Stack(first, urls, workers=1, flower=False, exporter=False):
        others._make_children()
        children: list[ChildProcess] = [others._children[name] for name in ("beat", "prices")]
        try:
            for child in children:
                child.start()
            yield PriceStack(engine, server, first)
        finally:
            for child in children:
                child.kill()
            others.stop()


def most_in(requests: Sequence[Request], seconds: float) -> int:
    """The most requests that came within any so many seconds."""
    moments = sorted(request.at for request in requests)
    most = start = 0
    for end, moment in enumerate(moments):
        while moments[start] <= moment - seconds:
            start += 1
        most = max(most, end - start + 1)
    return most
