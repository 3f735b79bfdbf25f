"""A database with nights in it, its backups, and scratch databases on the server that runs already."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

from sqlalchemy import Engine

from core.settings import Settings
from services.backup_contents import Progress
from services.backups import Backups, silent
from tests.support.database import new_database
from tests.support.nights import LAST_SAMPLE_DAY, Night, sample_world, settings

_numbers = itertools.count(1)
USERS = 120
DAYS = 4


class Clock:
    """Says another second each time, so that two backups have two names."""

    def __init__(self, now: datetime = datetime(2026, 1, 1, 12, tzinfo=UTC)) -> None:
        self.now = now

    def __call__(self) -> datetime:
        """The next second."""
        self.now += timedelta(seconds=1)
        return self.now


def few_nights(engine: Engine) -> None:
    """Fill a database with some users and their nights."""
    sample_world(engine, USERS, start=LAST_SAMPLE_DAY - timedelta(days=DAYS - 1), spread_days=1)
    Night(engine, settings(500)).run(LAST_SAMPLE_DAY)


def backup_settings(home: Path, **changes: object) -> Settings:
    """Settings with a home and a store in it."""
    return settings(**({"home": home, "backup_wait_minutes": 0, "backup_to": str(home / "store")} | changes))  # type: ignore[arg-type]


def backups_of(
    url: str, chosen: Settings, clock: Callable[[], datetime] | None = None, progress: Progress = silent
) -> Backups:
    """The backups of a database."""
    return Backups(url, chosen, clock or Clock(), progress)


def scratch_on(server_url: str) -> Callable[[int], AbstractContextManager[str]]:
    """Scratch databases on a server that runs."""

    @contextmanager
    def scratch(major: int) -> Iterator[str]:
        assert major == 18
        with new_database(server_url, f"scratch_{next(_numbers)}", template="template0") as url:
            yield url

    return scratch


def flip(path: Path, position: int | None = None) -> None:
    """Change one bit of a file, in the middle unless said."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2 if position is None else position] ^= 1
    path.write_bytes(content)


@contextmanager
def changed(path: Path) -> Iterator[None]:
    """The file with one bit changed, for as long as the block."""
    before = path.read_bytes()
    flip(path)
    try:
        yield
    finally:
        path.write_bytes(before)
