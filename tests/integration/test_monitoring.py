"""Prometheus and Alertmanager beside the stack: real ones, on files made of those in compose/, and ended in order."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from core.errors import NightshiftError
from core.settings import Settings
from tests.support.cli import Shell
from tests.support.nights import settings
from tests.support.polling import wait_until
from tests.support.rules import ALERTS, RECORDINGS, alerts
from workers.monitoring import Monitoring, Pace, missing_programs
from workers.monitoring_files import Addresses, alertmanager_file, prometheus_files, scale_rules, tells_nobody
from workers.server_process import free_port

ADDRESSES = Addresses("127.0.0.1:1", "127.0.0.1:2", "127.0.0.1:3")
PACE = Pace(1, 30.0, {"group_wait": "1s"})


def program(name: str) -> str:
    """Where it is; else the test is skipped."""
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not installed (Debian: prometheus, prometheus-alertmanager)")
    return path


@pytest.fixture
def monitoring(tmp_path: Path) -> Iterator[Monitoring]:
    program("prometheus")
    program("prometheus-alertmanager")
    chosen = settings(home=tmp_path, prometheus_port=0, alertmanager_port=0)
    with Monitoring(chosen, f"http://127.0.0.1:{free_port(None)}/metrics", pace=PACE) as monitoring:
        yield monitoring


def test_the_rules_that_run_are_those_of_compose() -> None:
    files = prometheus_files(ADDRESSES, interval_seconds=None, faster=1)
    assert files["alerts.rules.yml"] == ALERTS.read_text("utf-8")
    assert files["recording.rules.yml"] == RECORDINGS.read_text("utf-8")
    assert 'targets: ["127.0.0.1:1"]' in files["prometheus.yml"]
    assert 'targets: ["127.0.0.1:3"]' in files["prometheus.yml"]
    assert "scrape_interval: 15s" in files["prometheus.yml"]


def test_a_rehearsal_divides_times_and_nothing_else() -> None:
    assert (
        scale_rules("for: 5m\nfor: 0s\nexpr: a_seconds > 600\n", 30) == "for: 10000ms\nfor: 0s\nexpr: a_seconds > 20\n"
    )
    assert scale_rules('increase(b_total[5m]) > 0 or c_seconds{kind!="digest"} > 60', 30) == (
        'increase(b_total[10000ms]) > 0 or c_seconds{kind!="digest"} > 2'
    )
    assert scale_rules("time() - d < e_seconds + 3600", 30) == "time() - d < e_seconds + 120"
    for unchanged in ("nightshift_queue_length > 100", 'burn{window="1d"} > 14.4', "ratio > 0.85", "workers == 0"):
        assert scale_rules(unchanged, 30) == unchanged
    quick = prometheus_files(ADDRESSES, interval_seconds=1, faster=30)["alerts.rules.yml"]
    assert len(re.findall(r"- alert: ", quick)) == len(alerts())
    assert not re.search(r"for: [1-9]\d*[smh]\b", quick)


def test_the_files_are_clean_by_their_own_tools(tmp_path: Path) -> None:
    for pace in ((None, 1.0), (1, 30.0)):
        for name, text in prometheus_files(ADDRESSES, interval_seconds=pace[0], faster=pace[1]).items():
            (tmp_path / name).write_text(text)
        check = [program("promtool"), "check", "config", str(tmp_path / "prometheus.yml")]
        assert "SUCCESS" in subprocess.run(check, capture_output=True, text=True, check=True).stdout
    text = alertmanager_file(waits={"group_wait": "1s"})
    assert tells_nobody(text)
    assert "group_wait: 1s" in text
    # Who would hear of what, and who is spared what, is as in production.
    assert "severity = page" in text
    assert "source_matchers: [alertname = NightshiftExporterAbsent]" in text
    (tmp_path / "alertmanager.yml").write_text(text)
    check = [program("amtool"), "check-config", str(tmp_path / "alertmanager.yml")]
    subprocess.run(check, capture_output=True, check=True)


def test_an_alert_gets_from_the_one_to_the_other(monitoring: Monitoring, tmp_path: Path) -> None:
    addresses = monitoring.addresses
    groups = httpx.get(f"{addresses['prometheus']}/api/v1/rules").json()["data"]["groups"]
    assert {rule["name"] for group in groups for rule in group["rules"] if rule["type"] == "alerting"} == {
        alert.name for alert in alerts()
    }

    def told() -> set[str]:
        return {one["labels"]["alertname"] for one in httpx.get(f"{addresses['alertmanager']}/api/v2/alerts").json()}

    # Nobody listens where the exporter should be.
    wait_until(lambda: told() == {"NightshiftExporterAbsent"}, what="the alert")
    assert monitoring.tells_nobody
    assert {path.name for path in (tmp_path / "log").iterdir()} == {"prometheus.log", "alertmanager.log"}


def test_what_dies_is_started_again_and_nothing_is_left(
    monitoring: Monitoring, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.monitoring._RESTART_SECONDS", 0.1)
    before = monitoring.processes
    family = [psutil.Process(pid) for pid in before.values()]
    family += [child for process in family for child in process.children()]
    assert {"prometheus", "prometheus-alertmanager"} <= {process.name() for process in family}
    psutil.Process(before["prometheus"]).kill()
    wait_until(lambda: monitoring.processes.get("prometheus") not in {None, before["prometheus"]}, what="another one")
    wait_until(lambda: httpx_ok(f"{monitoring.addresses['prometheus']}/-/ready"), what="its answer")
    family += [psutil.Process(pid) for pid in monitoring.processes.values()]
    family += [child for process in family if process.is_running() for child in process.children()]
    monitoring.stop()
    assert [p for p in family if p.is_running() and p.status() != psutil.STATUS_ZOMBIE] == []
    assert monitoring.processes == {}


def httpx_ok(url: str) -> bool:
    try:
        return httpx.get(url).is_success
    except httpx.TransportError:
        return False


def test_what_is_not_installed_is_named_with_what_installs_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    lines = missing_programs()
    assert [line.split()[0] for line in lines] == ["prometheus", "alertmanager"]
    assert all("is not installed" in line and "apt install" in line for line in lines)
    # And what there is runs all the same: here nothing.
    with Monitoring(settings(home=tmp_path, prometheus_port=0, alertmanager_port=0), "127.0.0.1:1") as monitoring:
        assert monitoring.addresses == {}


def test_without_the_files_of_compose_it_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("workers.monitoring_files.COMPOSE", tmp_path)
    chosen = Settings(_env_file=None, home=tmp_path, prometheus_port=0, alertmanager_port=0)
    with pytest.raises(NightshiftError, match=r"prometheus\.yml is missing: .* from a clone of the repository"):
        Monitoring(chosen, "127.0.0.1:1").start()


def test_a_taken_port_is_named_before_anything_starts(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NIGHTSHIFT_HOME", str(tmp_path / "home"))
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        monkeypatch.setenv("NIGHTSHIFT_PROMETHEUS_PORT", str(port))
        outcome = Shell(capsys)("up", "--monitoring")
    assert outcome.code == 1
    assert f"port {port}" in outcome.err
    assert "NIGHTSHIFT_PROMETHEUS_PORT" in outcome.err
    assert not (tmp_path / "home").exists()
