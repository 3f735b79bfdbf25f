"""Upgrades: old workers work on the new schema, new ones refuse the old, and no migration stands in a night's way."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest
from sqlalchemy import Engine, text

import models.migrate
import models.revisions
from core.database import make_engine
from core.errors import DatabaseVersionError, NightshiftError
from core.queues import Queue
from models.migrate import Patience, downgrade, migrate, steps_after
from models.revisions import check_schema, head_revision
from schedules.beat import TICK
from services.digest import digest_of_day
from tests.support.cli import Shell, environment
from tests.support.database import new_database
from tests.support.nights import FIRST_NIGHT, LAST_SAMPLE_DAY, Night, change, rows, scalar, settings
from tests.support.polling import wait_until
from tests.support.previous import previous
from tests.support.workers import OFFSET
from workers.app import make_app
from workers.embedded import ServerUrls

LAST_NIGHT = FIRST_NIGHT + timedelta(days=2)
BRIEF = Patience(lock=timedelta(milliseconds=200), pause=timedelta(milliseconds=100), wait=timedelta(seconds=60))
IMPATIENT = Patience(lock=timedelta(milliseconds=100), pause=timedelta(milliseconds=50), wait=timedelta(0))
ADD_COLUMN = "op.execute('ALTER TABLE runs ADD COLUMN test_added int')"
BUILD_INDEX = (
    "op.execute('CREATE TABLE test_first ()')\n"
    "    with op.get_context().autocommit_block():\n"
    "        op.execute('CREATE INDEX CONCURRENTLY IF NOT EXISTS ix_test ON batches (seq)')"
)


def revision_of(engine: Engine) -> str:
    return str(scalar(engine, "SELECT version_num FROM alembic_version"))


@pytest.fixture
def next_version(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Bodies of two more migrations, 9998 and 9999, that the code of this test has."""
    directory = tmp_path / "migrations"
    shutil.copytree(models.revisions.SCRIPTS, directory)
    before, ours = head_revision(), models.revisions.SCRIPTS
    for revision, down, body in (("9998", before, BUILD_INDEX), ("9999", "9998", ADD_COLUMN)):
        (directory / "versions" / f"{revision}_test.py").write_text(
            f'"""Test: what {revision} brings.\n\nMore."""\nfrom alembic import op\n'
            f"revision = {revision!r}\ndown_revision = {down!r}\ndef upgrade():\n    {body}\n"
        )
    monkeypatch.setattr(models.revisions, "SCRIPTS", directory)
    return [before, str(ours)]


