"""Whether a backup brings everything back, and how long that takes: made, proven, all of it destroyed, restored.

The night after the backup is run twice: before the servers are destroyed, and by new ones on what was restored. Both
must come to the same rows, so that what came back is not only equal but also goes on.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import text

from benchmarks.nights import Watched, run_night, watched_stack
from benchmarks.site import Site, bench_site, prepare
from core.clock import utc_now
from core.errors import NightshiftError, UsageError
from core.settings import Settings
from services.backup_manifest import Manifest
from services.backup_restore import restore
from services.backup_verify import verify
from services.backups import Backups
from services.digest import DayDigest, digest_of_day
from workers.backup_scratch import scratch_of

MAX_NIGHTS = 30


def measure_backups(
    *,
    users: int,
    nights: int,
    workers: int,
    settings: Settings,
    tell: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Back up `nights` nights of `users` users, and restore them on servers that have never seen them.

    Raises:
        UsageError: numbers out of range.
        NightshiftError: a night did not end well, or what came back is not what was there.
    """
    if not 1 <= nights <= MAX_NIGHTS:
        raise UsageError(f"nights must be 1 to {MAX_NIGHTS}, not {nights}")
    seconds: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="nightshift-bench-backups-") as directory:
        store = settings.model_copy(update={"backup_to": str(Path(directory) / "backups"), "backup_key": None})
        with bench_site(settings, workers) as site:
            tell(f"seeding {users:,} users …")
            first = prepare(site, users=users, nights=nights + 1)
            days = [first + timedelta(days=number) for number in range(nights)]
            following = days[-1] + timedelta(days=1)
            with watched_stack(site) as watched:
                _run(watched, days)
                kept = _digests(site, days)
                database_bytes = _database_bytes(site)
                manifest = _made_and_verified(site, store, seconds, tell)
                _run(watched, [following])
            expected = _digests(site, [following])
        tell("the servers and all their files are gone")
        with bench_site(settings, workers) as site:
            with _timed("restore", seconds, tell):
                restore(Backups(site.urls.database_url, store, utc_now), manifest.name, force=False)
            restored = _digests(site, days)
            require_equal("what was restored", kept, restored)
            with watched_stack(site) as watched:
                _run(watched, [following])
            require_equal("the night after it", expected, _digests(site, [following]))
    return {
        "users": users,
        "nights": nights,
        "rows": manifest.rows,
        "database_bytes": database_bytes,
        "backup_bytes": manifest.bytes,
        **{f"{step}_seconds": round(took, 1) for step, took in seconds.items()},
        "digest": kept[-1].digest,
        "digest_restored": restored[-1].digest,
        "digest_of_the_next_night": expected[-1].digest,
    }


def require_equal(what: str, expected: list[DayDigest], found: list[DayDigest]) -> None:
    """Raise NightshiftError unless the days' rows are the same."""
    for one, other in zip(expected, found, strict=True):
        if one != other:
            raise NightshiftError(f"{what} differs: {one.day} is {other.digest}, not {one.digest}")


def _made_and_verified(site: Site, store: Settings, seconds: dict[str, float], tell: Callable[[str], None]) -> Manifest:
    backups = Backups(site.urls.database_url, store, utc_now)
    with _timed("create", seconds, tell):
        manifest = backups.create()
    with _timed("verify", seconds, tell):
        verify(backups, manifest.name, scratch_of(site.settings, site.urls.database_url))
    return manifest


@contextmanager
def _timed(step: str, seconds: dict[str, float], tell: Callable[[str], None]) -> Iterator[None]:
    began = time.perf_counter()
    yield
    seconds[step] = time.perf_counter() - began
    tell(f"{step}: {seconds[step]:.1f} s")


def _run(watched: Watched, days: list[date]) -> None:
    for day in days:
        run_night(watched, day)


def _digests(site: Site, days: list[date]) -> list[DayDigest]:
    return [digest_of_day(site.engine, day) for day in days]


def _database_bytes(site: Site) -> int:
    with site.engine.connect() as connection:
        return int(connection.scalar(text("SELECT pg_database_size(current_database())")) or 0)
