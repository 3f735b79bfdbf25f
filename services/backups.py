"""Backups of the database: each of one snapshot, complete or not there, and the newest verified one never removed.

The row counts, sums and digests in the manifest are of the very snapshot that was dumped, so whoever restores it can
prove that it is equal. `pg_dump` in directory format: any PostgreSQL of the same version or newer reads it.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from sqlalchemy import Engine, text
from sqlalchemy.exc import SQLAlchemyError
from tenacity import RetryError, Retrying, retry_if_result, stop_after_delay, wait_fixed

from core.database import SessionLimits, driver_connection, make_engine
from core.errors import NightshiftError, UsageError
from core.settings import Settings
from services.backup_cipher import SUFFIX, Cipher, cipher_of
from services.backup_contents import LEFT_OUT, Progress, exported_snapshot, read_contents
from services.backup_manifest import FORMAT, FileFacts, Manifest
from services.backup_programs import find_programs, run_program
from services.backup_records import Record, forget_gone, one_at_a_time
from services.backup_store import NAME_FORMAT, BackupStore, backup_names, open_store

VERIFIED = "verified.json"
FILES = "files"
# Another process may be making it: there may be several databases that share a store.
_ABANDONED = timedelta(days=2)
_NEXT_SECOND, _LOOK_SECONDS = 2.0, 0.1
_NIGHT_RUNS = text("SELECT EXISTS (SELECT FROM runs WHERE kind = 'nightly' AND status = 'running')")


def silent(_what: str, _done: int, _total: int) -> None:
    """Progress that nobody looks at."""


@dataclass(frozen=True, slots=True)
class Listed:
    """A complete backup. `bytes`, `rows`, `night` are None and `error` says why if its manifest is not to be trusted.

    `verified_at`: when it was last restored and found equal; None: never.
    """

    name: str
    taken_at: datetime
    bytes: int | None
    rows: int | None
    night: str | None
    encrypted: bool | None
    verified_at: datetime | None
    error: str | None = None


class Backups:
    """Those of one database in one store."""

    def __init__(
        self, url: str, settings: Settings, clock: Callable[[], datetime], progress: Progress = silent
    ) -> None:
        """Nothing is connected yet.

        Args:
            url: of the database.
            settings: say where, and with which key.
            clock: tells when something ended.
            progress: is told how far it is.

        Raises:
            UsageError: the store's or the key's setting is malformed.
        """
        self.url, self.settings, self.clock, self.progress = url, settings, clock, progress
        self.store: BackupStore = open_store(settings)
        self.cipher: Cipher | None = cipher_of(settings)

    def engine(self) -> Engine:
        """An engine without limits of time: a table may take an hour. Dispose of it."""
        size = self.settings.backup_jobs + 3
        return make_engine(self.url, limits=SessionLimits(idle_in_transaction=None), pool_size=size)

    def create(self) -> Manifest:
        """Make a backup, and remove those that are too old. It waits for a night that runs, though not for ever.

        Raises:
            NightshiftError: it failed, or another one is being made. Nothing of it is listed.
        """
        engine = self.engine()
        try:
            with one_at_a_time(engine, now=self.clock()):
                self._wait_for_night(engine)
                now, name, record = self._begun(engine)
                try:
                    manifest = self._create(engine, name, now)
                except BaseException as error:
                    # A time limit or Ctrl-C too; whatever was stored has no seal. Where the database is away, the next
                    # backup finds that this one was interrupted.
                    with suppress(SQLAlchemyError):
                        record.failed(error, now=self.clock())
                    raise
                record.done(manifest.bytes, now=self.clock())
                self._remove_old(engine, now)
                return manifest
        finally:
            engine.dispose()

    def _begun(self, engine: Engine) -> tuple[datetime, str, Record]:
        """A name is a second: a second backup of the same one waits for the next."""
        until = time.monotonic() + _NEXT_SECOND
        while True:
            now = self.clock()
            name = now.strftime(NAME_FORMAT)
            record = Record(engine, self.store.place, name)
            if record.begin(now=now):
                return now, name, record
            if time.monotonic() > until:
                raise NightshiftError(f"there is a backup {name} already, and the clock stands still")
            time.sleep(_LOOK_SECONDS)

    def manifest(self, name: str) -> Manifest:
        """That of a backup; `latest` is the newest.

        Raises:
            NightshiftError: there is none of that name, or it is damaged.
        """
        return Manifest.load(self.store, self.find(name), self.cipher)

    def find(self, name: str) -> str:
        """The name of a complete backup; `latest` is the newest.

        Raises:
            NightshiftError: there is none at all.
            UsageError: there are others.
        """
        names = backup_names(self.store)
        if not names:
            raise NightshiftError(f"there is no backup in {self.store.place}: `nightshift backup create` makes one")
        if name == "latest":
            return names[-1]
        if name not in names:
            raise UsageError(f"there is no backup {name} in {self.store.place}: see `nightshift backup list`")
        return name

    def list(self) -> list[Listed]:
        """The complete backups, oldest first; the database is not asked."""
        return [self._listed(name) for name in backup_names(self.store)]

    def verified_at(self, name: str) -> datetime | None:
        """When a backup was last found equal, as the store remembers it."""
        if not self.store.exists(f"{name}/{VERIFIED}"):
            return None
        with suppress(ValueError, KeyError, TypeError, NightshiftError):
            content = json.loads(b"".join(self.store.read(f"{name}/{VERIFIED}")))
            return datetime.fromisoformat(content["verified_at"])
        return None

    def newest_unverified(self) -> str | None:
        """The newest backup, unless it is verified."""
        names = backup_names(self.store)
        return names[-1] if names and self.verified_at(names[-1]) is None else None

    def work_directory(self) -> Path:
        """Where files lie while they are made or looked at; only we may enter it."""
        directory = self.settings.nightshift_home() / "backup-work"
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        return directory

    def _listed(self, name: str) -> Listed:
        taken_at = datetime.strptime(name, NAME_FORMAT).replace(tzinfo=UTC)
        try:
            manifest = Manifest.load(self.store, name, self.cipher)
        except NightshiftError as error:
            return Listed(name, taken_at, None, None, None, None, None, str(error))
        night = manifest.contents.night
        return Listed(
            name, manifest.taken_at, manifest.bytes, manifest.rows, str(night) if night else None, manifest.encrypted,
            self.verified_at(name),
        )  # fmt: skip

    def _create(self, engine: Engine, name: str, now: datetime) -> Manifest:
        if name in self.store.names():
            raise NightshiftError(f"there is a backup {name} already")
        # Before every row is read: without programs that fit the server there is nothing to be done.
        with engine.connect() as connection:
            major = driver_connection(connection).info.server_version // 10_000
        programs = find_programs(major, self.url, directory=self.settings.postgres_programs)
        with exported_snapshot(engine) as snapshot, tempfile.TemporaryDirectory(dir=self.work_directory()) as work:
            dump = Path(work) / FILES
            contents = read_contents(engine, snapshot, jobs=self.settings.backup_jobs, progress=self.progress)
            tables = sum(1 for table in contents.tables if table.rows)
            run_program(
                [
                    programs.path("pg_dump"), "--format=directory", f"--file={dump}", f"--snapshot={snapshot}",
                    f"--jobs={self.settings.backup_jobs}", "--compress=1", "--schema=public", "--verbose",
                    f"--exclude-table-data=public.{LEFT_OUT}", "--lock-wait-timeout=60s",
                ],
                self.url,
                said=counter("dumping", "dumping contents of table", tables, self.progress),
            )  # fmt: skip
            files = sorted(dump.iterdir())
            stored = []
            for number, file in enumerate(files, start=1):
                stored.append(self._put(name, file))
                self.progress("storing", number, len(files))
        manifest = Manifest(
            format=FORMAT, name=name, taken_at=now, encrypted=self.cipher is not None, contents=contents,
            files=tuple(stored),
        )  # fmt: skip
        manifest.store(self.store, self.cipher)
        return manifest

    def _put(self, name: str, file: Path) -> FileFacts:
        if self.cipher is not None:
            plain, file = file, file.with_name(file.name + SUFFIX)
            self.cipher.encrypt(plain, file)
            plain.unlink()
        with file.open("rb") as content:
            digest = hashlib.file_digest(content, "sha256").hexdigest()
        facts = FileFacts(name=f"{FILES}/{file.name}", bytes=file.stat().st_size, sha256=digest)
        self.store.put(f"{name}/{facts.name}", file)
        return facts

    def _wait_for_night(self, engine: Engine) -> None:
        def runs() -> bool:
            with engine.connect() as connection:
                running: bool = connection.execute(_NIGHT_RUNS).scalar_one()
            if running:
                self.progress("waiting for the night to end", 0, 1)
            return running

        stop = stop_after_delay(self.settings.backup_wait_minutes * 60)
        with suppress(RetryError):
            Retrying(stop=stop, wait=wait_fixed(1), retry=retry_if_result(bool))(runs)

    def _remove_old(self, engine: Engine, now: datetime) -> None:
        names = backup_names(self.store)
        verified = [name for name in names if self.verified_at(name) is not None]
        # The last of each: what can be trusted, and what was just made.
        keep = {*verified[-1:], *names[-1:]}
        oldest = (now - timedelta(days=self.settings.backup_keep_days)).strftime(NAME_FORMAT)
        abandoned = (now - _ABANDONED).strftime(NAME_FORMAT)
        old = [name for name in names if name < oldest and name not in keep]
        for name in old + [name for name in backup_names(self.store, complete=False) if name < abandoned]:
            self.store.remove(name)
            Record(engine, self.store.place, name).removed()
        forget_gone(engine, self.store.place, backup_names(self.store))


def counter(what: str, phrase: str, total: int, progress: Progress) -> Callable[[str], None]:
    """Counts the lines in which a program says `phrase`, and tells `progress`."""
    seen = 0

    def said(line: str) -> None:
        nonlocal seen
        if phrase in line:
            seen = min(seen + 1, total)
            progress(what, seen, total)

    return said
