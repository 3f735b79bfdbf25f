"""The real daily closes that lie beside the repository, in ticks. They are not part of it, so they may be absent."""

from __future__ import annotations

import csv
import gzip
from datetime import date
from decimal import Decimal
from functools import cache
from pathlib import Path

import pytest

from tests.oracle.numbers import T
from tests.oracle.strategies import EPOCH

FILE = Path(__file__).parents[2].parent / "shared" / "data" / "crypto_daily.csv.gz"
needs_crypto = pytest.mark.skipif(
    not FILE.exists(),
    reason="real input data is not part of the repository: put crypto_daily.csv.gz into ../shared/data to run this",
)


def day_of(iso: str) -> int:
    """Day number of an ISO date."""
    return (date.fromisoformat(iso) - EPOCH).days


@cache
def crypto_closes() -> dict[str, dict[int, int]]:
    """Closes in ticks by symbol and day, exact."""
    closes: dict[str, dict[int, int]] = {}
    with gzip.open(FILE, "rt", newline="") as lines:
        for row in csv.DictReader(lines):
            ticks = Decimal(row["close"]) * T
            assert ticks == int(ticks)
            closes.setdefault(row["symbol"], {})[day_of(row["day"])] = int(ticks)
    return closes
