"""Migrations: the database is brought to this code's revision in one transaction, or stays as it was.

Two processes that migrate at once wait for each other. Alembic is configured here, so that it works from any
directory and prints nothing.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, delete, insert, text

from core.errors import DatabaseVersionError
from engine.strategies import strategies
from models.partitions import is_partition
from models.tables import Strategy

SCRIPTS = Path(__file__).parent / "migrations"
# Any constant of our own: it keeps two processes from migrating at the same time.
MIGRATION_LOCK = 0x4E53_4D49_4752


def _include_name(name: str | None, kind: str, _parents: object) -> bool:
    return not (kind == "table" and name is not None and is_partition(name))


# How models and database are compared; the test that they agree uses the same.
AUTOGENERATE: dict[str, Any] = {
    "compare_type": True,
    "compare_server_default": True,
    "include_name": _include_name,
}


def alembic_config(connection: Connection | None = None) -> Config:
    """Alembic's configuration, on `connection`; without one it can only read the scripts."""
    config = Config()
    # Config interpolates %, which a directory's name may contain.
    config.set_main_option("script_location", str(SCRIPTS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    return config


def head_revision() -> str:
    """The revision that this code works with."""
    head = ScriptDirectory.from_config(alembic_config()).get_current_head()
    if head is None:
        raise DatabaseVersionError(f"no migrations found in {SCRIPTS}: the installation is incomplete")
    return head


def current_revision(connection: Connection) -> str | None:
    """The revision of the database, None if it was never migrated."""
    return MigrationContext.configure(connection).get_current_revision()


def _known_revisions() -> set[str]:
    return {script.revision for script in ScriptDirectory.from_config(alembic_config()).walk_revisions()}


def migrate(engine: Engine) -> tuple[str | None, str]:
    """Bring the database to the head revision and `strategies` to the registry; (revision before, revision after).

    Raises:
        DatabaseVersionError: the database is newer than this code.
    """
    with engine.begin() as connection:
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": MIGRATION_LOCK})
        before = current_revision(connection)
        _refuse_newer(before)
        command.upgrade(alembic_config(connection), "head")
        _replace_strategies(connection)
    return before, head_revision()


def downgrade(engine: Engine, revision: str = "base") -> None:
    """Take the database back to `revision`. With 'base', everything in it is dropped."""
    with engine.begin() as connection:
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": MIGRATION_LOCK})
        command.downgrade(alembic_config(connection), revision)


def _replace_strategies(connection: Connection) -> None:
    rows = [
        {"code": strategy.code, "name": strategy.name, "param_names": list(strategy.Parameters.model_fields)}
        for strategy in strategies().values()
    ]
    # Deleting first lets two strategies swap names, which the unique name would forbid to an update in place.
    connection.execute(delete(Strategy))
    connection.execute(insert(Strategy), rows)


def check_schema(engine: Engine) -> None:
    """Raise unless the database has exactly the schema of this code.

    Raises:
        DatabaseVersionError: it is empty, older, or newer (a revision that this code does not know).
    """
    with engine.connect() as connection:
        current = current_revision(connection)
    head = head_revision()
    if current == head:
        return
    if current is None:
        raise DatabaseVersionError("the database has no Nightshift tables: run `nightshift db migrate`")
    _refuse_newer(current)
    raise DatabaseVersionError(
        f"the database is at revision {current}, this code needs {head}: run `nightshift db migrate`"
    )


def _refuse_newer(current: str | None) -> None:
    if current is not None and current not in _known_revisions():
        raise DatabaseVersionError(
            f"the database is at revision {current}, which this code does not know: upgrade Nightshift"
        )
