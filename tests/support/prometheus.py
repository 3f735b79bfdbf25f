"""Debian's Prometheus with our own configuration, turned to this machine: it scrapes and evaluates every second."""

from __future__ import annotations

import math
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from tests.support.polling import wait_until
from tests.support.rules import PROMETHEUS

INTERVAL = 1.0
"""Seconds between two scrapes."""


@dataclass(frozen=True, slots=True)
class Series:
    """One series: its labels, and its (moment, value) samples; NaN and infinity are none."""

    labels: dict[str, str]
    samples: list[tuple[float, float]]

    @property
    def last(self) -> float:
        """The newest value."""
        return self.samples[-1][1]


@dataclass(frozen=True, slots=True)
class Prometheus:
    """Its HTTP API."""

    url: str

    def over(self, expr: str, start: float, end: float, step: float = INTERVAL) -> list[Series]:
        """The series of a range query that have a sample, moments in seconds since 1970."""
        result = self._ask("query_range", query=expr, start=start, end=end, step=step)
        return _series(result["result"], "values")

    def at(self, expr: str, moment: float) -> list[Series]:
        """The series of an instant query."""
        result = self._ask("query", query=expr, time=moment)
        if result["resultType"] == "scalar":
            return _series([{"metric": {}, "value": result["result"]}], "value")
        return _series(result["result"], "value")

    def label_values(self, match: str, label: str, start: float, end: float) -> list[str]:
        """The values that a label had, as Grafana's `label_values(match, label)` asks for them."""
        values = self._ask(f"label/{label}/values", **{"match[]": match}, start=start, end=end)
        return [str(value) for value in values]

    def _ask(self, what: str, **parameters: Any) -> Any:
        answer = httpx.get(f"{self.url}/api/v1/{what}", params=parameters, timeout=30)
        assert answer.is_success, answer.text
        return answer.json()["data"]


@contextmanager
def prometheus(exporter: str, directory: Path) -> Iterator[Prometheus]:
    """The program with our rules, which scrapes the exporter at this address (host:port); ready."""
    address, log = f"127.0.0.1:{_free_port()}", directory / "prometheus.log"
    path = directory / "prometheus.yml"
    token = directory / "metrics_token"
    token.write_text("sent, and not asked for on this machine", encoding="utf-8")
    path.write_text(_turned_here(exporter, address, token), encoding="utf-8")
    command = [
        "prometheus", f"--config.file={path}", f"--storage.tsdb.path={directory / 'prometheus'}",
        f"--web.listen-address={address}",
    ]  # fmt: skip
    found = Prometheus(f"http://{address}")
    with log.open("w") as output, subprocess.Popen(command, stdout=output, stderr=output) as process:
        try:
            wait_until(lambda: _ready(found) or process.poll() is not None, what="Prometheus")
            assert process.poll() is None, log.read_text()
            yield found
        finally:
            process.terminate()


def _ready(found: Prometheus) -> bool:
    try:
        return httpx.get(f"{found.url}/-/ready").is_success
    except httpx.TransportError:
        return False


def _turned_here(exporter: str, itself: str, token: Path) -> str:
    """Our configuration with the addresses, the intervals and the token's file of a test."""
    text = (PROMETHEUS / "prometheus.yml").read_text("utf-8")
    for there, here in (
        ("scrape_interval: 15s", f"scrape_interval: {INTERVAL:g}s"),
        ("evaluation_interval: 15s", f"evaluation_interval: {INTERVAL:g}s"),
        ("scrape_timeout: 10s", f"scrape_timeout: {INTERVAL:g}s"),
        ("recording.rules.yml", str(PROMETHEUS / "recording.rules.yml")),
        ("alerts.rules.yml", str(PROMETHEUS / "alerts.rules.yml")),
        ("alertmanager:9093", "127.0.0.1:1"),
        ("exporter:9808", exporter),
        ("localhost:9090", itself),
        ("/run/secrets/nightshift_metrics_token", str(token)),
    ):
        assert there in text
        text = text.replace(there, here)
    return text


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


def _series(result: list[dict[str, Any]], key: str) -> list[Series]:
    found = []
    for one in result:
        pairs = one[key] if key == "values" else [one[key]]
        samples = [(float(moment), float(value)) for moment, value in pairs if math.isfinite(float(value))]
        if samples:
            found.append(Series(one["metric"], samples))
    return found
