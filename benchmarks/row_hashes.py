"""What the tables of a benchmark hold, so that two states of them can be compared."""

from __future__ import annotations

from datetime import date
from decimal import Decimal

from sqlalchemy import Engine, text

Contents = dict[tuple[str, date], tuple[int, Decimal]]
"""By table and day: how many rows, and the sum of their hashes over all columns."""


def contents_of(engine: Engine) -> Contents:
    """All portfolio days and trades."""
    contents: Contents = {}
    with engine.connect() as connection:
        for table in ("portfolio_days", "trades"):
            query = f"SELECT day, count(*), sum(hash_record_extended(t, 0)::numeric) FROM {table} t GROUP BY day"  # noqa: S608
            contents |= {(table, day): (count, hashes) for day, count, hashes in connection.execute(text(query))}
    return contents
