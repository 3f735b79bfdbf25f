"""`nightshift prices fetch`, `sources`, `unfollow`: prices from providers, and how these are doing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from core.errors import UsageError
from scripts.cli import Json, cell, check_redis, connected, interruptible, note, parse_day, print_json, print_table
from scripts.cli import progress as progress_bar

if TYPE_CHECKING:
    from services.fetch_now import FetchSummary
    from services.source_reports import SourceReport

Source = Annotated[str, typer.Option(help="binance, coingecko, osrs or csv.")]


def fetch(
    source: Source,
    symbols: Annotated[
        str | None, typer.Option(help="SYMBOL or SYMBOL=CODE, by commas; followed from now on. Else all followed ones.")
    ] = None,
    since: Annotated[str | None, typer.Option(help="The closes since this day, instead of the newest prices.")] = None,
    calendar: Annotated[str | None, typer.Option(help="When they trade: 24/7, weekdays, or an exchange: XNYS.")] = None,
    json: Json = False,
) -> None:
    """Fetch prices now, and follow the symbols from then on."""
    from core.clock import utc_now
    from core.database import session_scope
    from services.fetch_now import fetch_now, requests_for
    from services.fetchers import Fetchers
    from services.following import all_followed, follow, parse_symbols
    from services.price_cache import PriceCache, cache_url

    day = parse_day(since, "--since")
    wanted = parse_symbols(symbols) if symbols is not None else None
    if calendar is not None and wanted is None:
        raise UsageError("--calendar belongs to --symbols: say whose calendar it is")
    with interruptible(), connected(migrate_own=True) as servers:
        check_redis(servers.urls.redis_url)
        enabled = source in {name.strip() for name in servers.settings.price_sources.split(",")}
        settings = servers.settings if enabled else servers.settings.model_copy(update={"price_sources": source})
        with Fetchers(settings, servers.urls.redis_url) as fetchers:
            fetcher = fetchers.get(source)
            with session_scope(servers.engine) as session:
                if wanted is not None:
                    assets = follow(session, source, wanted, now=utc_now(), calendar=calendar)
                else:
                    assets = all_followed(session, source)
            if not assets:
                raise UsageError(f"{source} follows nothing yet: say what, with --symbols SYMBOL=CODE,…")
            asks = requests_for(fetcher, assets, day, now=utc_now(), settings=settings)
            with progress_bar() as bar:
                task = bar.add_task("fetching", total=len(asks), detail=f"{len(assets):,} symbols")
                summary = fetch_now(
                    servers.engine, fetcher, assets, asks, clock=utc_now,
                    cache=PriceCache(cache_url(settings, servers.urls.redis_url)), settings=settings,
                    on_request=lambda: bar.advance(task),
                )  # fmt: skip
    _tell(summary, enabled=enabled, as_json=json)


def _tell(summary: FetchSummary, *, enabled: bool, as_json: bool) -> None:
    for error in summary.errors:
        note(f"nightshift: {error}")
    if not enabled:
        note(f"{summary.source} is not in NIGHTSHIFT_PRICE_SOURCES: nothing is fetched by itself")
    if as_json:
        print_json(summary)
    else:
        refused = ", ".join(f"{count:,} {reason}" for reason, count in sorted(summary.refused.items()))
        note(
            f"{summary.source}: {summary.assets:,} symbols, {summary.requests:,} requests,"
            f" {summary.stored:,} new prices,"
            f" {summary.held:,} held" + (f"; not used: {refused}" if refused else "")
            + "".join(f"; run {run} does again what used other closes" for run in summary.runs)
        )  # fmt: skip
    if summary.errors and not summary.stored:
        raise typer.Exit(1)


def sources(json: Json = False) -> None:
    """The sources that prices come from. What they allow, what they follow, how they answer."""
    from core.database import session_scope
    from price_sources.registry import KNOWN, limits_of
    from price_sources.registry import sources as enabled_sources
    from services.source_reports import source_reports

    with connected() as servers, session_scope(servers.engine) as session:
        enabled = enabled_sources(servers.settings)
        limits = {name: str(limit) for name, limit in limits_of(servers.settings).items()}
        reports = source_reports(session, enabled, limits)
    if json:
        print_json({"enabled": reports, "known": {name: known.description for name, known in KNOWN.items()}})
        return
    if reports:
        print_table(_COLUMNS, [_row(report) for report in reports])
    else:
        note("no source is enabled: name some in NIGHTSHIFT_PRICE_SOURCES, e.g. binance,coingecko")
    for name in KNOWN.keys() - enabled.keys():
        note(f"{name}: {KNOWN[name].description}")


_COLUMNS = [
    "source", "symbols>", "newest window", "to be filled>", "closes before", "held>", "not used", "limit", "trouble"
]  # fmt: skip


def _row(report: SourceReport) -> list[object]:
    unused = ", ".join(f"{count} {reason}" for reason, count in sorted(report.counts.items()))
    return [
        report.name, report.assets, cell(report.newest_window), report.failed_windows,
        f"{report.closes_through:%Y-%m-%d}" if report.closes_through else None, report.held, unused or None,
        report.limit, report.alert,
    ]  # fmt: skip


def unfollow(
    source: Source,
    symbols: Annotated[list[str], typer.Argument(help="Our symbols.")],
) -> None:
    """Fetch these no more from a source. Their prices stay."""
    from core.database import session_scope
    from services.following import unfollow as forget

    with connected() as servers, session_scope(servers.engine) as session:
        count = forget(session, source, symbols)
    note(f"{source} is asked for {count:,} symbols less")
