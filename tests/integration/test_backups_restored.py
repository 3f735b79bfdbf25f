"""A restored database is equal, has its name only when it is, and what was there before is set aside."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import psycopg
import pytest
from sqlalchemy import Engine

import models.revisions
from core.database import make_engine
from core.errors import NightshiftError
from models.revisions import head_revision
from services.backup_cipher import new_key
from services.backup_databases import Server
from services.backup_keeping import keep_backups
from services.backup_manifest import Manifest
from services.backup_restore import restore
from services.backup_store import NAME_FORMAT
from services.backups import Backups
from services.digest import DayDigest, digest_of_day
from tests.support.backups import Clock, backup_settings, backups_of, few_nights, flip, scratch_on
from tests.support.cli import Shell
from tests.support.database import execute, new_database
from tests.support.exporter import exporter, scrape
from tests.support.nights import LAST_SAMPLE_DAY, NOW, Night, rows, scalar, settings
from workers.backup_scratch import scratch_of
from workers.embedded import ServerUrls


@pytest.fixture(scope="module")
def source(servers: ServerUrls) -> Iterator[str]:
    with new_database(servers.database_url, "restore_source") as url:
        engine = make_engine(url)
        few_nights(engine)
        engine.dispose()
        yield url


@pytest.fixture(scope="module")
def made(source: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Backups, Manifest, DayDigest]:
    backups = backups_of(source, backup_settings(tmp_path_factory.mktemp("made")))
    manifest = backups.create()
    engine = make_engine(source)
    digest = digest_of_day(engine)
    engine.dispose()
    return backups, manifest, digest


@pytest.fixture
def target(servers: ServerUrls) -> Iterator[str]:
    """An empty database, and whatever was set aside for it is dropped in the end."""
    name = "restore_target"
    with new_database(servers.database_url, name, template="template0") as url:
        yield url
    with psycopg.connect(servers.database_url, autocommit=True) as connection:
        for (aside,) in connection.execute(
            "SELECT datname FROM pg_database WHERE datname LIKE %s", [f"{name}\\_%"]
        ).fetchall():
            connection.execute(f'DROP DATABASE "{aside}" WITH (FORCE)')


@pytest.fixture
def filled(servers: ServerUrls, source: str, target: str) -> str:
    """The same with the rows of the source, and without its backups."""
    execute(servers.database_url, "DROP DATABASE restore_target")
    execute(servers.database_url, f"CREATE DATABASE restore_target TEMPLATE {source.rsplit('/', 1)[1]}")
    execute(target, "DELETE FROM backups")
    return target


def other(made: Backups, url: str) -> Backups:
    return backups_of(url, made.settings, Clock())


def databases(url: str) -> set[str]:
    with psycopg.connect(url.rsplit("/", 1)[0] + "/postgres") as connection:
        return {name for (name,) in connection.execute("SELECT datname FROM pg_database").fetchall()}


def test_destroyed_restored_equal_and_the_nights_go_on(
    made: tuple[Backups, Manifest, DayDigest], target: str, servers: ServerUrls
) -> None:
    backups, manifest, digest = made
    before = databases(servers.database_url)

    restored = restore(other(backups, target), "latest", force=False)

    assert (restored.manifest, restored.kept_as, restored.migrated_to) == (manifest, None, head_revision())
    assert databases(servers.database_url) == before
    engine = make_engine(target)
    assert digest_of_day(engine) == digest
    assert rows(engine, "SELECT name, state FROM backups") == [(manifest.name, "done")]
    # Identities go on where they were, and so do the nights.
    Night(engine, settings(500), now=NOW + timedelta(days=1)).run(LAST_SAMPLE_DAY + timedelta(days=1))
    assert scalar(engine, "SELECT count(DISTINCT id) FROM runs WHERE status = 'done'") == 2
    assert digest_of_day(engine).day == LAST_SAMPLE_DAY + timedelta(days=1)
    engine.dispose()


def test_what_is_there_is_refused_and_with_force_set_aside(
    made: tuple[Backups, Manifest, DayDigest], target: str
) -> None:
    backups, _, digest = made
    with psycopg.connect(target) as user:
        user.execute("CREATE TABLE precious AS SELECT 42 AS n")
        user.commit()
        with pytest.raises(NightshiftError, match=r"^the database restore_target is not empty: with --force"):
            restore(other(backups, target), "latest", force=False)

        restored = restore(other(backups, target), "latest", force=True)

        with pytest.raises(psycopg.OperationalError):
            user.execute("SELECT 1")
    assert restored.kept_as is not None
    with psycopg.connect(target.replace("restore_target", restored.kept_as)) as aside:
        assert aside.execute("SELECT n FROM precious").fetchone() == (42,)
    engine = make_engine(target)
    assert digest_of_day(engine) == digest
    engine.dispose()

    execute(target, "DROP SCHEMA public CASCADE")
    execute(target, "CREATE SCHEMA public")
    with psycopg.connect(target), pytest.raises(NightshiftError, match=r"^1 other sessions use the database"):
        restore(other(backups, target), "latest", force=False)


def test_a_restore_that_fails_changes_nothing(
    made: tuple[Backups, Manifest, DayDigest], target: str, servers: ServerUrls, tmp_path: Path
) -> None:
    backups, manifest, _ = made
    shutil.copytree(backups.store.place, tmp_path / "store")
    damaged = backups_of(target, backup_settings(tmp_path))
    execute(target, "CREATE TABLE precious AS SELECT 42 AS n")
    before = databases(servers.database_url)
    directory = tmp_path / "store" / manifest.name

    flip(directory / manifest.files[1].name)
    with pytest.raises(NightshiftError, match=f"{manifest.files[1].name} was changed"):
        restore(damaged, "latest", force=True)
    flip(directory / manifest.files[1].name)

    # Whole files, but other rows than it says: found when it is restored already.
    tables = [table.model_copy(update={"checksum": "f" * 16}) for table in manifest.contents.tables]
    contents = manifest.contents.model_copy(update={"tables": tuple(tables)})
    manifest.model_copy(update={"contents": contents}).store(damaged.store, None)
    with pytest.raises(NightshiftError, match=r"is not what was backed up: .* and \d+ more$"):
        restore(damaged, "latest", force=True)

    assert databases(servers.database_url) == before
    with psycopg.connect(target) as connection:
        assert connection.execute("SELECT n FROM precious").fetchone() == (42,)


def test_an_older_backup_is_brought_to_this_schema(
    made: tuple[Backups, Manifest, DayDigest], target: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backups, manifest, digest = made
    before = head_revision()
    scripts = tmp_path / "migrations"
    shutil.copytree(models.revisions.SCRIPTS, scripts)
    (scripts / "versions" / "9999_test.py").write_text(
        f"from alembic import op\nrevision = '9999'\ndown_revision = {before!r}\n"
        "def upgrade():\n    op.execute('CREATE TABLE newer ()')\n"
    )
    monkeypatch.setattr(models.revisions, "SCRIPTS", scripts)

    restored = restore(other(backups, target), manifest.name, force=False)

    assert (restored.manifest.contents.migration, restored.migrated_to) == (before, "9999")
    engine = make_engine(target)
    assert scalar(engine, "SELECT count(*) FROM newer") == 0
    assert digest_of_day(engine) == digest
    engine.dispose()


def test_by_themselves_they_are_made_and_verified_and_the_metrics_say_so(
    filled: str, servers: ServerUrls, redis_url: str, tmp_path: Path
) -> None:
    engine = make_engine(filled)
    clock = Clock()
    chosen = backup_settings(tmp_path)
    backups = backups_of(filled, chosen, clock)
    scratch = scratch_on(servers.database_url)

    first = keep_backups(backups, scratch)
    (listed,) = backups.list()
    assert first == f"{listed.name} made and verified"
    assert keep_backups(backups, scratch) == "nothing to do"
    assert scalar(engine, "SELECT last_result FROM beat_ticks WHERE name = 'backups'") == "nothing to do"
    samples = metrics(engine, redis_url, clock, chosen)
    assert samples["nightshift_backup_interval_seconds"] == 6 * 3600
    assert samples["nightshift_backup_last_success_timestamp_seconds"] == listed.taken_at.timestamp()
    assert samples["nightshift_backup_verified_timestamp_seconds"] == listed.taken_at.timestamp()
    assert samples["nightshift_backup_size_bytes"] == listed.bytes
    assert (samples["nightshift_backups_damaged"], samples["nightshift_backups_failed_total"]) == (0, 0)

    clock.now += timedelta(hours=6)
    wanting = backups_of(filled, chosen, clock)
    made_now = wanting.create()
    flip(Path(wanting.store.place) / made_now.name / made_now.files[0].name)
    with pytest.raises(NightshiftError, match="was changed"):
        keep_backups(wanting, scratch)
    assert "was changed" in scalar(engine, "SELECT last_error FROM beat_ticks WHERE name = 'backups'")
    # Nobody restores it again every five minutes.
    assert keep_backups(wanting, scratch) == "nothing to do"
    samples = metrics(engine, redis_url, clock, chosen)
    assert samples["nightshift_backups_damaged"] == 1
    assert samples["nightshift_backup_verified_timestamp_seconds"] == listed.taken_at.timestamp()
    assert samples["nightshift_backup_last_success_timestamp_seconds"] == made_now.taken_at.timestamp()
    assert "nightshift_backup_interval_seconds" not in metrics(engine, redis_url, clock, settings())
    engine.dispose()


def metrics(engine: Engine, redis_url: str, clock: Clock, chosen: object) -> dict[str, float]:
    samples = scrape(exporter(engine, redis_url, clock=clock, settings=chosen))  # type: ignore[arg-type]
    return {name: value for (name, labels), value in samples.items() if not labels and "backup" in name}


def test_the_command_line_from_create_to_restore(
    filled: str,
    servers: ServerUrls,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    shell = Shell(capsys)
    key = shell.ok("backup", "key").out.strip()
    assert key != new_key()
    for name, value in {
        "HOME": str(tmp_path), "DATABASE_URL": filled, "REDIS_URL": servers.redis_url, "BACKUP_KEY": key,
    }.items():  # fmt: skip
        monkeypatch.setenv(f"NIGHTSHIFT_{name}", value)

    assert "there is no backup" in shell.ok("backup", "list").err
    assert "`nightshift backup create` makes one" in shell.refused("backup", "verify", code=1)
    created = shell.ok("backup", "create", "--json").json
    assert created["name"].startswith("backup-")
    assert (created["encrypted"], created["night"]) == (True, LAST_SAMPLE_DAY.isoformat())
    # In an embedded server of its own, as on every machine.
    verified = shell.ok("backup", "verify", "--json").json
    assert verified["days"] == created["days"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["backup-work", "backups"]
    (listed,) = shell.ok("backup", "list", "--json").json
    assert listed["verified_at"] is not None
    assert listed["bytes"] == created["bytes"]
    assert created["name"] in shell.ok("backup", "list").out
    assert "is not empty: with --force" in shell.refused("backup", "restore", code=1)
    done = shell.ok("backup", "restore", created["name"], "--force")
    assert "is restored and equal to what was backed up" in done.err
    assert f"its last night is that of {LAST_SAMPLE_DAY}" in done.err
    assert "is kept as restore_target_before_" in done.err
    assert key not in done.err
    execute(filled, "DROP SCHEMA public CASCADE")
    execute(filled, "CREATE SCHEMA public")
    restored = shell.ok("backup", "restore", "--json").json
    assert (restored["kept_as"], restored["days"]) == (None, created["days"])
    assert "there is no backup nonsense in" in shell.refused("backup", "restore", "nonsense")


def test_a_name_of_the_same_second_is_numbered(target: str) -> None:
    server = Server(target)
    made = [server.create_beside("restored_now") for _ in range(2)]
    kept = [server.swap(name, "before_now") for name in made]
    assert [name.rsplit("restore_target_")[1] for name in (*made, *kept)] == [
        "restored_now", "restored_now_2", "before_now", "before_now_2",
    ]  # fmt: skip
    for name in kept:
        server.drop(name)
    server.close()


def test_a_scratch_database_beside_serves_where_no_embedded_server_can(
    made: tuple[Backups, Manifest, DayDigest], servers: ServerUrls, tmp_path: Path
) -> None:
    before = databases(servers.database_url)
    with scratch_of(settings(home=tmp_path), made[0].url)(19) as url:
        name = url.rsplit("/", 1)[1]
        assert name.startswith("restore_source_verify_")
        assert databases(servers.database_url) - before == {name}
    assert databases(servers.database_url) == before
    assert made[1].taken_at.strftime(NAME_FORMAT) == made[1].name
