"""The schema goes up, down and up again, and is what the models say."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from decimal import Decimal
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, func, insert, select, text
from sqlalchemy.exc import StatementError

import models.revisions
from core.database import make_engine
from core.errors import DatabaseVersionError
from models.migrate import AUTOGENERATE, alembic_config, downgrade, migrate
from models.partitions import ensure_day_partitions, ensure_month_partitions
from models.revisions import check_schema, current_revision, head_revision, known_revisions
from models.tables import Asset, Base, Close
from tests.support.catalog import Catalog, describe


@pytest.fixture
def empty(empty_database: str) -> Iterator[Engine]:
    engine = make_engine(empty_database)
    yield engine
    engine.dispose()


def catalog_of(engine: Engine) -> Catalog:
    with engine.connect() as connection:
        return describe(connection)


def test_up_down_and_up_again(empty: Engine, capfd: pytest.CaptureFixture[str]) -> None:
    untouched = catalog_of(empty)
    assert migrate(empty) == (None, head_revision())
    first = catalog_of(empty)
    assert len(first["relations"]) > 20
    with empty.begin() as connection:
        ensure_day_partitions(connection, [date(2024, 2, 29)])
        ensure_month_partitions(connection, "trades", [date(2024, 2, 29)])

    downgrade(empty)
    assert catalog_of(empty) == untouched

    assert migrate(empty) == (None, head_revision())
    assert catalog_of(empty) == first
    assert migrate(empty) == (head_revision(), head_revision())
    assert capfd.readouterr().out == ""


def test_models_and_migrations_agree(engine: Engine, empty: Engine) -> None:
    with engine.connect() as connection:
        ensure_day_partitions(connection, [date(2024, 1, 1)])
        ensure_month_partitions(connection, "price_ticks", [date(2024, 1, 1)])
        context = MigrationContext.configure(connection, opts=AUTOGENERATE)
        assert compare_metadata(context, Base.metadata) == []
    migrated = catalog_of(engine)
    views = {row[0] for row in migrated["relations"] if row[1] == "v"}
    Base.metadata.create_all(empty)
    for kind, built in catalog_of(empty).items():
        assert {row for row in migrated[kind] if row[0] not in views} == built, kind


def test_a_difference_between_models_and_database_is_seen(engine: Engine) -> None:
    statements = (
        "ALTER TABLE users ALTER notify DROP DEFAULT",
        "ALTER TABLE batches ALTER worker SET NOT NULL",
        "ALTER TABLE closes ALTER volume TYPE float8",
        "DROP INDEX ix_outbox_id_unsent",
    )
    for statement in statements:
        with engine.connect() as connection:
            connection.execute(text(statement))
            context = MigrationContext.configure(connection, opts=AUTOGENERATE)
            assert len(compare_metadata(context, Base.metadata)) == 1, statement


def test_the_files_names_say_what_alembic_reads_in_them(engine: Engine) -> None:
    scripts = ScriptDirectory.from_config(alembic_config())
    assert known_revisions() == [script.revision for script in scripts.walk_revisions()][::-1]
    assert head_revision() == scripts.get_current_head()
    with engine.connect() as connection:
        assert current_revision(connection) == MigrationContext.configure(connection).get_current_revision()


def test_two_processes_may_migrate_at_once(empty: Engine) -> None:
    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(migrate, [empty, empty]))
    assert sorted(str(before) for before, _ in results) == [head_revision(), "None"]


def with_migration(directory: Path, revision: str, body: str) -> Path:
    """A copy of the migrations with one more at the end."""
    shutil.copytree(models.revisions.SCRIPTS, directory)
    (directory / "versions" / f"{revision}_test.py").write_text(
        f"from alembic import op\nrevision = {revision!r}\ndown_revision = {head_revision()!r}\n"
        f"def upgrade():\n    {body}\n"
    )
    return directory


def test_a_database_of_another_version_is_named(empty: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DatabaseVersionError, match=r"^the database has no .*nightshift db migrate`$"):
        check_schema(empty)
    migrate(empty)
    check_schema(empty)

    before = head_revision()
    ours = models.revisions.SCRIPTS
    theirs = with_migration(tmp_path / "100% newer", "9999", "op.execute('CREATE TABLE newer ()')")
    monkeypatch.setattr(models.revisions, "SCRIPTS", theirs)
    with pytest.raises(DatabaseVersionError, match=r"this code needs 9999: run `nightshift db mig"):
        check_schema(empty)
    assert migrate(empty) == (before, "9999")

    monkeypatch.setattr(models.revisions, "SCRIPTS", ours)
    for call in (check_schema, migrate):
        with pytest.raises(DatabaseVersionError, match="revision 9999, which this code does not know: upgrade"):
            call(empty)


def test_a_migration_that_fails_changes_nothing(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, revision = catalog_of(engine), head_revision()
    body = "op.execute('CREATE TABLE half ()'); op.execute('SELECT 1 / 0')"
    monkeypatch.setattr(models.revisions, "SCRIPTS", with_migration(tmp_path / "failing", "9999", body))
    with pytest.raises(Exception, match="division by zero"):
        migrate(engine)
    assert catalog_of(engine) == before
    with engine.connect() as connection:
        assert current_revision(connection) == revision


def test_names_follow_the_convention(engine: Engine) -> None:
    names = {
        str(row[1])
        for kind in ("constraints", "indexes")
        for row in catalog_of(engine)[kind]
        if not str(row[2]).startswith("NOT NULL")
    }
    assert [name for name in sorted(names) if not re.match(r"(pk|fk|uq|ix|ck)_", name)] == []


def test_each_query_of_an_upsert_finds_its_index(engine: Engine) -> None:
    """ON CONFLICT is refused by PostgreSQL unless a unique index matches its columns and condition."""
    targets = [
        """runs (kind, first_day, day, status, scope, requested_by, batch_users)
        VALUES ('nightly', '2024-01-01', '2024-01-01', 'planned', '{}', 'beat', 1)
        ON CONFLICT (kind, day) WHERE kind = 'nightly' DO NOTHING""",
        """quarantine (user_id, day, reason, detail) VALUES (1, '2024-01-01', 'malformed', '')
        ON CONFLICT (user_id, simulation_id) WHERE cleared_at IS NULL DO NOTHING""",
        "outbox (kind, key, payload) VALUES ('mail', 'a', '{}') ON CONFLICT (key) DO NOTHING",
    ]
    with engine.begin() as connection:
        for target in targets:
            counts = [connection.execute(text(f"INSERT INTO {target}")).rowcount for _ in range(2)]
            assert counts == [1, 0], target


def test_amounts_are_exact_decimals_and_nothing_else_is_written(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(insert(Asset), [{"symbol": "A"}])
        row = {"asset_id": 1, "source": "test"}
        amounts = ["92233720368.54775807", "0.00000001"]
        for number, amount in enumerate(amounts, start=1):
            connection.execute(insert(Close).values(**row, day=date(2024, 1, number), close=Decimal(amount)))
        total, largest = connection.execute(select(func.sum(Close.close), func.max(Close.close))).one()
        assert (str(total), str(largest)) == ("92233720368.54775808", "92233720368.54775807")
        raw = connection.execute(text("SELECT close FROM closes ORDER BY day")).scalars().all()
        assert raw == [2**63 - 1, 1]
        with pytest.raises(StatementError, match="more than 8 decimals"):
            connection.execute(insert(Close).values(**row, day=date(2024, 1, 9), close=Decimal("0.123456789")))
