"""Partitions: a day of `portfolio_days`, a month of `trades` and `price_ticks`. Made before the rows come, by name.

Making one is idempotent and safe beside other processes doing the same. It does not block readers or writers of the
parent: CREATE TABLE … PARTITION OF takes an ACCESS EXCLUSIVE lock on the parent, while a table created on its own and
then attached takes SHARE UPDATE EXCLUSIVE only. A partition carries the key that its parent cannot have (a key of a
partitioned table must contain the day).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, timedelta

from sqlalchemy import Connection, bindparam, text

from core.errors import NightshiftError

PARTITIONED = ("portfolio_days", "trades", "price_ticks")
MONTHLY = ("trades", "price_ticks")
# Any constant of our own: it keeps two processes from making partitions at the same time.
PARTITION_LOCK = 0x4E53_5041_5254
_NAME = re.compile(rf"({'|'.join(PARTITIONED)})_\d+")
_KEYS = {
    "portfolio_days": "user_id, simulation_id",
    "trades": "day, user_id, simulation_id, asset_id",
}
# Rows are only ever appended, so pages are filled, and the one vacuum that inserts trigger may freeze at once: no
# anti-wraparound vacuum has to read an old partition again.
# Nobody searches by an array, and to gather statistics of a million of them takes as long as to read the night.
_WITHOUT_STATISTICS = {"portfolio_days": ("asset_ids", "quantities", "cost_basis", "state")}
_STORAGE = "fillfactor = 100, autovacuum_freeze_min_age = 0"


@dataclass(frozen=True, slots=True)
class Partition:
    """One partition: rows of `parent` with `lower <= key < upper`, both written as SQL literals."""

    parent: str
    name: str
    lower: str
    upper: str

    def statements(self) -> list[str]:
        """The DDL that creates and attaches it."""
        create = f"CREATE TABLE {self.name} (LIKE {self.parent} INCLUDING ALL) WITH ({_STORAGE})"
        bounds = f"FROM ('{self.lower}') TO ('{self.upper}')"
        attach = f"ALTER TABLE {self.parent} ATTACH PARTITION {self.name} FOR VALUES {bounds}"
        if self.parent not in _KEYS:
            return [create, attach]
        key = f"ALTER TABLE {self.name} ADD CONSTRAINT pk_{self.name} PRIMARY KEY ({_KEYS[self.parent]})"
        silent = [
            f"ALTER TABLE {self.name} ALTER COLUMN {column} SET STATISTICS 0"
            for column in _WITHOUT_STATISTICS.get(self.parent, ())
        ]
        return [create, key, *silent, attach]


def partition_of(table: str) -> tuple[str, date] | None:
    """The parent of a partition and the first day in it, by its name; None of any other table."""
    if not is_partition(table):
        return None
    parent, digits = table.rsplit("_", maxsplit=1)
    return parent, date(int(digits[:4]), int(digits[4:6]), int(digits[6:] or "1"))


def is_partition(table: str) -> bool:
    """Whether `table` is the name of a partition: migrations leave partitions alone."""
    return _NAME.fullmatch(table) is not None


def day_partition(day: date) -> Partition:
    """The partition of `portfolio_days` that holds `day`."""
    return Partition(
        "portfolio_days", f"portfolio_days_{day:%Y%m%d}", day.isoformat(), (day + timedelta(days=1)).isoformat()
    )


def month_partition(table: str, day: date) -> Partition:
    """The partition of `table` (of MONTHLY) that holds the month of `day`; months are those of UTC."""
    if table not in MONTHLY:
        raise ValueError(f"{table} is not partitioned by month")
    first = day.replace(day=1)
    following = (first + timedelta(days=31)).replace(day=1)
    # An explicit zone, or the session's would move the boundary of a timestamptz.
    zone = " 00:00:00+00" if table == "price_ticks" else ""
    return Partition(table, f"{table}_{first:%Y%m}", f"{first.isoformat()}{zone}", f"{following.isoformat()}{zone}")


def ensure_day_partitions(connection: Connection, days: Iterable[date]) -> list[str]:
    """Make the missing partitions of `portfolio_days` for `days`; the names of those made, in order.

    They appear with the caller's transaction, which holds the partition lock until it ends: commit soon.

    Raises:
        NightshiftError: a table of that name exists and is no partition.
    """
    return ensure_partitions(connection, [day_partition(day) for day in sorted(set(days))])


def ensure_month_partitions(connection: Connection, table: str, months: Iterable[date]) -> list[str]:
    """Make the missing partitions of `table` ('trades' or 'price_ticks') for the months that hold `months` (any days).

    Otherwise like `ensure_day_partitions`.
    """
    firsts = sorted({month.replace(day=1) for month in months})
    return ensure_partitions(connection, [month_partition(table, first) for first in firsts])


_EXISTING = text(
    """
    SELECT c.relname, i.inhparent IS NOT NULL AS attached
    FROM pg_class c LEFT JOIN pg_inherits i ON i.inhrelid = c.oid
    WHERE c.relname IN :names AND c.relnamespace = current_schema()::regnamespace
    """
).bindparams(bindparam("names", expanding=True))


def missing_partitions(connection: Connection, wanted: Sequence[Partition]) -> list[Partition]:
    """Those of `wanted` that there are not.

    Raises:
        NightshiftError: a table of that name exists and is no partition.
    """
    if not wanted:
        return []
    existing = set()
    for name, attached in connection.execute(_EXISTING, {"names": [partition.name for partition in wanted]}):
        if not attached:
            raise NightshiftError(f"table {name} exists but is no partition: rename it or attach it again")
        existing.add(name)
    return [partition for partition in wanted if partition.name not in existing]


def ensure_partitions(connection: Connection, wanted: Sequence[Partition]) -> list[str]:
    """Make those of `wanted` that there are not; otherwise like `ensure_day_partitions`."""
    if not missing_partitions(connection, wanted):
        return []
    connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": PARTITION_LOCK})
    made = missing_partitions(connection, wanted)
    owned = bool(made) and connection.execute(_OWNED).scalar_one()
    for partition in made:
        if owned:
            for statement in partition.statements():
                connection.exec_driver_sql(statement)
        else:
            values = {"parent": partition.parent, "first": partition.lower[:10]}
            connection.execute(text("SELECT make_partition(:parent, CAST(:first AS date))"), values)
    return [partition.name for partition in made]


PARTITION_FUNCTION = "make_partition(text, date)"
# Who may not change the tables makes partitions through the function of services.roles.
_OWNED = text("SELECT pg_has_role(relowner, 'USAGE') FROM pg_class WHERE oid = 'portfolio_days'::regclass")


def partition_function() -> str:
    """The SQL of `make_partition(parent, day)`, which makes with its owner's rights the partition that holds a day.

    Whoever may call it can do nothing else by it: names and bounds are made of the day, and what there is stays.
    """
    # The statements are formats of the name and the bounds.
    branches = "".join(
        f"    WHEN '{parent}' THEN statements := ARRAY[{', '.join(f'$sql${statement}$sql$' for statement in made)}];\n"
        for parent in PARTITIONED
        for made in [Partition(parent, "%1$s", "%2$s", "%3$s").statements()]
    )
    return _FUNCTION.format(branches=branches, lock=PARTITION_LOCK)


_FUNCTION = """
CREATE OR REPLACE FUNCTION make_partition(parent text, day date) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp
SET "TimeZone" = 'UTC' SET "DateStyle" = 'ISO' AS $function$
DECLARE
    statements text[];
    statement text;
    lower date := CASE parent WHEN 'portfolio_days' THEN day ELSE date_trunc('month', day::timestamp)::date END;
    upper date := CASE parent WHEN 'portfolio_days' THEN day + 1 ELSE (lower + interval '1 month')::date END;
    name text := parent || to_char(lower, CASE parent WHEN 'portfolio_days' THEN '_YYYYMMDD' ELSE '_YYYYMM' END);
BEGIN
    IF day IS NULL OR day NOT BETWEEN DATE '1970-01-01' AND DATE '2199-12-31' THEN
        RAISE EXCEPTION 'no partition of % is made for %', parent, day USING ERRCODE = 'invalid_parameter_value';
    END IF;
    CASE parent
{branches}    END CASE;
    PERFORM pg_advisory_xact_lock({lock});
    IF to_regclass(name) IS NULL THEN
        FOREACH statement IN ARRAY statements LOOP
            EXECUTE format(statement, name, lower, upper);
        END LOOP;
    END IF;
END
$function$
"""
