"""A backup becomes a database again: proven equal before anybody sees it, and whatever was there before is set aside.

The files are checked against the manifest while they are fetched; a flipped byte anywhere ends it with the file's name.
`restore` works in a database beside the one that it replaces. Only when that one is equal to what was backed up, and at
this code's schema, the two change names. Until then nothing has changed, however it ends.
"""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Engine, make_url, text
from sqlalchemy.exc import SQLAlchemyError

from core.database import SessionLimits, make_engine
from core.errors import NightshiftError
from services.backup_cipher import SUFFIX
from services.backup_contents import day_differences, differences, read_contents, read_days
from services.backup_databases import Server, is_empty, other_sessions
from services.backup_manifest import FileFacts, Manifest
from services.backup_programs import find_programs, run_program
from services.backup_records import Record
from services.backups import Backups, Listed, counter

_SHOWN = 3
_ROLES = text("SELECT rolname FROM pg_roles")


@dataclass(frozen=True, slots=True)
class Restored:
    """What a restore did. `kept_as`: the database that was replaced, under its new name; None: it was empty."""

    manifest: Manifest
    migrated_to: str
    kept_as: str | None
    without_rights_of: tuple[str, ...]


@contextmanager
def fetched(backups: Backups, manifest: Manifest) -> Iterator[Path]:
    """The directory that pg_restore reads, for as long as the block: every byte checked, and decrypted.

    Raises:
        NightshiftError: a file is missing or was changed; with its name.
    """
    with tempfile.TemporaryDirectory(dir=backups.work_directory()) as work:

        def fetch(file: FileFacts) -> None:
            _fetch(backups, manifest, file, Path(work))

        with ThreadPoolExecutor(backups.settings.backup_jobs) as pool:
            for done, _ in enumerate(pool.map(fetch, manifest.files), start=1):
                backups.progress("checking files", done, len(manifest.files))
        yield Path(work)


def load(url: str, directory: Path, manifest: Manifest, backups: Backups, *, rights: bool) -> None:
    """Restore the files in `directory` into the database of `url`, which has no tables, and prove it equal.

    Args:
        rights: give the rights that roles had; they must exist.

    Raises:
        NightshiftError: PostgreSQL could not, or something is not as it was; with what.
    """
    programs = find_programs(manifest.major, url, directory=backups.settings.postgres_programs)
    jobs = backups.settings.backup_jobs
    with_rows = sum(1 for table in manifest.contents.tables if table.rows)
    command = [
        programs.path("pg_restore"), f"--dbname={make_url(url).database}", f"--jobs={jobs}", "--exit-on-error",
        "--no-owner", "--schema=public", "--verbose", *([] if rights else ["--no-acl"]), str(directory),
    ]  # fmt: skip
    run_program(command, url, said=counter("restoring", "processing data for table", with_rows, backups.progress))
    engine = _unhurried(url, jobs)
    try:
        found = read_contents(engine, None, jobs=jobs, progress=backups.progress)
    finally:
        engine.dispose()
    if wrong := differences(manifest.contents, found):
        more = f", and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
        raise NightshiftError(f"backup {manifest.name} is not what was backed up: {'; '.join(wrong[:_SHOWN])}{more}")


def restore(backups: Backups, name: str, *, force: bool) -> Restored:
    """Put a backup (`latest`: the newest) in the place of the database of `backups`.

    Args:
        force: also where the database is not empty, or is in use: it gets another name, and its sessions end.

    Raises:
        NightshiftError: it is not empty or in use, or anything went wrong: the database is as it was.
        DatabaseVersionError: the backup is newer than this code.
    """
    manifest = backups.manifest(name)
    server = Server(backups.url)
    try:
        empty = _refuse(backups, server, force=force)
        with fetched(backups, manifest) as directory:
            new = server.create_beside(backups.clock().strftime("restored_%Y%m%dt%H%M%S"))
            try:
                absent = _absent_roles(server, manifest)
                load(server.url(new), directory, manifest, backups, rights=not absent)
                revision = _bring_up(server.url(new), manifest, backups)
                kept = server.swap(new, backups.clock().strftime("before_%Y%m%dt%H%M%S"))
            except BaseException:
                # Ctrl-C too: half a database would be left beside the one that serves.
                with suppress(SQLAlchemyError):
                    server.drop(new)
                raise
        if empty:
            server.drop(kept)
        return Restored(manifest, revision, None if empty else kept, absent)
    finally:
        server.close()


def _refuse(backups: Backups, server: Server, *, force: bool) -> bool:
    """Raise unless the target may be replaced; whether it is empty."""
    engine = backups.engine()
    try:
        empty, others = is_empty(engine), other_sessions(engine)
    finally:
        engine.dispose()
    if not empty and not force:
        raise NightshiftError(
            f"the database {server.name} is not empty: with --force it is set aside under another name"
        )
    if others and not force:
        raise NightshiftError(
            f"{others} other sessions use the database {server.name}: stop the workers, or end them with --force"
        )
    return empty


def _bring_up(url: str, manifest: Manifest, backups: Backups) -> str:
    """Migrate to this code's schema, compare the days again, and fill in which backups there are; the revision."""
    from models.migrate import migrate  # noqa: PLC0415 - Alembic: 10 MiB that a worker of nights never needs

    engine = _unhurried(url, backups.settings.backup_jobs)
    try:
        _, revision = migrate(engine)
        days = read_days(engine, [day.day for day in manifest.contents.days])
        if wrong := day_differences(manifest.contents.days, days):
            raise NightshiftError(f"the migration to revision {revision} changed what it must not: {'; '.join(wrong)}")
        for known in backups.list():
            _remember(engine, backups.store.place, known)
        return revision
    finally:
        engine.dispose()


def _remember(engine: Engine, place: str, known: Listed) -> None:
    if known.bytes is not None:
        record = Record(engine, place, known.name)
        record.known(known.bytes, at=known.taken_at)
        if known.verified_at is not None:
            record.verified(0.0, now=known.verified_at)


def _absent_roles(server: Server, manifest: Manifest) -> tuple[str, ...]:
    with server.connect() as connection:
        roles = set(connection.execute(_ROLES).scalars())
    return tuple(role for role in manifest.contents.grantees if role not in roles)


def _unhurried(url: str, jobs: int) -> Engine:
    return make_engine(url, limits=SessionLimits(idle_in_transaction=None), pool_size=jobs + 3)


def _fetch(backups: Backups, manifest: Manifest, file: FileFacts, work: Path) -> None:
    key = f"{manifest.name}/{file.name}"
    target = work / Path(file.name).name
    local = backups.store.local(key)
    digest = hashlib.sha256()
    # Where the file is at hand and plain, it is read where it is.
    copy = None if local is not None and not manifest.encrypted else target.open("wb")
    try:
        for chunk in backups.store.read(key):
            digest.update(chunk)
            if copy is not None:
                copy.write(chunk)
    finally:
        if copy is not None:
            copy.close()
    if digest.hexdigest() != file.sha256:
        raise NightshiftError(f"backup {manifest.name}: {file.name} was changed since it was made: it is damaged")
    if copy is None and local is not None:
        target.symlink_to(local)
    if manifest.encrypted and backups.cipher is not None:
        backups.cipher.decrypt(target, target.with_name(target.name.removesuffix(SUFFIX)))
        target.unlink()
