"""A backup is worth what its restoration is: each is restored into a scratch database and compared, row by row.

What came of it is kept in the table and, beside the backup, in the store, which outlives the database.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass

from core.errors import NightshiftError
from services.backup_manifest import Manifest
from services.backup_records import Record, forget_gone, one_at_a_time
from services.backup_restore import fetched, load
from services.backup_store import BackupStore, backup_names
from services.backups import VERIFIED, Backups

Scratch = Callable[[int], AbstractContextManager[str]]
"""Gives the URL of an empty database, on a server of at least this major version, for as long as the block."""


@dataclass(frozen=True, slots=True)
class Verified:
    """A backup that was restored and found equal, in `seconds`."""

    manifest: Manifest
    seconds: float


def verify(backups: Backups, name: str, scratch: Scratch) -> Verified:
    """Restore a backup (`latest`: the newest) elsewhere, and compare everything with what was backed up.

    Raises:
        NightshiftError: something is wrong with it, said in one line; or another one is at work.
    """
    engine = backups.engine()
    try:
        with one_at_a_time(engine, now=backups.clock()):
            started = time.perf_counter()
            forget_gone(engine, backups.store.place, backup_names(backups.store))
            name = backups.find(name)
            record = Record(engine, backups.store.place, name)
            try:
                manifest = backups.manifest(name)
                record.known(manifest.bytes, at=manifest.taken_at)
                with fetched(backups, manifest) as directory, scratch(manifest.major) as url:
                    load(url, directory, manifest, backups, rights=False)
            except NightshiftError as error:
                record.unverified(error)
                raise
            seconds = time.perf_counter() - started
            now = backups.clock()
            _note(backups.store, name, now.isoformat(), seconds)
            record.verified(seconds, now=now)
            return Verified(manifest, seconds)
    finally:
        engine.dispose()


def _note(store: BackupStore, name: str, moment: str, seconds: float) -> None:
    note = {"verified_at": moment, "seconds": round(seconds, 1)}
    store.write(f"{name}/{VERIFIED}", (json.dumps(note) + "\n").encode())
