"""Tables that can be read at any width: a column is left out, or all stand below each other, before one is folded.

A column folded to a letter a line cannot be read, and terminals of eighty columns are what one has on a bad night.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

# What a column of text may be narrowed to; a shorter one is shown whole.
_LEAST_TEXT = 24


def print_rows(
    out: Console, columns: Sequence[str], rows: Sequence[Sequence[Any]], *, title: str | None, spare: Sequence[str]
) -> tuple[str, ...]:
    """Print a table; the names of the columns that were left out.

    Args:
        out: where to; it knows its width.
        columns: those whose name ends in `>` are aligned right.
        rows: cells are text, never markup.
        spare: columns that may be left out, in this order.
    """
    cells = [[cell(value) for value in row] for row in rows]
    left_out: list[str] = []
    waiting = [name for name in spare if name in columns]
    while (table := _table(out, columns, cells, title, left_out)) is None and waiting:
        left_out.append(waiting.pop(0))
    if table is not None:
        out.print(table)
        return tuple(name.removesuffix(">") for name in left_out)
    for line in _records(columns, cells, title):
        out.print(line, markup=False, soft_wrap=True)
    return ()


def _table(
    out: Console, columns: Sequence[str], cells: Sequence[Sequence[str]], title: str | None, without: Collection[str]
) -> Table | None:
    """The table, with its widest column narrowed where that is enough; None where it is not."""
    kept = [number for number, name in enumerate(columns) if name not in without]
    widths = {number: _width(columns[number], [row[number] for row in cells]) for number in kept}
    room = out.width - _frame(len(kept)) - sum(widths.values())
    widest = max(kept, key=widths.__getitem__)
    if room < 0 and not columns[widest].endswith(">") and widths[widest] + room >= _LEAST_TEXT:
        widths[widest] += room
        room = 0
    if room < 0:
        return None
    table = Table(box=SIMPLE_HEAD, title=title, title_justify="left", pad_edge=False)
    for number in kept:
        table.add_column(
            columns[number].removesuffix(">"),
            justify="right" if columns[number].endswith(">") else "left",
            overflow="fold",
            width=widths[number],
        )
    for row in cells:
        table.add_row(*(Text(row[number]) for number in kept))
    return table


def _frame(columns: int) -> int:
    """How wide such a table is without its cells: a space on either side, and three between two columns."""
    return 3 * columns - 1


def _width(name: str, values: Sequence[str]) -> int:
    lines = [name.removesuffix(">"), *(line for value in values for line in value.splitlines())]
    return max(Text(line).cell_len for line in lines)


def _records(columns: Sequence[str], cells: Sequence[Sequence[str]], title: str | None) -> Iterator[str]:
    """Every row as lines of name and value; `–` is left out."""
    if title:
        yield title
    names = [name.removesuffix(">") for name in columns]
    width = max(map(len, names))
    for row in cells:
        yield ""
        for name, value in zip(names, row, strict=True):
            if value != "–":
                yield f"{name:>{width}}  {value}"


def cell(value: Any) -> str:
    """A value as people read it."""
    if value is None:
        return "–"
    for kinds, write in _CELLS:
        if isinstance(value, kinds):
            return write(value)
    return str(value)


# The first that fits: a bool is an int, and a datetime a date.
_CELLS: tuple[tuple[tuple[type, ...], Callable[[Any], str]], ...] = (
    ((bool,), lambda value: "yes" if value else "no"),
    ((datetime,), lambda value: f"{value:%Y-%m-%d %H:%M:%S}"),
    ((Decimal, float), lambda value: f"{value:,.2f}"),
    ((int,), lambda value: f"{value:,}"),
)
