"""Partitions that will not change any more are frozen: no vacuum has to read them ever again.

Else one of all old partitions at once would come as a surprise after two hundred million transactions.
A day's partition is frozen once it is two days old, a month's two days after its end; again where work was done again.
VACUUM sleeps between its pages, takes no lock that a reader or a night waits for, and passes over a partition of which
somebody holds such a lock.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta

from sqlalchemy import Connection, Engine, text

from core.log import get_logger
from models.partitions import PARTITIONED, day_partition, month_partition, partition_of

log = get_logger(__name__)

_SETTLED = timedelta(days=2)
# As autovacuum does: about 8 MB/s of pages that it makes dirty.
_GENTLY = ("SET statement_timeout = 0", "SET vacuum_cost_delay = '2ms'", "SET vacuum_cost_limit = 400")


@dataclass(frozen=True, slots=True)
class Thawed:
    """A partition that is to be frozen, of so many bytes without its indexes."""

    name: str
    bytes: int


def partitions_to_freeze(connection: Connection, newest: date) -> list[Thawed]:
    """Those that ended two days before `newest`, the newest day that is done, and have rows that are not frozen."""
    rows = connection.execute(_UNFROZEN, {"parents": list(PARTITIONED)})
    return [Thawed(row.name, row.bytes) for row in rows if _ended(row.name) <= newest - _SETTLED + timedelta(days=1)]


def _ended(name: str) -> date:
    """The day after the last one of a partition."""
    known = partition_of(name)
    if known is None:
        return date.max
    parent, first = known
    partition = day_partition(first) if parent == "portfolio_days" else month_partition(parent, first)
    return date.fromisoformat(partition.upper[:10])


def freeze(engine: Engine, partition: Thawed) -> None:
    """Freeze and analyze it."""
    with engine.execution_options(isolation_level="AUTOCOMMIT").connect() as connection:
        try:
            for setting in _GENTLY:
                connection.execute(text(setting))
            connection.execute(text(f"VACUUM (FREEZE, ANALYZE, SKIP_LOCKED) {partition.name}"))
        finally:
            # The session goes back to the pool, and its settings with it.
            connection.invalidate()
    log.info("partition frozen", name=partition.name, bytes=partition.bytes)


# What was frozen when it was vacuumed last, and whether anything has changed since. Before PostgreSQL 18 nobody counts
# frozen pages; then those that are visible to all stand for them.
_UNFROZEN = text(
    """
    SELECT c.relname AS name, pg_relation_size(c.oid) AS bytes
    FROM pg_inherits i
    JOIN pg_class c ON c.oid = i.inhrelid
    JOIN pg_class parent ON parent.oid = i.inhparent
    LEFT JOIN pg_stat_all_tables s ON s.relid = c.oid
    WHERE parent.relname = ANY(:parents) AND parent.relnamespace = current_schema()::regnamespace
      AND NOT i.inhdetachpending AND pg_relation_size(c.oid) > 0
      AND (
          c.reltuples < 0 OR coalesce((to_jsonb(c) ->> 'relallfrozen')::integer, c.relallvisible) < c.relpages
          OR s.n_ins_since_vacuum > 0 OR s.n_dead_tup > 0
      )
    ORDER BY c.relname
    """
)
