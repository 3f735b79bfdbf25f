"""The benchmark of nights beside prices: a small one has every figure, and windows really came."""

from __future__ import annotations

import pytest

from benchmarks.beside import measure_beside
from core.errors import UsageError
from core.settings import Settings


def test_a_small_one_has_every_figure() -> None:
    told: list[str] = []
    result = measure_beside(
        users=300, nights=1, symbols=20, window_seconds=1, workers=1, settings=Settings(), tell=told.append
    )
    assert result["windows_beside"] >= 1
    assert result["throughput_beside"] > 0
    for kind in ("alone", "beside"):
        assert 0 < result[f"{kind}_seconds"]["min"] <= result[f"{kind}_seconds"]["max"]
        assert any(kind in line for line in told)


def test_numbers_out_of_range_are_refused() -> None:
    with pytest.raises(UsageError, match="nights must be 1 to 100, not 0"):
        measure_beside(users=1, nights=0, symbols=1, window_seconds=1, workers=1, settings=Settings())
