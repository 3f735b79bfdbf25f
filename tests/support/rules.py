"""The rules of Prometheus as their file has them, read by its regular form; promtool checks the grammar."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from tests.support.nights import ROOT

PROMETHEUS = ROOT / "compose" / "prometheus"
ALERTS = PROMETHEUS / "alerts.rules.yml"
RECORDINGS = PROMETHEUS / "recording.rules.yml"
_METRIC = re.compile(r"\bnightshift_[a-z0-9_]+")


@dataclass(frozen=True, slots=True)
class Alert:
    """One alert; empty strings for what it lacks."""

    name: str
    severity: str
    lasts: str
    summary: str
    description: str
    runbook: str


def alerts() -> list[Alert]:
    """All of them, in order."""
    blocks = re.split(r"^\s+- alert: ", ALERTS.read_text("utf-8"), flags=re.MULTILINE)[1:]
    return [
        Alert(
            name=block.split()[0],
            severity=_found(r"severity: (\w+)", block),
            lasts=_found(r"for: (\w+)", block),
            summary=_found(r"summary: (.+)", block),
            description=_found(r"description: (.+)", block),
            runbook=_found(r"runbook_url: (\S+)", block),
        )
        for block in blocks
    ]


def metrics_in(path: Path) -> set[str]:
    """The exporter's metrics that a file of rules names."""
    text = re.sub(r"#.*", "", path.read_text("utf-8"))
    return set(_METRIC.findall(text))


def recordings() -> set[str]:
    """The names of the recorded series."""
    return set(re.findall(r"record: (\S+)", RECORDINGS.read_text("utf-8")))


def _found(pattern: str, block: str) -> str:
    match = re.search(pattern, block)
    return match.group(1) if match else ""
