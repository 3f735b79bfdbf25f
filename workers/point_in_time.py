"""Recovery of the embedded PostgreSQL to any moment: a base backup, and the log that was archived since.

A base backup counts when it is complete: its note is written last. A recovery works beside the old cluster, which stays
in its place until the new one is there; what it had not archived yet is taken from it, so nothing is lost that its disk
still has.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import tarfile
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
from sqlalchemy import make_url
from tenacity import RetryError, Retrying, retry_if_result, stop_after_delay, wait_fixed

from core.errors import EmbeddedServerError, NightshiftError, UsageError
from core.settings import Settings
from services.backup_programs import find_programs, run_program
from workers.embedded import EmbeddedServers, home_held, running_servers
from workers.server_process import ServerProcess
from workers.wal_archive import SUFFIX, wal_directory
from workers.wal_check import check_log

_NAME = "base-%Y%m%dT%H%M%SZ"
_NOTE = "base.json"
_TAR = "base.tar.gz"
_SEGMENT_BYTES = 16 * 2**20
_KEPT = "postgres.before-%Y%m%dT%H%M%SZ"
_PROMOTE_SECONDS = 4 * 3600


@dataclass(frozen=True, slots=True)
class Base:
    """A base backup. `first_segment`: the oldest of the log that it needs. No recovery ends before `ended_at`."""

    directory: Path
    ended_at: datetime
    first_segment: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Recovered:
    """What a recovery did. `until`: the moment of the last transaction that is in it; `kept_as`: the old cluster."""

    base: Base
    until: datetime | None
    kept_as: Path | None


def base_backup(url: str, settings: Settings, *, now: datetime) -> Base:
    """Copy the embedded cluster of the home while it works; bases and log that are older than backups are kept go.

    Raises:
        UsageError: no archive is set, or `url` is of another server, which `recover` could not bring back.
        NightshiftError: pg_basebackup failed: the role needs REPLICATION.
    """
    bases = _bases_directory(settings)
    with _session(url) as session:
        major = session.info.server_version // 10_000
        name = session.execute("SHOW cluster_name").fetchone()
        mode = session.execute("SHOW archive_mode").fetchone()
    cluster = settings.nightshift_home() / "postgres"
    if name is None or not cluster.is_dir() or name[0] != _server(settings, cluster).marker:
        raise UsageError(
            f"the server is not the embedded one of {settings.nightshift_home()}, and a recovery brings back no other:"
            ' docs/backups.md, "A server of your own", says how its log is archived and its base is copied'
        )
    if mode is None or mode[0] == "off":
        raise NightshiftError("the server archives no log: start it with NIGHTSHIFT_WAL_ARCHIVE set, then try again")
    programs = find_programs(major, url, directory=settings.postgres_programs)
    directory = bases / now.strftime(_NAME)
    directory.mkdir(mode=0o700, parents=True)
    try:
        run_program(
            [
                programs.path("pg_basebackup"), f"--pgdata={directory}", "--format=tar",
                "--compress=gzip:1", "--checkpoint=fast", "--wal-method=none", f"--label={directory.name}",
                "--no-password",
            ],
            url,
        )  # fmt: skip
        base = _seal(directory, url)
    except BaseException:
        # Ctrl-C too: what is not complete must not lie among the base backups.
        shutil.rmtree(directory, ignore_errors=True)
        raise
    _remove_old(settings, major, base, now=now)
    return base


def list_bases(settings: Settings) -> list[Base]:
    """The complete base backups, oldest first."""
    directories = sorted(_bases_directory(settings).glob("base-*"))
    return [_read(directory) for directory in directories if (directory / _NOTE).is_file()]


def recover(settings: Settings, *, at: datetime | None, now: datetime) -> Recovered:
    """Take the embedded cluster of the home to its state at `at`; None: to the end of the log. Nothing may run in it.

    Raises:
        UsageError: no archive is set, or `at` is before the first base backup.
        NightshiftError: a stack runs in the home, a file is damaged, or the log does not reach so far; the old cluster
            is as it was.
    """
    home = settings.nightshift_home()
    if running_servers(home):
        raise NightshiftError(f"a stack runs in {home}: stop it first")
    base, wal = _base_before(settings, at), wal_directory(settings)
    if at is None and wal is not None:
        check_log(wal, base.first_segment)
    beside = home / "recovering"
    cluster, kept, new = home / "postgres", home / now.strftime(_KEPT), beside / "postgres"
    with home_held(home):
        for directory in (cluster, new):
            _server(settings, directory).end_leftovers()
        shutil.rmtree(beside, ignore_errors=True)
        try:
            _lay_out(base, home, beside, wal)
            until = _replay(settings, beside, at)
        except BaseException:
            # Ctrl-C too. Its log stays: the error may name it.
            shutil.rmtree(new, ignore_errors=True)
            raise
        there = cluster.exists()
        _swap(cluster, kept, new)
        shutil.rmtree(beside)
    return Recovered(base, until, kept if there else None)


def _server(settings: Settings, cluster: Path) -> ServerProcess:
    return ServerProcess("postgres", cluster, settings.nightshift_home() / "log" / "postgres.log", signal.SIGINT)


def _lay_out(base: Base, home: Path, beside: Path, archive: Path | None) -> None:
    """Make a home beside in which the base is ready for the replay."""
    cluster, new = home / "postgres", beside / "postgres"
    password = home / "password"
    if not password.is_file():
        raise NightshiftError(f"{password} is gone, and the database needs it: put the old one there")
    beside.mkdir(mode=0o700)
    shutil.copy(password, beside / "password")
    # Where there is no cluster, the archive was written by the user that the server runs as.
    owner = (cluster if cluster.exists() else base.directory.parent.with_name("wal")).stat()
    _unpack(base, new)
    _take_unarchived(cluster / "pg_wal", new / "pg_wal", archive)
    _give(new, owner)


def _swap(cluster: Path, kept: Path, new: Path) -> None:
    there = cluster.exists()
    if there:
        cluster.rename(kept)
    try:
        new.rename(cluster)
    except BaseException:
        if there:
            kept.rename(cluster)
        raise


def _bases_directory(settings: Settings) -> Path:
    wal = wal_directory(settings)
    if wal is None:
        raise UsageError("NIGHTSHIFT_WAL_ARCHIVE is not set: there is no log to recover from (see docs/backups.md)")
    return wal.with_name("base")


def _seal(directory: Path, url: str) -> Base:
    with _session(url) as session:
        row = session.execute("SELECT clock_timestamp()").fetchone()
    if row is None:
        raise NightshiftError("the server does not know what time it is")
    ranges = json.loads((directory / "backup_manifest").read_text("utf-8"))["WAL-Ranges"]
    high, low = (int(part, 16) for part in ranges[0]["Start-LSN"].split("/"))
    segment = f"{ranges[0]['Timeline']:08X}{high:08X}{low // _SEGMENT_BYTES:08X}"
    ended_at = row[0].astimezone(UTC)
    note = {"ended_at": ended_at.isoformat(), "first_segment": segment, "sha256": _sum(directory / _TAR)}
    new = directory / (_NOTE + ".new")
    new.write_text(json.dumps(note) + "\n", encoding="utf-8")
    new.rename(directory / _NOTE)
    return _read(directory)


def _sum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _session(url: str) -> psycopg.Connection[tuple[Any, ...]]:
    return psycopg.connect(make_url(url).set(drivername="postgresql").render_as_string(hide_password=False))


def _read(directory: Path) -> Base:
    note = json.loads((directory / _NOTE).read_text("utf-8"))
    return Base(directory, datetime.fromisoformat(note["ended_at"]), note["first_segment"], note["sha256"])


def _base_before(settings: Settings, at: datetime | None) -> Base:
    bases = list_bases(settings)
    if not bases:
        raise UsageError(f"there is no base backup in {_bases_directory(settings)}: `nightshift backup base` makes one")
    fitting = [base for base in bases if at is None or base.ended_at <= at]
    if not fitting:
        raise UsageError(
            f"the oldest base backup ended at {bases[0].ended_at:%Y-%m-%d %H:%M:%S} UTC, after that moment"
        )
    return fitting[-1]


def _unpack(base: Base, directory: Path) -> None:
    if _sum(base.directory / _TAR) != base.sha256:
        raise NightshiftError(f"{base.directory / _TAR} was changed since it was made: it is damaged")
    directory.mkdir(mode=0o700)
    with tarfile.open(base.directory / _TAR) as tar:
        tar.extractall(directory, filter="data")
    (directory / "recovery.signal").touch()
    for path in (directory, *directory.rglob("*")):
        path.chmod(0o700 if path.is_dir() else 0o600)


def _take_unarchived(old: Path, new: Path, archive: Path | None) -> None:
    """The segments that the old cluster has and the archive has not."""
    for segment in old.iterdir() if old.is_dir() else ():
        archived = archive is not None and (archive / (segment.name + SUFFIX)).exists()
        if len(segment.name) == 24 and segment.is_file() and not archived:
            shutil.copyfile(segment, new / segment.name)
            (new / segment.name).chmod(0o600)


def _give(directory: Path, owner: os.stat_result) -> None:
    if os.geteuid() == 0:
        for path in (directory, *directory.rglob("*")):
            os.chown(path, owner.st_uid, owner.st_gid)


def _replay(settings: Settings, home: Path, at: datetime | None) -> datetime | None:
    target = {"recovery_target_time": at.isoformat()} if at else {}
    servers = EmbeddedServers(
        home,
        serve_redis=False,
        wal_archive=wal_directory(settings),
        postgres_settings=target | {"recovery_target_action": "promote", "recovery_target_timeline": "latest"},
    )
    try:
        with servers, psycopg.connect(servers.start().database_url, autocommit=True) as session:
            return _promoted(session)
    except RetryError:
        reason = f"the recovery does not end (see {servers.postgres_log})"
    except EmbeddedServerError as error:
        reason = str(error)
    except psycopg.OperationalError:
        # A promotion ends no session: the server has stopped, because the log ends before the moment.
        reached = f"reach {at:%Y-%m-%d %H:%M:%S} UTC" if at else "come to an end"
        reason = f"the log does not {reached} (see {servers.postgres_log})"
    raise NightshiftError(f"{reason}; the cluster of the home is as it was")


def _promoted(session: psycopg.Connection[tuple[Any, ...]]) -> datetime | None:
    """Wait until the server is no longer in recovery; the moment of the last transaction that it replayed."""

    def recovering() -> bool:
        row = session.execute("SELECT pg_is_in_recovery()").fetchone()
        return row is None or row[0] is True

    stop = stop_after_delay(_PROMOTE_SECONDS)
    Retrying(stop=stop, wait=wait_fixed(0.1), retry=retry_if_result(bool))(recovering)
    row = session.execute("SELECT pg_last_xact_replay_timestamp()").fetchone()
    return row[0] if row else None


def _remove_old(settings: Settings, major: int, newest: Base, *, now: datetime) -> None:
    bases = list_bases(settings)
    oldest = now - timedelta(days=settings.backup_keep_days)
    # The last one before that moment is needed to recover to it.
    before = [base for base in bases if base.ended_at <= oldest]
    kept = [*before[-1:], *(base for base in bases if base.ended_at > oldest)] or [newest]
    for base in before[:-1]:
        (base.directory / _NOTE).unlink()
        shutil.rmtree(base.directory, ignore_errors=True)
    _clean_archive(settings, major, kept)


def _clean_archive(settings: Settings, major: int, kept: Iterable[Base]) -> None:
    wal = wal_directory(settings)
    if wal is not None and wal.is_dir():
        first = min(base.first_segment for base in kept)
        cleanup = find_programs(major).path("pg_archivecleanup")
        run_program([cleanup, "--strip-extension", SUFFIX, str(wal), first], "postgresql:///")
