"""`nightshift backup`: make, list, prove and restore backups; recover the embedded server to any moment."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from core.errors import UsageError
from scripts.cli import (
    Json,
    Servers,
    connected,
    interruptible,
    note,
    print_json,
    print_table,
    progress,
    quiet_logging,
)  # fmt: skip

if TYPE_CHECKING:
    from services.backup_contents import Progress
    from services.backup_manifest import Manifest
    from services.backups import Backups

app = typer.Typer()

Name = Annotated[str, typer.Argument(metavar="[BACKUP]", help="Its name; `latest` is the newest.")]


@app.command()
def create(json: Json = False) -> None:
    """Make a backup of the database, and remove those that are too old."""
    started = time.perf_counter()
    with interruptible(), connected() as servers, _backups(servers) as backups:
        manifest = backups.create()
        place = backups.store.place
    seconds = time.perf_counter() - started
    if json:
        print_json(_facts(manifest, seconds))
        return
    note(f"{manifest.name} in {place}: {_summary(manifest)}, {seconds:.1f} s; not verified yet")


@app.command(name="list")
def list_(json: Json = False) -> None:
    """The complete backups of the store. The database need not be there."""
    from core.clock import utc_now
    from core.settings import get_settings
    from services.backups import Backups

    backups = Backups("", get_settings(), utc_now)
    listed = backups.list()
    if json:
        print_json([asdict(backup) for backup in listed])
        return
    if not listed:
        note(f"there is no backup in {backups.store.place}")
        return
    rows = [
        [b.name, _size(b.bytes), b.rows, b.night, b.encrypted, b.error or b.verified_at or "not verified"]
        for b in listed
    ]
    print_table(["backup", "size>", "rows>", "last night", "encrypted", "verified"], rows)


@app.command()
def verify(name: Name = "latest", json: Json = False) -> None:
    """Restore a backup beside and compare every row. The scratch database goes afterwards."""
    from services.backup_verify import verify as prove
    from workers.backup_scratch import scratch_of

    with interruptible(), connected() as servers, _backups(servers) as backups:
        verified = prove(backups, name, scratch_of(servers.settings, servers.urls.database_url))
    if json:
        print_json(_facts(verified.manifest, verified.seconds))
        return
    note(f"{verified.manifest.name} is whole: restored and found equal, {_summary(verified.manifest)},"
         f" {verified.seconds:.1f} s")  # fmt: skip


@app.command()
def restore(
    name: Name = "latest",
    force: Annotated[
        bool, typer.Option("--force", help="Also where the database is not empty, which is set aside, or in use.")
    ] = False,
    json: Json = False,
) -> None:
    """Put a proven backup in the place of the database."""
    from services.backup_restore import restore as put_back

    started = time.perf_counter()
    with interruptible(), connected(check_schema=False) as servers, _backups(servers) as backups:
        # This command's own session is not somebody who uses the database.
        servers.engine.dispose()
        restored = put_back(backups, name, force=force)
        days = servers.settings.catch_up_days
    manifest, seconds = restored.manifest, time.perf_counter() - started
    if json:
        facts = {"migrated_to": restored.migrated_to, "kept_as": restored.kept_as}
        print_json(_facts(manifest, seconds) | facts)
        return
    note(f"{manifest.name} is restored and equal to what was backed up: {_summary(manifest)}, {seconds:.1f} s")
    note(f"the database is as it was at {manifest.taken_at:%Y-%m-%d %H:%M:%S} UTC; its last night is that of"
         f" {manifest.contents.night or 'no day'}. Start the stack: nights since are caught up, {days} days back,"
         " and what users did since is lost")  # fmt: skip
    if restored.migrated_to != manifest.contents.migration:
        note(f"its schema was migrated from revision {manifest.contents.migration} to {restored.migrated_to}")
    if restored.kept_as:
        note(f"the database as it was before is kept as {restored.kept_as}: drop it when nobody needs it")
    if restored.without_rights_of:
        note(f"roles that are not on this server have no rights: {', '.join(restored.without_rights_of)}")


@app.command()
def base(json: Json = False) -> None:
    """Copy the whole cluster, for recovery to any moment. Needs NIGHTSHIFT_WAL_ARCHIVE."""
    from core.clock import utc_now
    from workers.point_in_time import base_backup

    with interruptible(), connected(check_schema=False) as servers:
        made = base_backup(servers.urls.database_url, servers.settings, now=utc_now())
    if json:
        print_json(made)
        return
    note(f"{made.directory}: any moment from {made.ended_at:%Y-%m-%d %H:%M:%S} UTC on can be recovered")


@app.command()
def recover(
    at: Annotated[
        str | None, typer.Option(help="YYYY-MM-DD HH:MM:SS in UTC, or with an offset; the end of the log unless given.")
    ] = None,
    json: Json = False,
) -> None:
    """Take the embedded server to a moment of its past. It must not run."""
    from core.clock import utc_now
    from core.settings import get_settings
    from workers.point_in_time import recover as go_back

    quiet_logging(get_settings())
    with interruptible():
        recovered = go_back(get_settings(), at=_moment(at), now=utc_now())
    if json:
        print_json(recovered)
        return
    until = f"{recovered.until:%Y-%m-%d %H:%M:%S} UTC" if recovered.until else "its base backup"
    note(f"recovered from {recovered.base.directory.name}; the last transaction in it is of {until}")
    if recovered.kept_as:
        note(f"the cluster as it was is kept in {recovered.kept_as}: remove it when nobody needs it")
    note("start the stack: nights since are caught up. Then make a new base: `nightshift backup base`")


@app.command()
def key() -> None:
    """Print a new key for NIGHTSHIFT_BACKUP_KEY. Keep a copy where no backup is."""
    from services.backup_cipher import new_key

    typer.echo(new_key())


def _moment(text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(f"--at: {text!r} is no moment: write YYYY-MM-DD HH:MM:SS") from None
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment


@contextmanager
def _backups(servers: Servers) -> Iterator[Backups]:
    """The backups of the servers' database, with a bar on a terminal."""
    from core.clock import utc_now
    from services.backups import Backups

    with progress() as bar:
        yield Backups(servers.urls.database_url, servers.settings, utc_now, _shown(bar))


def _shown(bar: Any) -> Progress:
    tasks: dict[str, Any] = {}

    def show(what: str, done: int, total: int) -> None:
        if what not in tasks:
            tasks[what] = bar.add_task(what, total=total, detail="")
        bar.update(tasks[what], completed=done, total=total)

    return show


def _facts(manifest: Manifest, seconds: float) -> dict[str, Any]:
    contents = manifest.contents
    return {
        "name": manifest.name,
        "taken_at": manifest.taken_at,
        "bytes": manifest.bytes,
        "rows": manifest.rows,
        "tables": len(contents.tables),
        "encrypted": manifest.encrypted,
        "migration": contents.migration,
        "night": contents.night,
        "days": [day.model_dump() for day in contents.days],
        "seconds": round(seconds, 1),
    }


def _summary(manifest: Manifest) -> str:
    return f"{manifest.rows:,} rows in {len(manifest.contents.tables)} tables, {_size(manifest.bytes)}"


def _size(size: int | None) -> str:
    if size is None:
        return "–"
    return f"{size / 2**20:,.1f} MiB" if size < 2**30 else f"{size / 2**30:,.2f} GiB"
