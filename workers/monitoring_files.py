"""The files of Prometheus and Alertmanager, made of those in compose/ and turned to this machine.

The rules, routes and inhibitions are the very ones of production; what changes is where things are, and for a rehearsal
how long they take: `scale_rules` divides every duration and every threshold that means time by one factor.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from core.errors import NightshiftError

COMPOSE = Path(__file__).resolve().parents[1] / "compose"
RULES = ("recording.rules.yml", "alerts.rules.yml")
# As the files in compose/ have them.
_EXPORTER, _ALERTMANAGER, _PROMETHEUS = "exporter:9808", "alertmanager:9093", "localhost:9090"
_TOKEN = "    authorization:\n      credentials_file: /run/secrets/nightshift_metrics_token\n"  # noqa: S105 - a path
_UNITS = {"ms": 1, "s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}
_FOR = re.compile(r"(?<=\bfor: )(\d+)(ms|s|m|h|d)\b")
_RANGE = re.compile(r"(?<=\[)(\d+)(ms|s|m|h|d)(?=\])")
# What a metric in seconds is compared to, or is added to one, is a time: `…_seconds > 600`, `…_seconds{…} > 60`,
# `< …_seconds + 3600`.
_THRESHOLD = re.compile(r"(_seconds(?:\{[^}]*\})? [<>+] )(\d+)\b")
_SECRET = re.compile(r"_file: (/run/secrets/\S+)")
# Receivers that tell nobody; the page of Alertmanager shows whom it would be.
_NOBODY = "receivers:\n  - name: page\n  - name: warning\n  - name: webhook\n\n"


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where the three are, as `host:port`."""

    exporter: str
    prometheus: str
    alertmanager: str


def prometheus_files(
    addresses: Addresses, *, interval_seconds: int | None, faster: float, token: str | None = None
) -> dict[str, str]:
    """Prometheus' configuration and rules, by name; `faster` than 1 is for rehearsals.

    Args:
        addresses: of the exporter, of Prometheus and of Alertmanager.
        interval_seconds: of scrapes and evaluations; None: those of production.
        faster: the factor by which times are divided.
        token: the exporter's; then the file holds a secret.

    Raises:
        NightshiftError: the files of compose/ are not here, or are not what this expects.
    """
    text = _read("prometheus/prometheus.yml")
    there = {_EXPORTER: addresses.exporter, _ALERTMANAGER: addresses.alertmanager, _PROMETHEUS: addresses.prometheus}
    # Where Prometheus runs beside the exporter, that asks for no token, or for the one that is put in here.
    text = _replaced(text, there | {_TOKEN: _authorization(token)}, "prometheus.yml")
    if interval_seconds is not None:
        for name in ("scrape_interval", "scrape_timeout", "evaluation_interval"):
            text = re.sub(rf"\b{name}: \S+", f"{name}: {interval_seconds}s", text)
    rules = {name: scale_rules(_read(f"prometheus/{name}"), faster) for name in RULES}
    return {"prometheus.yml": text, **rules}


def alertmanager_file(*, waits: Mapping[str, str]) -> str:
    """Alertmanager's configuration; where the secrets' files are not there, with receivers that tell nobody.

    `waits`: other values of `group_wait` and the like.

    Raises:
        NightshiftError: as `prometheus_files`.
    """
    text = _read("alertmanager/alertmanager.yml")
    if not all(Path(secret).is_file() for secret in _SECRET.findall(text)):
        text, found = re.subn(r"^receivers:\n.*?(?=^# |^inhibit_rules:)", _NOBODY, text, flags=re.MULTILINE | re.DOTALL)
        text, also = re.subn(r"^  (?:smtp|slack|pagerduty)_.*\n", "", text, flags=re.MULTILINE)
        if not (found and also):
            raise _unexpected("alertmanager.yml")
    for name, value in waits.items():
        text = re.sub(rf"\b{name}: \S+", f"{name}: {value}", text)
    return text


def tells_nobody(configuration: str) -> bool:
    """Whether this configuration of Alertmanager has no receiver that anybody hears."""
    return _NOBODY in configuration


def scale_rules(text: str, faster: float) -> str:
    """The rules with every `for`, every range and every threshold in seconds divided by `faster`; other numbers stay.

    `for: 5m` becomes `for: 10s` by the factor 30, `_seconds > 600` becomes `> 20`, `_seconds + 3600` becomes `+ 120`,
    `[5m]` becomes `[10s]`; that a queue is longer than 100 or a ratio above 0.8 means no time.
    """
    if faster == 1:
        return text

    def shorter(match: re.Match[str]) -> str:
        length = int(match[1]) * _UNITS[match[2]]
        return f"{max(round(length / faster), 1)}ms" if length else match[0]

    for pattern in (_FOR, _RANGE):
        text = pattern.sub(shorter, text)
    return _THRESHOLD.sub(lambda match: f"{match[1]}{int(match[2]) / faster:g}", text)


def _authorization(token: str | None) -> str:
    return f"    authorization:\n      credentials: {json.dumps(token)}\n" if token else ""


def _read(name: str) -> str:
    path = COMPOSE / name
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        raise NightshiftError(f"{path} is missing: the monitoring runs from a clone of the repository") from None


def _replaced(text: str, there: Mapping[str, str], name: str) -> str:
    for old, new in there.items():
        if old not in text:
            raise _unexpected(name)
        text = text.replace(old, new)
    return text


def _unexpected(name: str) -> NightshiftError:
    return NightshiftError(f"{COMPOSE}: {name} was changed so that its addresses or receivers are not found in it")
