"""`nightshift bench alerts` on a few alerts, and what can be said of all scenarios without playing them."""

from __future__ import annotations

import pytest

from benchmarks.alerts.measure import chosen_scenarios
from benchmarks.alerts.scenarios import SCENARIOS
from core.errors import UsageError
from tests.support.cli import Shell
from tests.support.rules import alerts
from workers.monitoring import missing_programs


def test_every_alert_is_provoked_once() -> None:
    provoked = [f"Nightshift{name}" for scenario in SCENARIOS for name in scenario.alerts]
    assert sorted(provoked) == sorted(alert.name for alert in alerts())


def test_only_some_may_be_asked_for() -> None:
    assert chosen_scenarios([]) == list(SCENARIOS)
    assert [one.alerts for one in chosen_scenarios(["NightshiftBeatSilent", "RedisAway"])] == [
        ("BeatSilent",), ("RedisAway",)
    ]  # fmt: skip
    with pytest.raises(UsageError, match="there is no alert 'Nonsense'"):
        chosen_scenarios(["Nonsense"])


@pytest.mark.skipif(bool(missing_programs()), reason="Debian: prometheus, prometheus-alertmanager")
def test_alerts_fire_and_clear_on_a_running_stack(capsys: pytest.CaptureFixture[str]) -> None:
    only = [part for name in ("ExporterAbsent", "BeatSilent") for part in ("--only", name)]
    found = Shell(capsys).ok("bench", "alerts", "--json", *only).json
    assert [fired["alert"] for fired in found] == ["ExporterAbsent", "BeatSilent"]
    assert all(fired["ok"] and fired["fired_s"] > 0 and fired["cleared_s"] > 0 for fired in found)