@contextmanager
def old_worker(env: dict[str, str], tree: Path, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """One group of the old code for all queues."""
    command = [
        sys.executable, "-m", "celery", "-q", "-A", "workers.app", "worker", "-n", "old@%h", "-c", "2",
        "-Q", ",".join(Queue), "--without-mingle", "--without-gossip", "--loglevel", "info",
    ]  # fmt: skip
    with log.open("wb") as output:
        process = subprocess.Popen(command, env=env, cwd=tree, stdout=output, stderr=output, start_new_session=True)
        try:
            yield process
        finally:
            # It would finish its messages first, and nobody needs them any more.
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def test_workers_of_the_previous_commit_do_a_night_on_the_new_schema(
    fresh: Engine, servers: ServerUrls, world: str, redis_url: str, tmp_path: Path
) -> None:
    old = previous(tmp_path)
    night = Night(fresh, settings(200))
    night.plan(LAST_NIGHT, each=True)
    url = fresh.url.render_as_string(hide_password=False)
    # The morning after, so that no other night is due.
    morning = OFFSET - (LAST_SAMPLE_DAY - LAST_NIGHT)
    offset = settings(clock_offset=morning).model_dump(mode="json")["clock_offset"]
    old_settings = old.environment(
        home=tmp_path / "home", database_url=url, redis_url=redis_url, clock_offset=offset,
        tick_seconds=1, overdue_seconds=3,
    )  # fmt: skip
    open_runs = "SELECT count(*) FROM runs WHERE day <= :last AND status <> 'done'"
    log = tmp_path / "old.log"
    with old_worker(old_settings, old.tree, log) as process, make_app(night.settings, redis_url) as app:

        def done() -> bool:
            assert process.poll() is None, log.read_text()
            # Beat's message, which is all that beat does.
            if not app.control.ping(timeout=0.2):
                return False
            app.send_task(TICK, queue=Queue.CONTROL.value, expires=5)
            return bool(scalar(fresh, open_runs, last=LAST_NIGHT) == 0)

        wait_until(done, seconds=90, what="the end of the nights")
    with new_database(servers.database_url, "night_by_new_workers", template=world) as reference:
        engine = make_engine(reference)
        Night(engine, settings(1000)).run(LAST_NIGHT, each=True)
        expected = digest_of_day(engine, LAST_NIGHT)
        engine.dispose()
    assert expected.rows > 500
    assert digest_of_day(fresh, LAST_NIGHT) == expected


def test_a_worker_refuses_an_older_schema_and_works_on_a_newer_one(
    engine: Engine, redis_url: str, tmp_path: Path
) -> None:
    steps = steps_after(None)
    downgrade(engine, steps[-2].revision)
    url = engine.url.render_as_string(hide_password=False)
    now = environment(tmp_path, database_url=url, redis_url=redis_url)
    command = [sys.executable, "-m", "celery", "-q", "-A", "workers.app", "worker", "-Q", "control", "-c", "1"]
    refused = subprocess.run(command, env=now, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert refused.returncode == 1
    assert f"nightshift: the database is at revision {steps[-2].revision}, this code needs {head_revision()}: run" in (
        refused.stderr
    )

    change(engine, "UPDATE alembic_version SET version_num = '9999'")
    check_schema(engine, newer=True)
    with pytest.raises(DatabaseVersionError, match="which this code does not know"):
        check_schema(engine)


def test_a_migration_that_others_keep_from_its_lock_keeps_nobody_waiting(
    engine: Engine, next_version: list[str]
) -> None:
    told: list[str] = []
    write = (
        "INSERT INTO runs (kind, first_day, day, status, scope, requested_by, batch_users) VALUES"
        " ('nightly', :day, :day, 'done', '{}', 'test', 1)"
    )
    with ThreadPoolExecutor(1) as pool, engine.connect() as holder, engine.connect() as other:
        # A night's transaction, which lasts.
        holder.execute(text("LOCK TABLE runs IN ROW EXCLUSIVE MODE"))
        waiting = pool.submit(migrate, engine, patience=BRIEF, tell=told.append)
        wait_until(lambda: any("they go first" in line for line in told), what="the first time that it gave way")
        for number in range(5):
            # Behind a migration that waited on, each of these would wait as long as the holder holds its lock.
            other.execute(text("SET LOCAL lock_timeout = '10s'"))
            other.execute(text(write), {"day": FIRST_NIGHT + timedelta(days=number)})
            other.commit()
        assert not waiting.done()
        holder.rollback()
        assert waiting.result(60) == (next_version[0], "9999")
    assert [line for line in told if "go first" not in line] == [
        "9998: Test: what 9998 brings.", "9999: Test: what 9999 brings.",
    ]  # fmt: skip
    assert rows(engine, "SELECT indisvalid FROM pg_index WHERE indexrelid = 'ix_test'::regclass") == [(True,)]


def test_a_migration_that_gives_up_leaves_whole_revisions(engine: Engine, next_version: list[str]) -> None:
    with engine.connect() as holder:
        holder.execute(text("LOCK TABLE runs IN ROW EXCLUSIVE MODE"))
        with pytest.raises(
            NightshiftError, match=r"^9999: others held its locks .* run `nightshift db migrate` again$"
        ):
            migrate(engine, patience=IMPATIENT)
    assert next_version[0] < revision_of(engine) == "9998"
    assert migrate(engine) == ("9998", "9999")


def test_a_second_migration_waits_for_the_first_and_says_so(engine: Engine, next_version: list[str]) -> None:
    key = {"key": models.migrate.MIGRATION_LOCK}
    told: list[str] = []
    with engine.connect() as first, ThreadPoolExecutor(1) as pool:
        first.execute(text("SELECT pg_advisory_lock(:key)"), key)
        with pytest.raises(NightshiftError, match=r"^another process still migrates the database"):
            migrate(engine, patience=IMPATIENT)
        second = pool.submit(migrate, engine, patience=BRIEF, tell=told.append)
        wait_until(lambda: bool(told), what="the wait")
        assert revision_of(engine) == next_version[0]
        first.execute(text("SELECT pg_advisory_unlock(:key)"), key)
        first.commit()
        assert second.result(60) == (next_version[0], "9999")
    assert told[0] == "another process migrates the database: waiting, 1 min at most"


@pytest.mark.parametrize("beside", [False, True])
def test_a_night_and_a_migration_at_once(fresh: Engine, next_version: list[str], beside: bool) -> None:
    night = Night(fresh, settings(200))
    night.plan(FIRST_NIGHT)
    night.publish()
    patience = Patience(BRIEF.lock, BRIEF.pause, BRIEF.wait, night_first=not beside)
    told: list[str] = []
    with ThreadPoolExecutor(1) as pool:
        if not beside:
            hurried = Patience(BRIEF.lock, BRIEF.pause, timedelta(0), night_first=True)
            with pytest.raises(NightshiftError, match=r"^a night is still running; --now migrates beside it"):
                migrate(fresh, patience=hurried)
        upgrade = pool.submit(partial(migrate, fresh, patience=patience, tell=told.append))
        if not beside:
            wait_until(lambda: "a night is running: waiting, 1 min at most" in told, what="the wait")
            assert revision_of(fresh) == next_version[0]
        outcomes = night.drain()
        assert upgrade.result(60) == (next_version[0], "9999")
    assert len(outcomes) == scalar(fresh, "SELECT count(*) FROM batches WHERE status = 'done'")
    assert rows(fresh, "SELECT status FROM runs") == [("done",)]
    digest = scalar(fresh, "SELECT digest FROM runs")
    assert digest_of_day(fresh, FIRST_NIGHT).digest == f"{digest % 2**64:016x}"


def test_the_command_says_what_it_will_do_and_does_it(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], next_version: list[str]
) -> None:
    monkeypatch.setenv("NIGHTSHIFT_DATABASE_URL", engine.url.render_as_string(hide_password=False))
    monkeypatch.setenv("NIGHTSHIFT_REDIS_URL", "redis://127.0.0.1:1/0")
    shell = Shell(capsys)
    planned = shell.ok("db", "migrate", "--dry-run")
    assert "9998       Test: what 9998 brings." in planned.out
    assert "2 revisions to come; nothing was done" in planned.err
    assert revision_of(engine) == next_version[0]

    done = shell.ok("db", "migrate", "--now", "--wait-minutes", 1)
    assert "9999: Test: what 9999 brings.\n" in done.err
    assert f"at revision 9999 (was: {next_version[0]})" in done.err
    again = shell.ok("db", "migrate", "--dry-run")
    assert (again.out, "0 revisions to come" in again.err) == ("", True)

    monkeypatch.setattr(models.revisions, "SCRIPTS", Path(next_version[1]))
    assert "revision 9999, which this code does not know: upgrade" in shell.refused("db", "migrate", code=1)
