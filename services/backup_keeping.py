"""Backups by themselves: one is made when it is due, and proven. Safe to call as often as one likes.

What is due, the table knows, not the clock of whoever calls. A backup that was found wanting is not tried again: the
next one is due in time, and the metrics tell.
"""

from __future__ import annotations

from datetime import timedelta

from core.log import mask_secrets
from services.backup_manifest import Manifest
from services.backup_records import found_wanting, is_due
from services.backup_verify import Scratch, verify
from services.backups import Backups
from services.tick import record_run

SCHEDULE = "backups"


def keep_backups(backups: Backups, scratch: Scratch) -> str:
    """Make a backup if one is due, and verify the newest unless it is verified; what was done, in words.

    Raises:
        NightshiftError: either failed; the table says so, too.
    """
    engine = backups.engine()
    now = backups.clock()
    try:
        try:
            done = _keep(backups, scratch)
        except Exception as error:
            record_run(engine, SCHEDULE, now=now, error=mask_secrets(f"{type(error).__name__}: {error}"))
            raise
        record_run(engine, SCHEDULE, now=now, result=done)
        return done
    finally:
        engine.dispose()


def _keep(backups: Backups, scratch: Scratch) -> str:
    engine = backups.engine()
    every = timedelta(hours=backups.settings.backup_hours)
    made: Manifest | None = None
    try:
        if is_due(engine, backups.store.place, now=backups.clock(), every=every):
            made = backups.create()
        name = backups.newest_unverified()
        if name is None or found_wanting(engine, backups.store.place, name):
            return "nothing to do"
    finally:
        engine.dispose()
    verify(backups, name, scratch)
    return f"{name} {'made and ' if made else ''}verified"
