"""Databases for tests: one migrated template in the session's server, and a fresh clone of it for each test."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from sqlalchemy import make_url

from core.database import make_engine
from models.migrate import migrate

TEMPLATE = "test_template"
# A test's server may lose everything in a power cut; the processes that tests kill lose nothing by it.
FAST = {"fsync": "off", "full_page_writes": "off", "shared_buffers": "64MB"}


def with_database(url: str, name: str) -> str:
    """`url` with another database."""
    return make_url(url).set(database=name).render_as_string(hide_password=False)


def execute(url: str, statement: str) -> None:
    """Run one statement outside of a transaction."""
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(statement.encode())


def make_template(server_url: str) -> None:
    """Create the template and migrate it to the head."""
    execute(server_url, f"CREATE DATABASE {TEMPLATE}")
    engine = make_engine(with_database(server_url, TEMPLATE))
    try:
        migrate(engine)
    finally:
        # A database with a session in it cannot be a template.
        engine.dispose()


@contextmanager
def new_database(server_url: str, name: str, template: str = TEMPLATE) -> Iterator[str]:
    """The URL of a database that lives as long as the block; `template1` as template gives an empty one."""
    # Where nothing is forced to the disk, copying the files is twice as quick as writing them to the log.
    execute(server_url, f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY FILE_COPY")
    try:
        yield with_database(server_url, name)
    finally:
        execute(server_url, f"DROP DATABASE {name} WITH (FORCE)")
