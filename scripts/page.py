"""A self-contained HTML page of facts, plots and tables. Whatever comes from the database is escaped.

It needs nothing but itself: no network, no font, no script, and its own policy forbids a browser to fetch any. A page
is written whole or not at all.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from core.errors import UsageError
from scripts.cli import cell

_GENERATOR = '<meta name="generator" content="Nightshift">'
_HEAD_BYTES = 1024


@dataclass(frozen=True, slots=True)
class Key:
    """What a colour of a plot means. `shape`: line, dashed, dotted, fill, up, down; `colour`: of the page's style."""

    name: str
    colour: str
    shape: str = "line"


@dataclass(frozen=True, slots=True)
class Plot:
    """A plot of a page.

    Attributes:
        wide, narrow: the SVG for a screen and for a telephone; markup of ours.
        keys: none where nothing needs an explanation.
        note: a sentence below it.
    """

    caption: str
    wide: Markup
    narrow: Markup
    keys: Sequence[Key] = ()
    note: str = ""
    kind: str = "plot"


@dataclass(frozen=True, slots=True)
class Table:
    """Columns whose name ends in `>` are aligned right; `note` stands below."""

    caption: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    note: str = ""
    kind: str = "table"


@dataclass(frozen=True, slots=True)
class Facts:
    """Names and values in a grid."""

    caption: str
    facts: Sequence[tuple[str, Any]]
    kind: str = "facts"


@dataclass(frozen=True, slots=True)
class Notes:
    """Explanations that open at a click: a term and what it means."""

    caption: str
    notes: Sequence[tuple[str, str]]
    kind: str = "notes"


Block = Plot | Table | Facts | Notes


@dataclass(frozen=True, slots=True)
class Page:
    """What a report says.

    Attributes:
        lead: a line below the title.
        warnings: what a reader must not miss, above everything else.
        facts: the figures that matter most.
        foot: the last line.
    """

    title: str
    lead: str
    facts: Sequence[tuple[str, Any]] = ()
    blocks: Sequence[Block] = ()
    warnings: Sequence[str] = ()
    foot: str = ""


def check_target(path: Path, *, force: bool = False) -> Path:
    """`path` if a page can be written there; asked before the work, so that it is not done in vain.

    Raises:
        UsageError: a directory, a device, no directory to be in, or, without `force`, a file that is no page of ours.
    """
    if path.is_dir():
        raise UsageError(f"--out: {path} is a directory: name a file")
    if not path.absolute().parent.is_dir():
        raise UsageError(f"--out: there is no directory {path.absolute().parent}")
    if path.exists() and not path.is_file():
        raise UsageError(f"--out: {path} is no regular file: a page is put in its place in one piece")
    if path.exists() and not force and not _is_ours(path):
        raise UsageError(f"--out: {path} exists and is no report: name another file, or replace it with --force")
    return path


def _is_ours(path: Path) -> bool:
    try:
        with path.open("rb") as stream:
            return _GENERATOR.encode() in stream.read(_HEAD_BYTES)
    except OSError as error:
        raise UsageError(f"--out: {path} cannot be read: {error.strerror}") from None


def render(page: Page) -> str:
    """The page as HTML."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["cell"] = cell
    return environment.get_template("page.html").render(page=page)


def write_page(path: Path, page: Page) -> None:
    """Write `page` to `path`, replacing a file of that name at once. Two writers of one path leave one's whole page.

    Raises:
        UsageError: it cannot be written there; whatever was there still is.
    """
    new = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        new.write_text(render(page), encoding="utf-8")
        new.replace(path)
    except OSError as error:
        raise UsageError(f"--out: {path} cannot be written: {error.strerror}") from None
    finally:
        new.unlink(missing_ok=True)
