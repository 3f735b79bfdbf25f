"""Arrays as text: PostgreSQL reads exactly the values that were meant."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from sqlalchemy import Engine, text

from services.array_text import moment_array, number_array, text_array

NOON = datetime(2024, 2, 29, 12, tzinfo=UTC)
ELSEWHERE = [NOON.astimezone(timezone(timedelta(hours=hours, minutes=45))) for hours in (-4, 5)]
EXTREMES = [datetime.min.replace(tzinfo=UTC), datetime(1969, 12, 31, 23, 59, 59, 999_999, UTC)]


@pytest.mark.parametrize(
    ("kind", "written", "values"),
    [
        ("bigint", number_array, []),
        ("bigint", number_array, [2**63 - 1, -(2**63), None, 0]),
        ("float8", number_array, [0.1, 1 / 3, None, sys.float_info.max, 5e-324, 1e22, -0.0, math.inf]),
        ("timestamptz", moment_array, [NOON, NOON + timedelta(microseconds=1), NOON, *ELSEWHERE, *EXTREMES]),
        ("text", text_array, ["binance", "", "NULL", 'a"b', "a\\b", "{a,b}", " é ", "a\nb", "binance"]),
    ],
)
def test_postgresql_reads_what_was_meant(
    engine: Engine, kind: str, written: Callable[[Sequence[Any]], str], values: list[Any]
) -> None:
    with engine.connect() as connection:
        query = text(f"SELECT unnest(CAST(:values AS {kind}[]))")
        assert connection.execute(query, {"values": written(values)}).scalars().all() == values
