"""`nightshift prices`: closes from files into the database, and the newest of them back out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from scripts.cli import Json, connected, note, print_json, print_table

if TYPE_CHECKING:
    from price_sources.closes import BadRow

app = typer.Typer()

_SHOWN_ROWS = 50


@app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(help="CSV or CSV.GZ with symbol, day, close; also open, high, low, volume.")],
    strict: Annotated[bool, typer.Option("--strict", help="All rows or none.")] = False,
    json: Json = False,
) -> None:
    """Import daily closes. Bad rows are reported and left out; importing again changes nothing."""
    from core.clock import utc_now
    from core.database import session_scope
    from services.prices import RejectedRowsError, import_closes

    with connected(migrate_own=True) as servers:
        try:
            with session_scope(servers.engine) as session:
                summary = import_closes(session, file, now=utc_now(), strict=strict)
        except RejectedRowsError as error:
            _report(error.rejected)
            raise
    _report(summary.rejected)
    if json:
        print_json(summary)
    else:
        note(
            f"{summary.rows:,} rows: {summary.inserted:,} new, {summary.updated:,} changed,"
            f" {summary.unchanged:,} known, {len(summary.rejected):,} rejected; {summary.new_symbols} new symbols"
        )
    if summary.rejected and len(summary.rejected) == summary.rows:
        raise typer.Exit(1)


def _report(rejected: list[BadRow]) -> None:
    for row in rejected[:_SHOWN_ROWS]:
        note(f"line {row.line}: {row.reason}")
    if len(rejected) > _SHOWN_ROWS:
        note(f"… and {len(rejected) - _SHOWN_ROWS:,} more (--json lists all of a partial import)")


@app.command()
def latest(symbol: str, json: Json = False) -> None:
    """The newest close of a symbol."""
    from core.database import session_scope
    from services.prices import latest_close

    with connected() as servers, session_scope(servers.engine) as session:
        close = latest_close(session, symbol)
    if json:
        print_json(close)
    else:
        print_table(["symbol", "day", "close>", "source"], [[close.symbol, close.day, str(close.close), close.source]])
