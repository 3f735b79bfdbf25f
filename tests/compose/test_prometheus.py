"""Prometheus' files by its own tool: they are clean, and every alert fires when it should, and only then.

And the rules ask for what there is: every metric that they name comes out of a real exporter.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from sqlalchemy import Engine

from tests.support.exporter import exporter, fill_everything, scrape
from tests.support.nights import ROOT, change
from tests.support.rules import ALERTS, PROMETHEUS, RECORDINGS, alerts, metrics_in, recordings
from workers.exporter.catalogue import CATALOGUE, HISTOGRAM, SUMMARY

TESTS = sorted((PROMETHEUS / "tests").glob("*.test.yml"))
PARTS = {HISTOGRAM: ("_bucket", "_sum", "_count"), SUMMARY: ("_sum", "_count")}


def promtool(*arguments: str | Path) -> None:
    """Run it; it must find nothing."""
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("promtool is not installed (Debian: prometheus)")
    result = subprocess.run([program, *arguments], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "FAILED" not in result.stdout


def test_the_configuration_is_clean() -> None:
    # The token's file is where only the container has it; the rules are checked below.
    promtool("check", "config", "--syntax-only", PROMETHEUS / "prometheus.yml")


def test_the_rules_are_clean() -> None:
    promtool("check", "rules", ALERTS, RECORDINGS)


@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.name)
def test_alerts_fire_when_they_should_and_only_then(path: Path) -> None:
    promtool("test", "rules", path)


def test_every_alert_is_tested_firing_and_not_firing() -> None:
    cases = re.findall(
        r"- alertname: (\w+)\n\s+eval_time: \S+\n\s+exp_alerts:(.*)", "".join(path.read_text("utf-8") for path in TESTS)
    )
    names = {alert.name for alert in alerts()}
    assert len(names) == 29
    assert {name for name, expected in cases if "[]" not in expected} == names
    assert {name for name, expected in cases if "[]" in expected} == names


def test_every_alert_says_what_is_wrong_how_bad_it_is_and_what_to_do() -> None:
    index = (ROOT / "docs" / "runbooks" / "README.md").read_text("utf-8")
    for alert in alerts():
        assert alert.severity in {"warning", "page"}, alert
        assert alert.lasts, alert
        assert alert.summary, alert
        assert "$value" in alert.description, alert
        assert alert.runbook == f"docs/runbooks/{alert.name}.md"
        assert f"| [{alert.name}]({alert.name}.md) | {alert.severity} |" in index


def test_the_exporter_shows_the_whole_catalogue_and_so_whatever_the_rules_ask_for(
    engine: Engine, redis_url: str
) -> None:
    settings = fill_everything(engine, redis_url)
    pages = exporter(engine, redis_url, settings=settings)
    running = {name for name, _ in scrape(pages)}
    change(engine, "UPDATE runs SET status = 'done', finished_at = '2024-03-05 00:10+00' WHERE status = 'running'")
    shown = running | {name for name, _ in scrape(pages)}
    assert shown == {spec.name + part for spec in CATALOGUE for part in PARTS.get(spec.kind, ("",))}
    for path in (ALERTS, RECORDINGS, *TESTS):
        assert metrics_in(path) <= shown, path
    asked = set(re.findall(r"\bnightshift:[a-z0-9_:]+", ALERTS.read_text("utf-8")))
    assert asked <= recordings()
