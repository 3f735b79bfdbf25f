"""Databases with the sample prices and users, before and after a month of nights; built once in each test process."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy import Engine

from core.database import make_engine
from tests.support import corrections
from tests.support.database import new_database
from tests.support.nights import (
    LAST_SAMPLE_DAY,
    USERS,
    Night,
    sample_world,
    settings,
)
from tests.support.report_world import report_world
from workers.embedded import ServerUrls


@pytest.fixture(scope="session")
def world(servers: ServerUrls) -> Iterator[str]:
    """The name of a database with prices and users but no night; a template for tests of nights."""
    with new_database(servers.database_url, "night_world") as url:
        engine = make_engine(url)
        sample_world(engine, USERS)
        engine.dispose()
        yield "night_world"


@pytest.fixture
def fresh(servers: ServerUrls, world: str, request: pytest.FixtureRequest) -> Iterator[Engine]:
    """An engine on a clone of `world`."""
    name = "night_" + str(abs(hash(request.node.nodeid)) % 10**9)
    with new_database(servers.database_url, name, template=world) as url:
        engine = make_engine(url)
        yield engine
        engine.dispose()


@pytest.fixture(scope="session")
def week(servers: ServerUrls, world: str) -> Iterator[str]:
    """The name of a database in which the first nights were done, one run each; a template for what is done again."""
    with new_database(servers.database_url, "night_week", template=world) as url:
        engine = make_engine(url)
        Night(engine, settings(100)).run(corrections.LAST, each=True)
        engine.dispose()
        yield "night_week"


@pytest.fixture
def after_week(servers: ServerUrls, week: str, request: pytest.FixtureRequest) -> Iterator[Engine]:
    """An engine on a clone of `week`."""
    name = f"after_{abs(hash(request.node.nodeid)) % 10**9}"
    with new_database(servers.database_url, name, template=week) as url:
        engine = make_engine(url)
        yield engine
        engine.dispose()


@pytest.fixture(scope="session")
def right_week(servers: ServerUrls, world: str) -> Iterator[Engine]:
    """The same nights where the close that tests correct was right from the start, for tests that only look."""
    with new_database(servers.database_url, "night_right_week", template=world) as url:
        engine = make_engine(url)
        night = Night(engine, settings(5000))
        corrections.correct(night, corrections.ASSET, corrections.MIDDLE, corrections.PRICE)
        night.run(corrections.LAST, each=True)
        yield engine
        engine.dispose()


@pytest.fixture(scope="session")
def reported(servers: ServerUrls) -> Iterator[Engine]:
    """What reports tell of, for tests that only look or take back what they change."""
    with report_world(servers.database_url, "reported") as engine:
        yield engine


@pytest.fixture(scope="session")
def month(servers: ServerUrls, world: str) -> Iterator[Engine]:
    """`world` after thirty nights of one run each, for tests that only look."""
    with new_database(servers.database_url, "night_month", template=world) as url:
        engine = make_engine(url)
        Night(engine, settings(500)).run(LAST_SAMPLE_DAY, each=True)
        yield engine
        engine.dispose()
