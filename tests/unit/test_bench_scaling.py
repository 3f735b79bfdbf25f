"""The simulation over recorded nights: the function neither flaps nor lags, and keeps its limits and cool-downs."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from typer.testing import CliRunner

from benchmarks.scaling import scenarios
from scripts.main import app
from services.scaling_inputs import limits_of
from tests.support.nights import settings

LIMITS = limits_of(settings())


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    """What the command prints."""
    printed: dict[str, Any] = json.loads(CliRunner().invoke(app, ["bench", "scaling", "--json"]).stdout)
    return printed


def test_it_neither_flaps_nor_lags(found: dict[str, Any]) -> None:
    assert list(found) == [scenario.name for scenario in scenarios()]
    for figures in found.values():
        assert figures["flaps"] == 0
        assert figures["lag_s"] <= LIMITS.up.total_seconds()


def test_limits_and_cool_downs_are_kept(found: dict[str, Any]) -> None:
    for figures in found.values():
        changes = [(0.0, LIMITS.minimum), *figures["changed"]]
        assert all(LIMITS.minimum <= workers <= LIMITS.maximum for _, workers in changes)
        for (earlier, before), (later, after) in pairwise(changes[1:]):
            cool_down = LIMITS.up if after > before else LIMITS.down
            assert later - earlier >= cool_down.total_seconds()


def test_the_minimum_carries_the_nights_and_the_rest_pays(found: dict[str, Any]) -> None:
    assert found["seven nights"]["changes"] == 0
    hours = found["hours of reprocessing"]
    # Nearly as soon as with the most workers all the time, for less than half of their hours.
    assert hours["done_after_s"]["wanted"] <= hours["done_after_s"]["most"] * 1.05
    assert hours["worker_hours"]["wanted"] < hours["worker_hours"]["most"] / 2
    assert hours["done_after_s"]["wanted"] < hours["done_after_s"]["fewest"] / 3
    # Of four batches at once, more than two workers have nothing.
    assert found["the same, four at once"]["most_workers"] == 2


def test_the_data_of_a_plot_tell_the_same(found: dict[str, Any]) -> None:
    for figures in found.values():
        shown = {moment: workers for moment, _, workers in figures["plot"]}
        assert max(shown.values()) == figures["most_workers"]
        assert all(shown[round(moment)] == workers for moment, workers in figures["changed"])
        assert max(waiting for _, waiting, _ in figures["plot"]) > 0
