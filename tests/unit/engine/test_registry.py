"""Strategies of third parties: found by their entry point, and refused where they would harm a night."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.night import Night
from engine.params import Parameters
from engine.strategies import strategies, strategy_by_name
from engine.strategies.base import Strategy
from engine.ticks import Ints


class Idle(Strategy):
    """Does nothing."""

    name = "test_idle"
    code = 1200
    Parameters = Parameters

    def orders(self, night: Night) -> Ints:
        return night.no_orders()


class Reserved(Idle):
    name = "test_reserved"
    code = 999


class SameName(Idle):
    name = "dca"
    code = 1201


class NoState(Idle):
    name = "test_no_state"
    code = 1202
    initial_state = ()


@pytest.fixture(autouse=True)
def _registry_anew() -> Iterator[None]:
    strategies.cache_clear()
    yield
    strategies.cache_clear()


def offer(directory: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """Install a distribution that offers `name` of this module."""
    information = directory / "nightshift_test_registry-0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: nightshift-test-registry\nVersion: 0\n")
    (information / "entry_points.txt").write_text(f"[nightshift.strategies]\noffered = offered_by_a_test:{name}\n")
    # Tests are imported by path, so the module is put where its name can be found.
    (directory / "offered_by_a_test.py").write_text(Path(__file__).read_text(encoding="utf-8"), encoding="utf-8")
    monkeypatch.syspath_prepend(str(directory))


def test_an_installed_strategy_is_one_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    offer(tmp_path, monkeypatch, "Idle")
    assert strategies()[1200].name == "test_idle"
    assert strategy_by_name("test_idle").code == 1200


@pytest.mark.parametrize(
    ("name", "error", "reason"),
    [
        ("Path", TypeError, "not a subclass"),
        ("Reserved", ValueError, "code 999 or name is taken"),
        ("SameName", ValueError, "code 1201 or name is taken"),
        ("NoState", ValueError, "initial state needs an integer"),
    ],
)
def test_what_would_harm_a_night_is_refused_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, error: type[Exception], reason: str
) -> None:
    offer(tmp_path, monkeypatch, name)
    with pytest.raises(error, match=reason):
        strategies()
