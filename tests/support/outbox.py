"""A database for tests of the outbox: made once for a module, emptied for each test, which is six times as cheap."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Engine

from core.database import make_engine
from tests.support.database import new_database
from tests.support.nights import change

_EMPTY = "TRUNCATE outbox, runs, batches, quarantine, alerts, users, simulations RESTART IDENTITY CASCADE"


@contextmanager
def outbox_database(server_url: str, name: str) -> Iterator[Engine]:
    """An engine on a database that lives as long as the block."""
    with new_database(server_url, name) as url:
        engine = make_engine(url, application="nightshift-test")
        try:
            yield engine
        finally:
            engine.dispose()


def emptied(engine: Engine) -> Engine:
    """The same, without anything that a test of notifications writes."""
    change(engine, _EMPTY)
    return engine
