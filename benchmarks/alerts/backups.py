"""How backups go wrong: none is made any more, and one is damaged where it lies.

The stack makes backups only from the first of these scenarios on: the others are measured beside nothing else.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path

from benchmarks.alerts.site import FASTER, Site
from core.errors import NightshiftError
from core.settings import Settings
from services.backup_verify import verify
from services.backups import Backups
from workers.backup_scratch import scratch_of

_HOURS = 6 / FASTER
# What the rule adds to the interval, before it is scaled.
_GRACE = timedelta(hours=1) / FASTER


@contextmanager
def none_made(site: Site) -> Iterator[None]:
    """The newest backup is as old as if none had been made for the interval and an hour; in the end one is made."""
    _want(site)
    site.execute(
        "UPDATE backups SET started_at = started_at - :span, verified_at = verified_at - :span",
        span=timedelta(hours=_HOURS) + _GRACE,
    )
    yield
    _backups(site, site.settings).create()


@contextmanager
def one_damaged(site: Site) -> Iterator[None]:
    """A byte of the newest backup is changed, which its verification finds; in the end another takes its place."""
    _want(site)
    backups = _backups(site, site.settings)
    manifest = backups.create()
    damaged = Path(backups.store.place) / manifest.name
    _change_a_byte(damaged / manifest.files[0].name)
    try:
        _prove(site, backups)
    except NightshiftError:
        yield
    else:
        raise NightshiftError(f"{manifest.name} is damaged, and was found whole")
    shutil.rmtree(damaged)
    backups.create()
    _prove(site, backups)


def _want(site: Site) -> None:
    """Have the stack make backups; the first is there and proven before it starts, so that nothing is wrong yet."""
    if site.settings.backup_to:
        return
    changes: dict[str, object] = {
        "backup_to": str(site.settings.nightshift_home().parent / "backups"), "backup_hours": _HOURS,
        # Nights follow each other here without a pause that one could wait for.
        "backup_wait_minutes": 0.0, "backup_key": None,
    }  # fmt: skip
    first = _backups(site, site.settings.model_copy(update=changes))
    first.create()
    _prove(site, first)
    site.restart(**changes)


def _backups(site: Site, settings: Settings) -> Backups:
    return Backups(site.urls.database_url, settings, site.now)


def _prove(site: Site, backups: Backups) -> None:
    verify(backups, "latest", scratch_of(backups.settings, site.urls.database_url))


def _change_a_byte(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
