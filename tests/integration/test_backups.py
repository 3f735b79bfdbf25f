"""A backup is complete or not there, is of one moment, and one changed byte anywhere is found and named."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import psutil
import psycopg
import pyrage
import pytest
from sqlalchemy import Engine

from core.database import make_engine
from core.errors import NightshiftError, UsageError
from services import backup_programs
from services.backup_cipher import Cipher, cipher_of, new_key
from services.backup_manifest import MANIFEST, Manifest
from services.backup_programs import find_programs
from services.backup_records import Record, one_at_a_time
from services.backup_restore import _fetch, fetched
from services.backup_store import NAME_FORMAT, SEAL, DirectoryStore
from services.backup_verify import verify
from services.backups import Backups
from services.digest import digest_of_day
from tests.support.backups import Clock, backup_settings, backups_of, changed, few_nights, flip, scratch_on
from tests.support.cli import command, environment
from tests.support.database import new_database
from tests.support.nights import LAST_SAMPLE_DAY, change, rows, scalar
from tests.support.polling import wait_until
from workers.embedded import ServerUrls


@pytest.fixture(scope="module")
def source(servers: ServerUrls) -> Iterator[str]:
    """The URL of a database that is only read."""
    with new_database(servers.database_url, "backup_source") as url:
        engine = make_engine(url)
        few_nights(engine)
        engine.dispose()
        yield url


@pytest.fixture(scope="module")
def made(
    servers: ServerUrls, source: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Backups, Manifest]]:
    """One backup of a copy of it."""
    with new_database(servers.database_url, "backup_made", template=source.rsplit("/", 1)[1]) as url:
        backups = backups_of(url, backup_settings(tmp_path_factory.mktemp("made")))
        yield backups, backups.create()


@pytest.fixture
def own(servers: ServerUrls, source: str, request: pytest.FixtureRequest) -> Iterator[str]:
    """A copy of that database, to be changed."""
    name = f"backup_{abs(hash(request.node.nodeid)) % 10**9}"
    with new_database(servers.database_url, name, template=source.rsplit("/", 1)[1]) as url:
        yield url


@pytest.fixture
def engine(own: str) -> Iterator[Engine]:
    engine = make_engine(own)
    yield engine
    engine.dispose()


def test_a_backup_says_what_is_in_it_and_is_proven(made: tuple[Backups, Manifest], servers: ServerUrls) -> None:
    backups, manifest = made
    tables = {table.name: table for table in manifest.contents.tables}
    assert manifest.contents.night == LAST_SAMPLE_DAY
    assert "backups" not in tables
    assert sum(table.rows for name, table in tables.items() if name.startswith("portfolio_days_")) > 300
    engine = make_engine(backups.url)
    wanted = digest_of_day(engine, LAST_SAMPLE_DAY)
    engine.dispose()
    newest = manifest.contents.days[0]
    assert (newest.day, newest.digest, newest.rows) == (LAST_SAMPLE_DAY, wanted.digest, wanted.rows)
    (listed,) = backups.list()
    assert (listed.name, listed.rows, listed.verified_at) == (manifest.name, manifest.rows, None)

    verified = verify(backups, "latest", scratch_on(servers.database_url))

    assert verified.manifest == manifest
    (listed,) = backups.list()
    assert listed.verified_at is not None
    assert backups.newest_unverified() is None
    assert list(backups.work_directory().iterdir()) == []


def test_one_changed_byte_anywhere_is_found_and_named(
    made: tuple[Backups, Manifest], servers: ServerUrls, tmp_path: Path
) -> None:
    backups, manifest = made
    directory = Path(backups.store.place) / manifest.name
    for file in manifest.files:
        with changed(directory / file.name), pytest.raises(NightshiftError, match=rf"{file.name} was changed"):
            _fetch(backups, manifest, file, tmp_path)
    for name in (MANIFEST, SEAL):
        with changed(directory / name), pytest.raises(NightshiftError, match=name):
            backups.manifest("latest")
    hidden = directory / manifest.files[0].name
    hidden.rename(hidden.with_suffix(".away"))
    with pytest.raises(NightshiftError, match=rf"{hidden.name} is missing: the backup is damaged"):
        verify(backups, "latest", scratch_on(servers.database_url))
    hidden.with_suffix(".away").rename(hidden)
    with fetched(backups, manifest) as whole:
        assert len(list(whole.iterdir())) == len(manifest.files)


def test_rows_that_differ_are_named_even_where_every_file_is_whole(
    made: tuple[Backups, Manifest], servers: ServerUrls, tmp_path: Path
) -> None:
    backups, manifest = made
    tables = list(manifest.contents.tables)
    users = next(number for number, table in enumerate(tables) if table.name == "users")
    trades = next(number for number, table in enumerate(tables) if table.name.startswith("trades_") and table.rows)
    tables[users] = tables[users].model_copy(update={"rows": tables[users].rows + 1})
    tables[trades] = tables[trades].model_copy(update={"checksum": "0" * 16})
    contents = manifest.contents.model_copy(update={"tables": tuple(tables)})
    lying = manifest.model_copy(update={"contents": contents})
    store = DirectoryStore(tmp_path / "store")
    for file in manifest.files:
        store.write(f"{manifest.name}/{file.name}", b"".join(backups.store.read(f"{manifest.name}/{file.name}")))
    lying.store(store, None)
    other = backups_of(backups.url, backup_settings(tmp_path))

    with pytest.raises(NightshiftError, match=rf"{tables[trades].name} has other rows; table users has 120 rows inst"):
        verify(other, "latest", scratch_on(servers.database_url))


def test_what_is_written_meanwhile_is_not_in_it(own: str, engine: Engine, servers: ServerUrls, tmp_path: Path) -> None:
    written: list[str] = []

    def write(what: str, _done: int, _total: int) -> None:
        if not written:
            written.append(what)
            change(engine, "INSERT INTO users (name) VALUES ('new')")
            change(engine, "DELETE FROM trades")

    backups = backups_of(own, backup_settings(tmp_path), progress=write)
    manifest = backups.create()
    assert written == ["counting rows"]
    counted = {table.name: table.rows for table in manifest.contents.tables}
    assert counted["users"] == scalar(engine, "SELECT count(*) FROM users") - 1
    verify(backups, "latest", scratch_on(servers.database_url))


def dumps_of(process: psutil.Process) -> list[psutil.Process]:
    """The pg_dump of a backup, and those that it has started; not the one that was asked for its version."""
    with suppress(psutil.NoSuchProcess):
        return [each for each in process.children(recursive=True) if "--format=directory" in each.cmdline()]
    return []


def test_a_killed_backup_is_not_listed_and_its_dump_is_ended(
    own: str, engine: Engine, servers: ServerUrls, tmp_path: Path
) -> None:
    chosen = backup_settings(tmp_path, backup_key=new_key())
    assert chosen.backup_key is not None
    secrets = (own.split(":")[2].split("@", maxsplit=1)[0], chosen.backup_key.get_secret_value())
    env = environment(
        tmp_path, database_url=own, redis_url=servers.redis_url, backup_to=chosen.backup_to, backup_key=secrets[1]
    )
    with psycopg.connect(own) as blocking:
        # pg_dump waits for the parent of the partitions, at which nobody else looks.
        blocking.execute("LOCK TABLE ONLY price_ticks IN ACCESS EXCLUSIVE MODE")
        with subprocess.Popen(command("backup", "create"), env=env, cwd=tmp_path, stderr=subprocess.PIPE) as child:
            try:
                process = psutil.Process(child.pid)
                dumps = wait_until(lambda: dumps_of(process), what="pg_dump")
                lines = [" ".join(each.cmdline()) for each in (process, *dumps)]
            finally:
                os.kill(child.pid, signal.SIGKILL)
            assert "--snapshot=" in lines[1]
            assert not [secret for secret in secrets for line in lines if secret in line]
    backups = backups_of(own, chosen)
    assert backups.list() == []

    manifest = backups.create()

    assert [listed.name for listed in backups.list()] == [manifest.name]
    states = rows(engine, "SELECT state, error FROM backups ORDER BY id")
    assert states == [("failed", "it was interrupted"), ("done", None)]
    wait_until(lambda: not any(dump.is_running() for dump in dumps), what="the end of the killed backup's pg_dump")


def test_a_backup_that_fails_leaves_a_line_and_no_backup(
    own: str, engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = tmp_path / "store"
    store.write_text("a file where the directory should be")
    backups = backups_of(own, backup_settings(tmp_path))
    with pytest.raises(NightshiftError, match="store"):
        backups.create()
    store.unlink()
    assert backups.list() == []
    assert scalar(engine, "SELECT error FROM backups WHERE state = 'failed'").startswith(str(store))

    monkeypatch.setattr(backup_programs, "_directories", list)
    with pytest.raises(NightshiftError, match=r"^a server of PostgreSQL 18 needs pg_dump .* none here: install"):
        backups.create()
    monkeypatch.undo()
    assert find_programs(18).major == 18
    with pytest.raises(NightshiftError, match=r"PostgreSQL 99 needs .* of version 99 or newer, and only version 18"):
        find_programs(99)


def test_there_is_one_at_a_time_and_it_waits_for_a_night(own: str, engine: Engine, tmp_path: Path) -> None:
    waiting = threading.Event()

    def progress(what: str, _done: int, _total: int) -> None:
        if what.startswith("waiting"):
            waiting.set()

    backups = backups_of(own, backup_settings(tmp_path, backup_wait_minutes=5), progress=progress)
    change(engine, "UPDATE runs SET status = 'running'")
    thread = threading.Thread(target=backups.create)
    thread.start()
    assert waiting.wait(30)
    other = backups_of(own, backup_settings(tmp_path))
    with pytest.raises(NightshiftError, match=r"^another backup or verification is at work \(session \d+ of"):
        other.create()
    assert other.list() == []
    change(engine, "UPDATE runs SET status = 'done'")
    thread.join(60)
    assert len(other.list()) == 1
    with one_at_a_time(engine, now=Clock()()):
        pass


def test_two_backups_of_one_second_have_two_names(own: str, tmp_path: Path) -> None:
    chosen = backup_settings(tmp_path)
    first = backups_of(own, chosen).create()
    with pytest.raises(NightshiftError, match="already, and the clock stands still"):
        backups_of(own, chosen, clock=lambda: first.taken_at).create()
    looks = iter([first.taken_at] * 4)
    later = backups_of(own, chosen, clock=lambda: next(looks, first.taken_at + timedelta(seconds=1)))
    assert later.create().name > first.name
    assert next(looks, None) is None


def test_with_a_key_nothing_can_be_read_or_forged(own: str, servers: ServerUrls, tmp_path: Path) -> None:
    old, key = new_key(), new_key()
    chosen = backup_settings(tmp_path, backup_key=key)
    backups = backups_of(own, chosen)
    manifest = backups.create()
    directory = Path(backups.store.place) / manifest.name
    assert {file.name.rsplit(".", 1)[1] for file in manifest.files} == {"age"}
    for file in manifest.files:
        assert (directory / file.name).read_bytes().startswith(b"age-encryption.org/v1\n")
    # Whoever has nothing but the key and the tool `age` has the dump.
    toc = pyrage.decrypt((directory / "files/toc.dat.age").read_bytes(), [pyrage.x25519.Identity.from_str(key)])
    assert toc.startswith(b"PGDMP")
    verify(backups, "latest", scratch_on(servers.database_url))

    rotated = replace_key(backups, f"{old},{key}")
    assert rotated.manifest("latest") == manifest
    for wrong, words in ((None, "set NIGHTSHIFT_BACKUP_KEY"), (old, "signed with another key")):
        with pytest.raises(NightshiftError, match=words):
            replace_key(backups, wrong).manifest("latest")
    # Everybody can write a manifest that fits a plain sum.
    manifest.model_copy(update={"encrypted": False}).store(backups.store, None)
    with pytest.raises(NightshiftError, match="is not signed"):
        backups.manifest("latest")
    with pytest.raises(UsageError, match="no age identity"):
        replace_key(backups, "secret-word")


def replace_key(backups: Backups, key: str | None) -> Backups:
    changes = {"backup_key": key} if key else {}
    return backups_of(backups.url, backup_settings(backups.settings.nightshift_home(), **changes))


def test_the_old_are_removed_but_never_the_newest_verified(own: str, engine: Engine, tmp_path: Path) -> None:
    clock = Clock()
    backups = backups_of(own, backup_settings(tmp_path, backup_keep_days=30), clock)
    first = backups.create()
    names = [first.name, *((clock.now + timedelta(hours=hour)).strftime(NAME_FORMAT) for hour in (1, 2))]
    for name in names[1:]:
        first.model_copy(update={"name": name}).store(backups.store, None)
        Record(engine, backups.store.place, name).known(first.bytes, at=clock.now)
    for name in names[:2]:
        backups.store.write(f"{name}/verified.json", b'{"verified_at": "2026-01-01T12:00:00+00:00"}')
    backups.store.write("backup-20260101T000000Z/files/toc.dat", b"abandoned")
    backups.store.write("not-ours/manifest.seal", b"")

    clock.now += timedelta(days=29)
    backups.create()
    assert len(backups.list()) == 4
    clock.now += timedelta(days=2)
    newest = backups.create().name

    assert backups.list()[0].name == names[1]
    assert names[0] not in backups.store.names()
    assert names[2] not in backups.store.names()
    assert backups.list()[-1].name == newest
    assert "backup-20260101T000000Z" not in backups.store.names()
    assert "not-ours" in backups.store.names()
    removed = rows(engine, "SELECT name FROM backups WHERE state = 'removed' ORDER BY name")
    assert removed == [(names[0],), (names[2],)]


@pytest.mark.parametrize("position", [60, None], ids=["header", "middle"])
def test_whatever_is_changed_in_an_encrypted_file_it_cannot_be_decrypted(tmp_path: Path, position: int | None) -> None:
    cipher, plain, encrypted = Cipher([new_key()]), tmp_path / "plain", tmp_path / "encrypted"
    plain.write_bytes(bytes(range(256)) * 1000)
    cipher.encrypt(plain, encrypted)
    flip(encrypted, position)
    with pytest.raises(NightshiftError, match=r"^encrypted cannot be decrypted with NIGHTSHIFT_BACKUP_KEY: "):
        cipher.decrypt(encrypted, tmp_path / "again")
    with pytest.raises(OSError, match="os error"):
        cipher.decrypt(tmp_path / "nowhere", tmp_path / "again")


def test_a_changed_encrypted_file_is_named_even_where_its_sum_fits(
    own: str, servers: ServerUrls, engine: Engine, tmp_path: Path
) -> None:
    backups = backups_of(own, backup_settings(tmp_path, backup_key=new_key()))
    manifest = backups.create()
    largest = max(manifest.files, key=lambda file: file.bytes)
    path = Path(backups.store.place) / manifest.name / largest.name
    flip(path, 200)
    with pytest.raises(NightshiftError, match=f"{largest.name} was changed"):
        verify(backups, "latest", scratch_on(servers.database_url))
    assert scalar(engine, "SELECT verify_error FROM backups").endswith("it is damaged")

    fitting = largest.model_copy(update={"sha256": hashlib.sha256(path.read_bytes()).hexdigest()})
    files = tuple(fitting if file is largest else file for file in manifest.files)
    manifest.model_copy(update={"files": files}).store(backups.store, cipher_of(backups.settings))
    with pytest.raises(NightshiftError, match="cannot be decrypted"):
        verify(backups, "latest", scratch_on(servers.database_url))

    # It is removed by hand, as its runbook says: then it is not missed for ever.
    shutil.rmtree(path.parents[1])
    with pytest.raises(NightshiftError, match="there is no backup"):
        verify(backups, "latest", scratch_on(servers.database_url))
    assert scalar(engine, "SELECT state FROM backups") == "removed"
