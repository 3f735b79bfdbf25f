"""Partitions that go: one at a time, detached without a lock that a night or a reader would wait for, then dropped.

Guarantees: what is to be dropped is written down first (`partition_drops`), so that maintenance which is interrupted
anywhere finishes it the next time, and a table that somebody detached by hand is never dropped. A partition whose locks
others hold is left to the next time.

DETACH CONCURRENTLY marks the partition, waits until nobody reads the table who began before, and takes it out; new
readers do not see it from the mark on. PostgreSQL refuses that where there is a default partition; there, DETACH takes
the whole table for itself, for which it waits a fraction of a second.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta

from sqlalchemy import Connection, Engine, text
from sqlalchemy.exc import OperationalError

from core.log import get_logger
from models.partitions import PARTITIONED, month_partition, partition_of
from services.partitions import lock_was_held, patiently
from services.retention_days import KeptDays

log = get_logger(__name__)

# What waits for these locks makes nobody wait: a detached table, or a partition that nobody sees any more.
_PATIENT = "SET lock_timeout = '5s'"
# Whoever comes to the table meanwhile waits as long.
_HASTY = "SET lock_timeout = '100ms'"


@dataclass(frozen=True, slots=True)
class Going:
    """A partition that goes, with its indexes so many bytes.

    Attributes:
        attached: it still is one; `pending`: half detached.
        ours: it is to be dropped; else somebody has half detached it, which keeps us from detaching others.
    """

    name: str
    parent: str
    bytes: int
    attached: bool = True
    pending: bool = False
    ours: bool = True


def partitions_to_drop(connection: Connection, kept: KeptDays, ticks_before: date) -> list[Going]:
    """What is left over from the last time, then portfolio days that are not kept and months of ticks, oldest first.

    Args:
        kept: which portfolio days are kept.
        ticks_before: months of ticks that end by this day go.
    """
    rows = connection.execute(_EXISTING, {"parents": list(PARTITIONED)})
    found = [Going(row.name, row.parent, row.bytes, row.attached, row.pending, row.ours) for row in rows]
    unfinished = [going for going in found if going.pending or not going.attached]
    rest = [going for going in found if going not in unfinished and _goes(going, kept, ticks_before)]
    return unfinished + [replace(going, ours=True) for going in rest]


def _goes(going: Going, kept: KeptDays, ticks_before: date) -> bool:
    known = partition_of(going.name)
    if known is None:
        return False
    parent, first = known
    if parent == "portfolio_days":
        return first not in kept
    if parent == "price_ticks":
        return date.fromisoformat(month_partition(parent, first).upper[:10]) <= ticks_before
    return False


def drop_partition(engine: Engine, going: Going, *, now: datetime) -> bool:
    """Detach and drop it; False if others hold its locks: then it is as it was, or half detached, for the next time."""
    autocommit = engine.execution_options(isolation_level="AUTOCOMMIT")
    try:
        with autocommit.connect() as connection:
            connection.execute(text("SET statement_timeout = 0"))
            try:
                values = {"name": going.name, "parent": going.parent, "bytes": going.bytes, "now": now}
                if going.ours:
                    connection.execute(_INTEND, values)
                patiently(lambda: _detach(connection, going))
                if going.ours:
                    connection.execute(text(_PATIENT))
                    connection.execute(text(f"DROP TABLE IF EXISTS {going.name}"))
                    connection.execute(_DROPPED, values)
            finally:
                # The session goes back to the pool, and its settings with it.
                connection.invalidate()
    except OperationalError as error:
        if not lock_was_held(error):
            raise
        log.warning("a partition was not dropped: somebody holds its locks; the next time does it", name=going.name)
        return False
    log.info("partition dropped", name=going.name, bytes=going.bytes)
    return True


def _detach(connection: Connection, going: Going) -> None:
    state = connection.execute(_STATE, {"name": going.name}).one_or_none()
    if state is None:
        return
    detach = f"ALTER TABLE {going.parent} DETACH PARTITION {going.name}"
    if state.pending:
        connection.execute(text(_PATIENT))
        connection.execute(text(f"{detach} FINALIZE"))
    elif state.with_default:
        connection.execute(text(_HASTY))
        connection.execute(text(detach))
    else:
        connection.execute(text(_PATIENT))
        connection.execute(text(f"{detach} CONCURRENTLY"))


def ticks_kept_from(connection: Connection, keep_days: int, now: datetime) -> date:
    """From which day on ticks are kept: counted back from the newest price, so that a clock years ahead takes none."""
    newest: datetime | None = connection.execute(_NEWEST_TICK).scalar_one_or_none()
    reference = now if newest is None else min(now, newest)
    return reference.date() - timedelta(days=keep_days)


def total_bytes(partitions: Iterable[Going]) -> int:
    """Of all of them, with their indexes."""
    return sum(going.bytes for going in partitions)


_EXISTING = text(
    """
    SELECT c.relname AS name, coalesce(parent.relname, d.parent) AS parent, pg_total_relation_size(c.oid) AS bytes,
        i.inhparent IS NOT NULL AS attached, coalesce(i.inhdetachpending, false) AS pending,
        d.name IS NOT NULL AS ours
    FROM pg_class c
    LEFT JOIN pg_inherits i ON i.inhrelid = c.oid
    LEFT JOIN pg_class parent ON parent.oid = i.inhparent
    LEFT JOIN partition_drops d ON d.name = c.relname AND d.dropped_at IS NULL
    WHERE c.relnamespace = current_schema()::regnamespace AND c.relkind = 'r'
      AND (parent.relname = ANY(:parents) OR (i.inhparent IS NULL AND d.name IS NOT NULL))
    ORDER BY c.relname
    """
)
_STATE = text(
    """
    SELECT i.inhdetachpending AS pending, p.partdefid <> 0 AS with_default
    FROM pg_inherits i JOIN pg_partitioned_table p ON p.partrelid = i.inhparent
    WHERE i.inhrelid = to_regclass(:name)
    """
)
_INTEND = text(
    """
    INSERT INTO partition_drops (name, parent, bytes, planned_at) VALUES (:name, :parent, :bytes, :now)
    ON CONFLICT (name) DO UPDATE SET bytes = excluded.bytes, planned_at = excluded.planned_at, dropped_at = NULL
    """
)
_DROPPED = text("UPDATE partition_drops SET dropped_at = :now WHERE name = :name")
_NEWEST_TICK = text("SELECT max(ts) FROM latest_prices")
