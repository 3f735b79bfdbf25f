"""Alertmanager's configuration, by its own tool and by the real program: who hears of what, and who is spared what.

The program gets our file with its addresses turned to this machine, and its waits made short.
"""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.nights import ROOT
from tests.support.polling import wait_until
from tests.support.rules import alerts

CONFIGURATION = ROOT / "compose" / "alertmanager" / "alertmanager.yml"


def program(name: str) -> str:
    """Where it is; else the test is skipped."""
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"{name} is not installed (Debian: prometheus-alertmanager)")
    return path


def test_the_configuration_is_clean() -> None:
    result = subprocess.run(
        [program("amtool"), "check-config", str(CONFIGURATION)], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(("severity", "receivers"), [("page", "webhook,page"), ("warning", "webhook,warning")])
def test_the_severity_decides_who_hears_of_it(severity: str, receivers: str) -> None:
    command = [
        program("amtool"), "config", "routes", "test", f"--config.file={CONFIGURATION}", f"severity={severity}",
    ]  # fmt: skip
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == receivers


def test_every_name_in_the_inhibitions_is_that_of_alerts() -> None:
    names = {alert.name for alert in alerts()}
    text = CONFIGURATION.read_text("utf-8")
    assert set(re.findall(r"alertname = (\w+)", text)) <= names
    for pattern in re.findall(r'alertname =~ "([^"]+)"', text):
        assert [name for name in names if re.fullmatch(pattern, name)], pattern


def test_no_secret_stands_in_the_file() -> None:
    text = CONFIGURATION.read_text("utf-8")
    files = re.findall(r"(\w+): /run/secrets/\w+", text)
    assert set(files) == {"smtp_auth_password_file", "slack_api_url_file", "routing_key_file", "credentials_file"}
    assert not re.search(r"(password|api_url|routing_key|credentials):", text)


class Receiver:
    """Writes down what it is told, by path."""

    def __init__(self) -> None:
        self.told: list[tuple[str, str, dict[str, Any]]] = []
        told = self.told

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                told.append((self.path, self.headers.get("Authorization", ""), json.loads(body)))
                self.send_response(202 if self.path == "/pagerduty" else 200)
                self.end_headers()
                self.wfile.write(b"{}")

            def log_message(self, *_: object) -> None:
                """Nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Listen no more."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def webhook(self) -> set[tuple[str, str]]:
        """What the webhook heard: (alert, status)."""
        return {
            (alert["labels"]["alertname"], alert["status"])
            for path, _, body in self.told
            if path == "/webhook"
            for alert in body["alerts"]
        }

    def paths(self) -> set[str]:
        """Who heard anything."""
        return {path for path, _, _ in self.told}


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    yield receiver
    receiver.close()


def turned_here(receiver: Receiver, directory: Path) -> str:
    """Our configuration with addresses, secrets and waits of a test."""
    text = CONFIGURATION.read_text("utf-8")
    for name, secret in (
        ("alertmanager_smtp_password", "x"), ("alertmanager_slack_url", f"{receiver.url}/slack"),
        ("alertmanager_pagerduty_key", "key"), ("alertmanager_webhook_token", "token-of-a-test"),
    ):  # fmt: skip
        (directory / name).write_text(secret)
        assert f"/run/secrets/{name}" in text
        text = text.replace(f"/run/secrets/{name}", str(directory / name))
    for there, here in (
        ("smtp.example.org:587", "127.0.0.1:1"),
        ("https://events.pagerduty.com/v2/enqueue", f"{receiver.url}/pagerduty"),
        ("https://alerts.example.org/nightshift", f"{receiver.url}/webhook"),
        ("group_wait: 15s", "group_wait: 200ms"),
        ("group_interval: 2m", "group_interval: 300ms"),
    ):
        assert there in text
        text = text.replace(there, here)
    return text


def free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


@contextmanager
def alertmanager(configuration: str, directory: Path) -> Iterator[str]:
    """The real program; its address."""
    path, log = directory / "alertmanager.yml", directory / "log"
    path.write_text(configuration)
    address = f"127.0.0.1:{free_port()}"
    command = [
        program("prometheus-alertmanager"), f"--config.file={path}", f"--storage.path={directory / 'data'}",
        f"--web.listen-address={address}", "--cluster.listen-address=",
    ]  # fmt: skip
    with log.open("w") as output, subprocess.Popen(command, stdout=output, stderr=output) as process:
        try:
            wait_until(lambda: ready(address) or process.poll() is not None, what="Alertmanager")
            assert process.poll() is None, log.read_text()
            yield f"http://{address}"
        finally:
            process.terminate()


def ready(address: str) -> bool:
    try:
        return httpx.get(f"http://{address}/-/ready").is_success
    except httpx.TransportError:
        return False


def raise_alerts(address: str, *names: str, severity: str = "page", ends: str | None = None) -> None:
    """As Prometheus does."""
    labels = {"severity": severity, "job": "nightshift", "instance": "exporter:9808"}
    ending = {} if ends is None else {"endsAt": ends}
    alert = [
        {"labels": labels | {"alertname": name}, "annotations": {"summary": f"of {name}"}} | ending for name in names
    ]
    httpx.post(f"{address}/api/v2/alerts", json=alert).raise_for_status()


def test_a_page_and_a_warning_arrive_and_what_follows_from_worse_does_not(receiver: Receiver, tmp_path: Path) -> None:
    with alertmanager(turned_here(receiver, tmp_path), tmp_path) as address:
        # The cause is known before what follows from it, as Prometheus' `for` has it.
        raise_alerts(address, "NightshiftDatabaseAway")
        wait_until(lambda: ("NightshiftDatabaseAway", "firing") in receiver.webhook(), what="the page")
        wait_until(lambda: {"/pagerduty", "/slack"} <= receiver.paths(), what="PagerDuty and Slack")
        raise_alerts(address, "NightshiftNightStalled", "NightshiftBeatSilent")
        raise_alerts(address, "NightshiftDiskFull", severity="warning")
        wait_until(lambda: ("NightshiftDiskFull", "firing") in receiver.webhook(), what="the warning")
        inhibited = {
            alert["labels"]["alertname"]
            for alert in httpx.get(f"{address}/api/v2/alerts").json()
            if alert["status"]["inhibitedBy"]
        }
        assert inhibited == {"NightshiftNightStalled", "NightshiftBeatSilent"}
        assert {name for name, _ in receiver.webhook()} == {"NightshiftDatabaseAway", "NightshiftDiskFull"}
        assert {token for path, token, _ in receiver.told if path == "/webhook"} == {"Bearer token-of-a-test"}

        # The database is back; the night is still not.
        raise_alerts(address, "NightshiftDatabaseAway", ends="2024-01-01T00:00:00Z")
        wait_until(lambda: ("NightshiftDatabaseAway", "resolved") in receiver.webhook(), what="the all-clear")
        wait_until(lambda: ("NightshiftNightStalled", "firing") in receiver.webhook(), what="what is left")
