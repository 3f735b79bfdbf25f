"""The digest of a day, recomputed from the table.

It is what `runs.digest` of the day's night says, unless the day was done again: a run tells what it wrote then, and is
not rewritten. So the digest comes with the runs that have done the day again since.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import date

import numpy as np
import sqlalchemy
from sqlalchemy import Engine, text

from core.clock import day_number
from core.database import driver_connection
from core.errors import UsageError
from engine.digest import combine_digests, digest_rows
from models.column_reader import gathered, read_groups
from models.copy_codec import INT4, INT8, Column
from services.copying import copy_out
from services.locks import Connection

_COLUMNS = (
    Column("user_id", INT8),
    Column("simulation_id", INT8),
    Column("cash", INT8),
    Column("equity", INT8),
    Column("asset_ids", INT4, is_array=True),
    Column("quantities", INT8, is_array=True),
    Column("cost_basis", INT8, is_array=True),
)
_CHUNK_ROWS = 50_000
# A run goes through its day or, where a night was under way, through that of the night.
_REPROCESSED_BY = text(
    """
    SELECT r.id FROM runs r
    WHERE r.kind = 'reprocess' AND r.first_day <= :day
      AND ((r.summary->>'batches_done')::bigint > 0
          OR EXISTS (SELECT FROM batches b WHERE b.run_id = r.id AND b.status = 'done'))
      AND (r.day >= :day OR r.finished_at IS NULL OR r.finished_at >= (
          SELECT min(n.started_at) FROM runs n WHERE n.kind = 'nightly' AND n.day >= :day
      ))
    ORDER BY r.id
    """
)


@dataclass(frozen=True, slots=True)
class DayDigest:
    """A day's rows and their digest, 16 hexadecimal digits.

    `reprocessed_by`: the runs that may have replaced rows of the day since its night began, in order. They are how the
    rows came about, and no part of what is compared.
    """

    day: date
    digest: str
    rows: int
    reprocessed_by: tuple[int, ...] = field(default=(), compare=False)


def digest_of_day(engine: Engine, day: date | None = None) -> DayDigest:
    """The digest of `day`, or of the newest day that has rows. Memory does not grow with the number of rows.

    Raises:
        UsageError: no day has rows.
    """
    with engine.connect().execution_options(isolation_level="REPEATABLE READ") as connection:
        connection.execute(text("SELECT 1"))  # begins the transaction in which all chunks see the same rows
        day = day or _newest_day(driver_connection(connection))
        if day is None:
            raise UsageError("there are no portfolio days yet: run a night first")
        again = connection.execute(_REPROCESSED_BY, {"day": day}).scalars()
        return replace(day_digest(connection, day), reprocessed_by=tuple(again))


def day_digest(connection: sqlalchemy.Connection, day: date) -> DayDigest:
    """The digest of `day`, without the runs, as the transaction of `connection` sees it: it must see one snapshot."""
    raw = driver_connection(connection)
    digest, rows, after = 0, 0, (-1, -1)
    while True:
        part, count, after = _digest_chunk(raw, day, after)
        if count == 0:
            return DayDigest(day, f"{digest:016x}", rows)
        digest, rows = combine_digests(digest, part), rows + count


def _newest_day(connection: Connection) -> date | None:
    # Partition by partition, newest first: max(day) over the parent would read every row of every day.
    names = connection.execute(
        "SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid"
        " WHERE i.inhparent = 'portfolio_days'::regclass ORDER BY c.relname DESC"
    ).fetchall()
    for (name,) in names:
        row = connection.execute(f"SELECT day FROM {name} LIMIT 1".encode()).fetchone()  # noqa: S608 (our own table)
        if row is not None and isinstance(row[0], date):
            return row[0]
    return None


def _digest_chunk(connection: Connection, day: date, after: tuple[int, int]) -> tuple[int, int, tuple[int, int]]:
    """The next rows in key order: their digest, their number, and the last key."""
    query = (
        f"SELECT {gathered(_COLUMNS)} FROM (SELECT * FROM portfolio_days WHERE day = '{day}'"  # noqa: S608 (a date and integers)
        f" AND (user_id, simulation_id) > ({after[0]}, {after[1]})"
        f" ORDER BY user_id, simulation_id LIMIT {_CHUNK_ROWS}) AS chunk GROUP BY cardinality(asset_ids)"
    )
    groups = read_groups(copy_out(connection, query), _COLUMNS)
    digest, count = 0, 0
    for group in groups:
        values = group.values
        key = (values["user_id"], values["simulation_id"], day_number(day))
        positions = (values["asset_ids"], values["quantities"], values["cost_basis"])
        digest = combine_digests(digest, digest_rows(key, values["cash"], values["equity"], positions))
        count += len(values["user_id"])
        last = np.lexsort((values["simulation_id"], values["user_id"]))[-1]
        after = max(after, (int(values["user_id"][last]), int(values["simulation_id"][last])))
    return digest, count, after
