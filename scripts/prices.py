"""`nightshift prices`: closes from files into the database, and the newest of them back out."""

from __future__ import annotations

import dataclasses
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
    calendar: Annotated[
        str | None, typer.Option(help="When all of them trade: 24/7, weekdays, or an exchange: XNYS.")
    ] = None,
    json: Json = False,
) -> None:
    """Import daily closes. Bad rows are reported and left out; importing again changes nothing."""
    from core.clock import utc_now
    from core.database import session_scope
    from services.prices import RejectedRowsError, import_closes

    with connected(migrate_own=True) as servers:
        try:
            with session_scope(servers.engine) as session:
                summary = import_closes(session, file, now=utc_now(), strict=strict, calendar=calendar)
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
        if summary.kept:
            note(f"{summary.kept:,} closes that a person has corrected are kept as they are")
        if summary.run is not None:
            note(f"run {summary.run} does again what used other closes; the next tick begins it")
    if summary.rejected and len(summary.rejected) == summary.rows:
        raise typer.Exit(1)


def _report(rejected: list[BadRow]) -> None:
    for row in rejected[:_SHOWN_ROWS]:
        note(f"line {row.line}: {row.reason}")
    if len(rejected) > _SHOWN_ROWS:
        note(f"… and {len(rejected) - _SHOWN_ROWS:,} more (--json lists all of a partial import)")


@app.command()
def latest(symbol: str, json: Json = False) -> None:
    """The newest close of a symbol, and its newest price where a source follows it."""
    from core.database import session_scope
    from models.ticks import from_ticks
    from services.price_cache import PriceCache, cache_url
    from services.prices import latest_close

    with connected() as servers:
        with session_scope(servers.engine) as session:
            close = latest_close(session, symbol)
        cache = PriceCache(cache_url(servers.settings, servers.urls.redis_url))
        price = cache.get(servers.engine, [symbol]).get(symbol)
    newest = None if price is None else {"price": from_ticks(price.price), "ts": price.ts, "source": price.source}
    if json:
        print_json(dataclasses.asdict(close) | {"newest": newest})
        return
    rows: list[list[object]] = [[close.symbol, f"close of {close.day}", str(close.close), close.source]]
    if newest is not None:
        rows.append(
            [close.symbol, f"price of {newest['ts']:%Y-%m-%d %H:%M:%S}", str(newest["price"]), newest["source"]]
        )
    print_table(["symbol", "what", "price>", "source"], rows)
