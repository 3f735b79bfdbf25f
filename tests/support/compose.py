"""compose.yaml as Docker Compose reads it: anchors merged, variables of `.env.example` filled in; and its secrets."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from tests.support.nights import ROOT

COMPOSE = ROOT / "compose"
OURS = "nightshift"
_VARIABLE = re.compile(r"\$\{(?P<name>\w+)(?:(?P<how>:-|:\?|-)(?P<rest>[^}]*))?\}")


@lru_cache(maxsize=1)
def example() -> dict[str, str]:
    """The variables of `.env.example`."""
    lines = (COMPOSE / ".env.example").read_text("utf-8").splitlines()
    return dict(line.split("=", 1) for line in lines if line and not line.startswith("#"))


@lru_cache(maxsize=1)
def document() -> dict[str, Any]:
    """The whole of compose.yaml, its variables filled in."""
    document: dict[str, Any] = fill(yaml.safe_load((COMPOSE / "compose.yaml").read_text("utf-8")), example())
    return document


def fill(value: Any, variables: Mapping[str, str]) -> Any:
    """The value with `${NAME}`, `${NAME:-default}` and `${NAME:?message}` replaced, in all its texts."""
    if isinstance(value, dict):
        return {name: fill(inner, variables) for name, inner in value.items()}
    if isinstance(value, list):
        return [fill(inner, variables) for inner in value]
    if not isinstance(value, str):
        return value

    def filled(match: re.Match[str]) -> str:
        found = variables.get(match["name"])
        if found:
            return found
        assert match["how"] != ":?", f"{match['name']} is required, and not in .env.example"
        return match["rest"] or ""

    return _VARIABLE.sub(filled, value)


def services() -> dict[str, dict[str, Any]]:
    """The services by name."""
    found: dict[str, dict[str, Any]] = document()["services"]
    return found


def ours() -> dict[str, dict[str, Any]]:
    """The services that run our image."""
    return {name: service for name, service in services().items() if service["image"].startswith(f"{OURS}:")}


def secrets_of(service: str) -> dict[str, str]:
    """The secrets of a service: the name of the file in its container, and which secret it is."""
    named = services()[service].get("secrets", [])
    return dict((name, name) if isinstance(name, str) else (name["target"], name["source"]) for name in named)


def make_secrets(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run make-secrets.sh; what it said."""
    return subprocess.run(
        [COMPOSE / "make-secrets.sh", "--directory", directory, *arguments], capture_output=True, text=True, check=True
    )


def read_conf(path: Path) -> dict[str, str]:
    """PostgreSQL's settings of a file, without quotes."""
    lines = path.read_text("utf-8").splitlines()
    pairs = (line.split("#")[0].split("=", 1) for line in lines if "=" in line.split("#")[0])
    return {name.strip(): value.strip().strip("'") for name, value in pairs}
