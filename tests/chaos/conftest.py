"""Eight nights on the sample prices, what comes of them undisturbed, and a fresh copy of their start for each test."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

import pytest
from sqlalchemy import Engine

from core.database import make_engine
from services.digest import DayDigest, digest_of_day
from tests.support.database import new_database
from tests.support.nights import LAST_SAMPLE_DAY, Night, sample_world, settings
from workers.embedded import ServerUrls

NIGHTS = 8


@pytest.fixture(scope="module")
def world(servers: ServerUrls, request: pytest.FixtureRequest) -> Iterator[str]:
    """The name of a database with prices and the module's USERS, who begin in the last nights of the samples."""
    name = f"{request.module.__name__.rsplit('.', 1)[-1]}_world"
    with new_database(servers.database_url, name) as url:
        engine = make_engine(url)
        start = LAST_SAMPLE_DAY - timedelta(days=NIGHTS - 1)
        sample_world(engine, request.module.USERS, start=start, spread_days=3)
        engine.dispose()
        yield name


@pytest.fixture(scope="module")
def expected(servers: ServerUrls, world: str) -> DayDigest:
    """The digest of the last night when nothing happens."""
    with new_database(servers.database_url, f"{world}_expected", template=world) as url:
        engine = make_engine(url)
        Night(engine, settings()).run(LAST_SAMPLE_DAY, each=True)
        digest = digest_of_day(engine)
        engine.dispose()
        return digest


@pytest.fixture
def database(servers: ServerUrls, world: str, request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL of a clone of `world`."""
    with new_database(servers.database_url, f"chaos_{abs(hash(request.node.nodeid))}", template=world) as url:
        yield url


@pytest.fixture
def engine(database: str) -> Iterator[Engine]:
    """An engine on `database`."""
    engine = make_engine(database, application="nightshift-test")
    yield engine
    engine.dispose()
