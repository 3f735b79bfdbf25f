"""The peers' tables, and the proof that what they wrote is what Nightshift wrote."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import date

from sqlalchemy import Engine, text

from benchmarks.peers.orm import make_peer_engine
from core.errors import NightshiftError
from models.partitions import ensure_day_partitions, ensure_month_partitions
from services.digest import digest_of_day

NIGHTSHIFT = "public"
_TABLES = ("portfolio_days", "trades")


def make_peer_tables(url: str, schema: str, days: Sequence[date]) -> None:
    """Tables like Nightshift's in a schema of their own, with the partitions of `days` and their keys."""
    with _engine(url, schema) as engine, engine.begin() as connection:
        connection.execute(text(f"CREATE SCHEMA {schema}"))
        for table in _TABLES:
            like = f"{schema}.{table} (LIKE {NIGHTSHIFT}.{table} INCLUDING ALL)"
            connection.execute(text(f"CREATE TABLE {like} PARTITION BY RANGE (day)"))
        ensure_day_partitions(connection, days)
        ensure_month_partitions(connection, "trades", days)


def check_same(url: str, schema: str, users: int) -> None:
    """Compare a peer's rows and trades of the users 1 to `users` with Nightshift's: every column of every day.

    Raises:
        NightshiftError: one of them differs, or only one of the two has it.
    """
    with _engine(url, schema) as engine, engine.connect() as connection:
        for table in _TABLES:
            first = connection.execute(text(_DIFFERENCE.format(table=table, users=users))).one_or_none()
            if first is not None:
                raise NightshiftError(
                    f"{schema} computed something else than Nightshift: {table} of {first.day} differ,"
                    f" first for user {first.user_id}"
                )


# An unqualified name is the peer's: its schema comes first in the search path.
_DIFFERENCE = """
WITH theirs AS (SELECT * FROM {table} WHERE user_id <= {users}),
    ours AS (SELECT * FROM public.{table} WHERE user_id <= {users})
SELECT day, user_id FROM (
    (TABLE theirs EXCEPT ALL TABLE ours) UNION ALL (TABLE ours EXCEPT ALL TABLE theirs)
) AS different ORDER BY day, user_id LIMIT 1
"""


def digest_of_users(url: str, schema: str, users: int, day: date) -> str:
    """The digest of a day's rows of the users 1 to `users` in `schema`."""
    few = f"{schema}_few"
    rows = f"SELECT * FROM {schema}.portfolio_days WHERE user_id <= {users}"  # noqa: S608 - names of ours
    with _engine(url, few) as engine:
        with engine.begin() as connection:
            connection.execute(text(f"CREATE SCHEMA {few}"))
            connection.execute(text(f"CREATE VIEW {few}.portfolio_days AS {rows}"))
        return digest_of_day(engine, day).digest


@contextmanager
def _engine(url: str, schema: str) -> Iterator[Engine]:
    engine = make_peer_engine(url, schema)
    try:
        yield engine
    finally:
        engine.dispose()
