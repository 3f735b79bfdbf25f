"""Types of settings that are more than a number or a text: what is accepted is used exactly as it is written.

A value that would be misread in silence is refused here, in one line that does not repeat it.
"""

from __future__ import annotations

import ipaddress
import re
from datetime import time, timedelta
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field

_number = re.compile(r"\s*[+-]?[0-9]+(\.[0-9]+)?\s*").fullmatch
_ANYBODY = "*"
_YEAR = timedelta(days=366)


def _seconds_as_number(value: object) -> object:
    # A variable is a text, and pydantic takes a text for ISO 8601 alone.
    return float(value) if isinstance(value, str) and _number(value) else value


def _utc_alone(value: time) -> time:
    if value.tzinfo is not None:
        raise ValueError("a time of day in UTC, without a zone or an offset, e.g. 00:01")
    return value


def _somewhere(value: object) -> object:
    # An empty path is the current directory, which nobody means who writes nothing.
    if isinstance(value, str) and not value.strip():
        raise ValueError("a directory; unset it for the default, or write . for the current one")
    return value


def _perhaps(value: object) -> object:
    # As compose files leave it, which pass every variable on.
    return None if isinstance(value, str) and not value.strip() else value


def _addresses(value: str) -> str:
    """The list as uvicorn reads it; what it would take for a name, and never meet, is refused."""
    parts = [part.strip() for part in value.split(",") if part.strip()]
    for number, part in enumerate(parts, start=1):
        if parts != [_ANYBODY] and not _is_address(part):
            raise ValueError(
                f"number {number} is neither an address (10.0.0.2) nor a network (10.0.0.0/8);"
                f" {_ANYBODY}, for whoever connects, stands alone"
            )
    return ",".join(parts)


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_network(text) if "/" in text else ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


Port = Annotated[int, Field(ge=0, le=65535)]
_SECONDS_TOO = BeforeValidator(_seconds_as_number)
Interval = Annotated[timedelta, Field(gt=timedelta(0), le=_YEAR), _SECONDS_TOO]
# Far enough for any history of prices, and every moment that is reckoned with it is still a date.
ClockOffset = Annotated[timedelta, Field(ge=-100 * _YEAR, le=100 * _YEAR), _SECONDS_TOO]
TimeOfDay = Annotated[time, AfterValidator(_utc_alone)]
Directory = Annotated[Path, BeforeValidator(_somewhere)]
PathOrNone = Annotated[Path | None, BeforeValidator(_perhaps)]
Proxies = Annotated[str, AfterValidator(_addresses)]
