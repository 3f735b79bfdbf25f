"""The benchmark of pages: a small one asks for every kind of page as an operator, and for the metrics."""

from __future__ import annotations

import pytest

from benchmarks.pages import large_scale, measure_pages
from benchmarks.pages_world import paths
from core.errors import UsageError
from core.settings import Settings


def test_a_small_one_has_every_page() -> None:
    told: list[str] = []
    result = measure_pages(users=5_000, runs=20, workers=1, settings=Settings(), tell=told.append)
    expected = paths(large_scale(5_000, 20))
    assert list(result["page_ms"]) == expected
    assert result["slowest_page_ms"] == max(one["median"] for one in result["page_ms"].values())
    assert 0 < result["scrape_ms"]["min"] <= result["scrape_ms"]["median"]
    assert 0 < result["page_cpu_ms"]["median"] < result["slowest_page_ms"]
    assert all(any(line.startswith(f"{path}: ") for line in told) for path in [*expected, "/metrics"])


@pytest.mark.parametrize(("users", "runs", "what"), [(10, 20, "users must be 1000"), (5_000, 9, "runs must be 10 to")])
def test_numbers_out_of_range_are_refused(users: int, runs: int, what: str) -> None:
    with pytest.raises(UsageError, match=what):
        measure_pages(users=users, runs=runs, workers=1, settings=Settings())
