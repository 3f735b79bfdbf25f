"""Our tables: the revision, the partitions of the coming days, indexes that an interrupted build left invalid."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from sqlalchemy import Engine, text

from core.errors import DatabaseVersionError
from models.migrate import steps_after
from models.revisions import current_revision, head_revision
from services.doctor_findings import Finding, Group, Severity
from services.partitions import missing_ahead

SCHEMA = Group("schema")
_MIGRATE = "run `nightshift db migrate`"
_INVALID = text(
    "SELECT indexrelid::regclass::text FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid"
    " WHERE NOT indisvalid AND c.relkind = 'i' ORDER BY 1"
)


def examine_revision(engine: Engine) -> Finding:
    """Whether the database has this version's schema."""
    with engine.connect() as connection:
        current = current_revision(connection)
    if current is None:
        return SCHEMA.error("revision", "the database has no Nightshift tables", _MIGRATE)
    try:
        steps = steps_after(current)
    except DatabaseVersionError:
        detail = f"revision {current}, which this version (revision {head_revision()}) does not know"
        return SCHEMA.error("revision", detail, "upgrade Nightshift")
    if steps:
        pending = ", ".join(step.revision for step in steps)
        return SCHEMA.error("revision", f"revision {current}; to come: {pending}", _MIGRATE)
    return SCHEMA.ok("revision", f"revision {current}, as this version needs it")


def examine_tables(engine: Engine, *, now: datetime) -> Iterator[Finding]:
    """Partitions and indexes of a database of this version's schema."""
    with engine.connect() as connection:
        missing = [partition.name for partition in missing_ahead(connection, now)]
        invalid = list(connection.execute(_INVALID).scalars())
    if missing:
        detail = f"{len(missing)} partitions of the coming days are missing, first {missing[0]}"
        yield SCHEMA.warning("partitions", detail, "`nightshift maintain` makes them; beat does by itself")
    else:
        yield SCHEMA.ok("partitions", "7 days and 2 months ahead are there")
    for name in invalid:
        yield SCHEMA.warning(
            "indexes",
            f"index {name} is not used: its concurrent build was interrupted",
            f"REINDEX INDEX CONCURRENTLY {name}",
        )


def is_current(finding: Finding) -> bool:
    """Whether `examine_revision` found a schema that can be read."""
    return finding.severity is Severity.OK
