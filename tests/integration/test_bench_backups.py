"""The benchmark of backups: a small one destroys its servers for real, and notices what does not come back equal."""

from __future__ import annotations

from dataclasses import replace
from datetime import date

import pytest

from benchmarks.backups import measure_backups, require_equal
from core.errors import NightshiftError, UsageError
from core.settings import Settings
from services.digest import DayDigest


def test_a_small_one_comes_back_and_goes_on() -> None:
    told: list[str] = []
    result = measure_backups(users=400, nights=1, workers=1, settings=Settings(), tell=told.append)
    assert result["digest"] == result["digest_restored"] != result["digest_of_the_next_night"]
    assert all(result[f"{step}_seconds"] > 0 for step in ("create", "verify", "restore"))
    assert 0 < result["backup_bytes"] < result["database_bytes"]
    assert [line.partition(":")[0] for line in told[1:]] == [
        "create", "verify", "the servers and all their files are gone", "restore",
    ]  # fmt: skip


def test_a_day_that_comes_back_different_is_an_error() -> None:
    day = DayDigest(date(2024, 2, 29), "00000000000000aa", 3)
    require_equal("what was restored", [day], [day])
    for other in (replace(day, digest="00000000000000ab"), replace(day, rows=4)):
        with pytest.raises(NightshiftError, match=r"^what was restored differs: 2024-02-29 is"):
            require_equal("what was restored", [day], [other])


def test_numbers_out_of_range_are_refused() -> None:
    with pytest.raises(UsageError, match="nights must be 1 to"):
        measure_backups(users=20, nights=0, workers=1, settings=Settings())
