"""`nightshift runs RUN --changes`: what a run has changed and by how much, as a table, as JSON, or all of it as CSV."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from core.errors import UsageError
from scripts.cli import connected, note, print_json, print_table

if TYPE_CHECKING:
    from services.changes import Change, ChangeTotals

SHOWN = 20
_FIELDS = (
    "user_id", "simulation_id", "first_changed_day", "last_day", "old_equity", "new_equity", "difference", "percent",
)  # fmt: skip
_COLUMNS = ["user>", "simulation>", "first day>", "last day>", "equity was>", "equity is>", "difference>", "%>"]


@dataclass(frozen=True, slots=True)
class ChangeOptions:
    """How the changes are wanted; `csv`: a file's name, or - for stdout."""

    changes: bool
    limit: int | None
    csv: str | None
    json: bool

    def check(self, run: int | None) -> None:
        """Raise UsageError unless they go together."""
        if not self.changes and (self.limit is not None or self.csv is not None):
            raise UsageError("--limit and --csv are for the changes of a run: add --changes")
        if self.changes and run is None:
            raise UsageError("--changes of which run? write nightshift runs RUN --changes")
        if self.csv is not None and (self.limit is not None or self.json):
            raise UsageError("--csv writes all changes: leave --limit and --json away")


def show_changes(run: int, options: ChangeOptions) -> None:
    """Print or write what the run has changed."""
    from core.database import session_scope
    from services.changes import change_totals, changes_of

    with connected() as servers, session_scope(servers.engine) as session:
        totals = change_totals(session, run)
        if options.csv is not None:
            _write_csv(options.csv, run, changes_of(session, run))
            note(_summary(totals))
            return
        found = list(changes_of(session, run, options.limit or SHOWN))
    if options.json:
        print_json({"totals": totals, "changes": found})
        return
    if found:
        print_table(_COLUMNS, [_row(change) for change in found])
    note(_summary(totals))


def _row(change: Change) -> Sequence[object]:
    # To the tick: a change may be one. Ids are names, which nobody groups by thousands.
    return [
        f"{value:,f}" if isinstance(value, Decimal) else str(value) if isinstance(value, int) else value
        for value in _values(change)
    ]


def _values(change: Change) -> list[object]:
    return [getattr(change, name) for name in _FIELDS]


def _summary(totals: ChangeTotals) -> str:
    parts = [f"{totals.changed:,} simulations changed", f"{totals.unchanged:,} did not"]
    if totals.appeared:
        parts.append(f"{totals.appeared:,} had no equity before")
    if totals.gone:
        parts.append(f"{totals.gone:,} have none any more")
    if totals.kept:
        parts.append(f"{totals.kept:,} keep their old days so far")
    return f"run {totals.run} ({totals.status}): {', '.join(parts)}; together {totals.difference:+,.8f}"


def _write_csv(target: str, run: int, changes: Iterator[Change]) -> None:
    with _opened(target) as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("run_id", *_FIELDS))
        while some := list(islice(changes, 1000)):
            writer.writerows((run, *map(_exact, _values(change))) for change in some)


def _exact(value: object) -> object:
    return f"{value:f}" if isinstance(value, Decimal) else value


@contextmanager
def _opened(target: str) -> Iterator[TextIO]:
    if target == "-":
        yield sys.stdout
    else:
        with Path(target).open("w", encoding="utf-8", newline="") as file:
            yield file
