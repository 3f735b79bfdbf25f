"""What the workers said: their logs are JSON lines."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_NEEDLESS = ("batch is taken", "batch is done, cancelled or not due")


@dataclass(slots=True)
class Said:
    """Of a run: deliveries that found nothing to do, and the errors of failed attempts by batch."""

    needless: int = 0
    errors: dict[int, list[str]] = field(default_factory=dict)


def read_logs(directory: Path) -> Said:
    """Read the logs of the simulations workers."""
    said = Said()
    for event in _events(sorted(directory.glob("simulations.log*"))):
        if event.get("event") in _NEEDLESS:
            said.needless += 1
        elif event.get("event") == "batch attempt failed":
            said.errors.setdefault(int(event["batch"]), []).append(str(event.get("error")))
    return said


def _events(files: Sequence[Path]) -> Iterator[dict[str, Any]]:
    for path in files:
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            with suppress(ValueError):
                event = json.loads(line)
                if isinstance(event, dict):
                    yield event
