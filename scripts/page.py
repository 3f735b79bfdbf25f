"""A self-contained HTML page of facts, plots and tables. Whatever comes from the database is escaped."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from core.errors import UsageError
from scripts.cli import cell


@dataclass(frozen=True, slots=True)
class Plot:
    """A caption and an image as a data URI."""

    caption: str
    image: str


@dataclass(frozen=True, slots=True)
class Table:
    """Columns whose name ends in `>` are aligned right."""

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]


@dataclass(frozen=True, slots=True)
class Page:
    """What a report says."""

    title: str
    lead: str
    facts: Sequence[tuple[str, Any]] = ()
    plots: Sequence[Plot] = ()
    tables: Sequence[Table] = field(default=())


def check_target(path: Path) -> Path:
    """`path` if a page can be written there; asked before the work, so that it is not done in vain."""
    if path.is_dir():
        raise UsageError(f"--out: {path} is a directory: name a file")
    if not path.absolute().parent.is_dir():
        raise UsageError(f"--out: there is no directory {path.absolute().parent}")
    return path


def write_page(path: Path, page: Page) -> None:
    """Write `page` to `path`, replacing a file of that name at once."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters["cell"] = cell
    html = environment.get_template("page.html").render(page=page)
    new = path.with_name(f".{path.name}.new")
    new.write_text(html, encoding="utf-8")
    new.replace(path)
