"""`nightshift prices`: closes from files into the database, and the newest of them back out."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from scripts.cli import Json, connected, note, print_json, print_table

if TYPE_CHECKING:
    from price_sources.closes import BadRow
    from services.closed_days import ClosedDays
    from services.market_statistics import MarketStatistics

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
            f" {summary.unchanged:,} known, {len(summary.rejected):,} rejected; {summary.new_symbols:,} new symbols"
        )
        if summary.kept:
            note(f"{summary.kept:,} closes that a person has corrected are kept as they are")
        if summary.closed_days is not None:
            note(_closed(summary.closed_days))
        if summary.run is not None:
            note(f"run {summary.run} does again what used other closes; the next tick begins it")
    if summary.rejected and len(summary.rejected) == summary.rows:
        raise typer.Exit(1)


def _report(rejected: list[BadRow]) -> None:
    for row in rejected[:_SHOWN_ROWS]:
        note(f"line {row.line}: {row.reason}")
    if len(rejected) > _SHOWN_ROWS:
        note(f"… and {len(rejected) - _SHOWN_ROWS:,} more (--json lists all of a partial import)")


def _closed(found: ClosedDays) -> str:
    closes = "1 close is of a day" if found.closes == 1 else f"{found.closes:,} closes are of days"
    first = f"{found.symbol} on {found.day:%A} {found.day}"
    return f"{closes} on which the market is closed (calendar {found.calendar}: {first}): taken as any other"


@app.command()
def latest(symbol: str, json: Json = False) -> None:
    """The newest close of a symbol. Where a source follows it, its newest price, and its last day and month."""
    from core.clock import utc_now
    from core.database import session_scope
    from models.ticks import from_ticks
    from services.market_statistics import market_statistics
    from services.price_cache import PriceCache, cache_url
    from services.prices import latest_close

    with connected() as servers:
        with session_scope(servers.engine) as session:
            close = latest_close(session, symbol)
        cache = PriceCache(cache_url(servers.settings, servers.urls.redis_url))
        price = cache.get(servers.engine, [symbol]).get(symbol)
        market = market_statistics(servers.engine, cache, [symbol], now=utc_now()).get(symbol)
    newest = None if price is None else {"price": from_ticks(price.price), "ts": price.ts, "source": price.source}
    if json:
        statistics = None if market is None else market.as_json()
        print_json(dataclasses.asdict(close) | {"newest": newest, "statistics": statistics})
        return
    rows: list[list[object]] = [[f"close of {close.day}", str(close.close), close.source]]
    if newest is not None:
        rows.append([f"price of {newest['ts']:%Y-%m-%d %H:%M:%S}", str(newest["price"]), newest["source"]])
    if market is not None:
        rows += _day_and_month(market)
    print_table([symbol, "value>", "source"], rows)


def _day_and_month(market: MarketStatistics) -> list[list[object]]:
    change = None if market.change_24h_ppm is None else f"{market.change_24h_ppm / 10_000:+.2f} %"
    volatility = None if market.volatility_30d is None else f"{market.volatility_30d:.1%} a year"
    found: list[tuple[str, object]] = [
        ("change in 24 hours", change),
        ("highest in 24 hours", market.high_24h),
        ("lowest in 24 hours", market.low_24h),
        ("volatility of 30 days", volatility),
    ]
    return [[name, str(value), None] for name, value in found if value is not None]
