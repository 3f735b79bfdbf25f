"""Which revision this code needs and which one a database has: what every process asks at its start.

Alembic is not imported: it costs a worker 10 MiB and a seventh of a second, and only `models.migrate` has use for it.
The names of the files are enough, `<revision>_<what>.py`, and their order is that of the revisions; a test compares
both with Alembic's own reading.
"""

from __future__ import annotations

from pathlib import Path

from sqlalchemy import Connection, Engine, text

from core.errors import DatabaseVersionError

SCRIPTS = Path(__file__).parent / "migrations"
_IS_MIGRATED = text("SELECT to_regclass('alembic_version') IS NOT NULL")
_REVISION = text("SELECT version_num FROM alembic_version")


def known_revisions() -> list[str]:
    """All revisions that this code knows, the oldest first."""
    return sorted(path.name.partition("_")[0] for path in (SCRIPTS / "versions").glob("[0-9]*_*.py"))


def head_revision() -> str:
    """The revision that this code works with."""
    known = known_revisions()
    if not known:
        raise DatabaseVersionError(f"no migrations found in {SCRIPTS}: the installation is incomplete")
    return known[-1]


def current_revision(connection: Connection) -> str | None:
    """The revision of the database, None if it was never migrated."""
    if not connection.execute(_IS_MIGRATED).scalar_one():
        return None
    found: str | None = connection.execute(_REVISION).scalar_one_or_none()
    return found


def check_schema(engine: Engine, *, newer: bool = False) -> None:
    """Raise unless the database has exactly the schema of this code; with `newer`, also one that came after it.

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
    if newer and current not in known_revisions():
        return
    refuse_newer(current)
    raise DatabaseVersionError(
        f"the database is at revision {current}, this code needs {head}: run `nightshift db migrate`"
    )


def refuse_newer(revision: str | None) -> None:
    """Raise DatabaseVersionError if a database at `revision` is newer than this code."""
    if revision is not None and revision not in known_revisions():
        raise DatabaseVersionError(
            f"the database is at revision {revision}, which this code does not know: upgrade Nightshift"
        )
