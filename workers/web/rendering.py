"""Templates and the files beside them. Whatever comes from the database is escaped; a file's name tells its content."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape
from starlette.requests import Request
from starlette.responses import Response

_STATIC = Path(__file__).with_name("static")
_TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
NOTHING = "–"


@dataclass(frozen=True, slots=True)
class _File:
    content: bytes
    media_type: str


class Renderer:
    """Reads templates and files once."""

    def __init__(self) -> None:
        self._files: dict[str, _File] = {}
        addresses = {}
        for path in sorted(_STATIC.iterdir()):
            content = path.read_bytes()
            name = f"{path.stem}.{hashlib.sha256(content).hexdigest()[:12]}{path.suffix}"
            self._files[name] = _File(content, _TYPES[path.suffix])
            addresses[path.name] = f"/static/{name}"
        self._environment = Environment(
            loader=PackageLoader("workers.web", "templates"), autoescape=True, undefined=StrictUndefined,
            trim_blocks=True, lstrip_blocks=True,
        )  # fmt: skip
        self._environment.globals["files"] = addresses
        self._environment.filters.update(_FILTERS)

    def render(self, template: str, values: Mapping[str, Any]) -> str:
        """The template, filled."""
        return self._environment.get_template(template).render(values)

    def static(self, request: Request) -> Response:
        """A file. Browsers keep it for ever: with another content it has another name."""
        found = self._files.get(request.path_params["name"])
        if found is None:
            return Response("there is no such file\n", 404, media_type="text/plain")
        headers = {"Cache-Control": "public, max-age=31536000, immutable"}
        return Response(found.content, media_type=found.media_type, headers=headers)


def count(value: float | Decimal | None) -> str:
    """A number without decimals: 1,234,567."""
    return NOTHING if value is None else f"{value:,.0f}"


def amount(value: float | Decimal | None) -> str:
    """An amount of money: 1,234.57."""
    return NOTHING if value is None else f"{value:,.2f}"


def exact(value: Decimal | None) -> str:
    """All its decimals but trailing zeros; two at least."""
    if value is None:
        return NOTHING
    whole, _, decimals = f"{value:,.8f}".partition(".")
    return f"{whole}.{decimals.rstrip('0').ljust(2, '0')}"


def percent(value: float | None) -> str:
    """A share of 1: 12.34 %."""
    return NOTHING if value is None else f"{100 * value:,.2f} %"


def seconds(value: float | None) -> str:
    """A duration: 0.42 s, 4.2 s, 3 min 12 s, 2 h 05 min."""
    if value is None:
        return NOTHING
    if value < 60:
        return f"{value:.2f} s" if value < 1 else f"{value:.1f} s"
    minutes, rest = divmod(round(value), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours:,} h {minutes:02} min"


def moment(value: datetime | None) -> str | Markup:
    """A moment in UTC, for people and programs."""
    if value is None:
        return NOTHING
    return Markup('<time datetime="{}">{}</time>').format(value.isoformat(), f"{value:%Y-%m-%d %H:%M:%S}")


def days(run: Any) -> str:
    """The days of a run: one, or from to."""
    return f"{run.day}" if run.first_day == run.day else f"{run.first_day} to {run.day}"


def ago(value: datetime | None, now: datetime) -> str:
    """How long before: 4.2 s ago."""
    return NOTHING if value is None else f"{seconds(max((now - value).total_seconds(), 0.0))} ago"


def text_or_nothing(value: object) -> str | Markup:
    """Text as text; None and an empty text as a dash."""
    return NOTHING if value is None or value == "" else escape(value)


def weekday(value: date) -> str:
    """In three letters."""
    return f"{value:%a}"


_FILTERS: dict[str, Callable[..., Any]] = {
    "count": count, "amount": amount, "exact": exact, "percent": percent, "seconds": seconds, "moment": moment,
    "days": days, "ago": ago, "text": text_or_nothing, "weekday": weekday,
}  # fmt: skip
