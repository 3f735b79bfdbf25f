"""What is in a database, in so few numbers that two databases can be compared: all rows of all tables, in one snapshot.

Of each table, partitions by themselves, the rows and the sum of a hash of each whole row, which PostgreSQL computes
where the rows lie: reading a table costs less than dumping it. The hash is the one of hash partitions, so it is the
same on every machine and in every version. For the newest days also the digest that `nightshift db digest` shows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import date

from sqlalchemy import Connection, Engine, text

from core.errors import NightshiftError
from models.revisions import current_revision
from services.backup_manifest import Contents, DayFacts, TableFacts
from services.digest import day_digest

# The table of backups is no part of them: the row of the very one that is being made would be in it.
LEFT_OUT = "backups"
DIGEST_DAYS = 3

Progress = Callable[[str, int, int], None]
"""Called with what is done, how much of it, and how much there is."""

_TABLES = text(
    """
    SELECT c.oid::regclass::text FROM pg_class c
    WHERE c.relkind = 'r' AND c.relnamespace = 'public'::regnamespace AND c.relname <> :left_out
    ORDER BY pg_relation_size(c.oid) DESC, c.relname
    """
)
_GRANTEES = text(
    """
    SELECT DISTINCT r.rolname FROM pg_class c, aclexplode(c.relacl) a JOIN pg_roles r ON r.oid = a.grantee
    WHERE c.relnamespace = 'public'::regnamespace ORDER BY r.rolname
    """
)
_NIGHT = text("SELECT max(day) FROM runs WHERE kind = 'nightly' AND status = 'done'")
_DAYS = text(
    """
    SELECT c.oid::regclass::text FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
    WHERE i.inhparent = 'portfolio_days'::regclass AND c.relname ~ '_[0-9]{8}$' ORDER BY c.relname DESC
    """
)


@contextmanager
def exported_snapshot(engine: Engine) -> Iterator[str]:
    """A snapshot that other sessions and pg_dump can look at, for as long as the block."""
    with engine.connect().execution_options(isolation_level="REPEATABLE READ") as connection:
        yield str(connection.execute(text("SELECT pg_export_snapshot()")).scalar_one())


def read_contents(engine: Engine, snapshot: str | None, *, jobs: int, progress: Progress) -> Contents:
    """All of them, `jobs` tables at once; in `snapshot`, else as they are now, while nobody writes.

    Raises:
        NightshiftError: there are no Nightshift tables.
    """
    with _looking(engine, snapshot) as connection:
        migration = current_revision(connection)
        if migration is None:
            raise NightshiftError("the database has no Nightshift tables: there is nothing to back up")
        tables = connection.execute(_TABLES, {"left_out": LEFT_OUT}).scalars().all()
        version = int(connection.execute(text("SHOW server_version_num")).scalar_one())
        night = connection.execute(_NIGHT).scalar_one()
        grantees = tuple(connection.execute(_GRANTEES).scalars())
        days = _newest_days(connection)

    def count(table: str) -> TableFacts:
        with _looking(engine, snapshot) as connection:
            return _table_facts(connection, table)

    def digest(day: date) -> DayFacts:
        with _looking(engine, snapshot) as connection:
            return _day_facts(connection, day)

    with ThreadPoolExecutor(jobs) as pool:
        total = len(tables) + len(days)
        digests = pool.map(digest, days)
        facts = []
        for done, fact in enumerate(pool.map(count, tables), start=1):
            facts.append(fact)
            progress("counting rows", done, total)
        return Contents(
            migration=migration,
            server_version=version,
            night=night,
            grantees=grantees,
            tables=tuple(sorted(facts, key=lambda fact: fact.name)),
            days=tuple(digests),
        )


def read_days(engine: Engine, days: Sequence[date]) -> tuple[DayFacts, ...]:
    """The digests of `days`, as they are now."""
    with _looking(engine, None) as connection:
        return tuple(_day_facts(connection, day) for day in days)


def differences(wanted: Contents, found: Contents) -> list[str]:
    """What of `found` is not as in `wanted`, a line each; empty: they are equal."""
    lines = []
    if wanted.migration != found.migration:
        lines.append(f"the schema is at revision {found.migration} instead of {wanted.migration}")
    tables = {table.name: table for table in found.tables}
    for table in wanted.tables:
        other = tables.pop(table.name, None)
        if other is None:
            lines.append(f"table {table.name} is missing")
        elif other.rows != table.rows:
            lines.append(f"table {table.name} has {other.rows:,} rows instead of {table.rows:,}")
        elif other.checksum != table.checksum:
            lines.append(f"table {table.name} has other rows")
    lines += [f"there is a table {name} more" for name in tables]
    return lines + day_differences(wanted.days, found.days)


def day_differences(wanted: Sequence[DayFacts], found: Sequence[DayFacts]) -> list[str]:
    """The days of which the digests differ."""
    digests = {day.day: day for day in found}
    return [f"the digest of {day.day} is another" for day in wanted if digests.get(day.day) != day]


@contextmanager
def _looking(engine: Engine, snapshot: str | None) -> Iterator[Connection]:
    with engine.connect().execution_options(isolation_level="REPEATABLE READ") as connection:
        if snapshot is not None:
            # It takes no parameter; PostgreSQL itself made the name.
            connection.execute(text(f"SET TRANSACTION SNAPSHOT '{snapshot}'"))
        yield connection


def _table_facts(connection: Connection, table: str) -> TableFacts:
    # The table's name comes from the catalogue, quoted. A whole row is hashed, so the row has a name of its own.
    query = f"SELECT count(*), coalesce(sum(hash_record_extended(whole_row, 0)), 0) FROM ONLY {table} AS whole_row"  # noqa: S608
    rows, total = connection.execute(text(query)).one()
    return TableFacts(name=table, rows=rows, checksum=f"{int(total) % 2**64:016x}")


def _day_facts(connection: Connection, day: date) -> DayFacts:
    found = day_digest(connection, day)
    return DayFacts(day=day, digest=found.digest, rows=found.rows)


def _newest_days(connection: Connection) -> list[date]:
    days: list[date] = []
    for partition in connection.execute(_DAYS).scalars():
        day = connection.execute(text(f"SELECT day FROM {partition} LIMIT 1")).scalar_one_or_none()  # noqa: S608 - as above
        if day is not None:
            days.append(day)
        if len(days) == DIGEST_DAYS:
            break
    return days
