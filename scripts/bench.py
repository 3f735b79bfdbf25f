"""`nightshift bench`: measure on servers of its own, which live in a temporary directory as long as the measurement."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer

from scripts.cli import Json, cell, interruptible, note, print_json, print_table, quiet_logging

app = typer.Typer()


@app.callback()
def _group() -> None:
    """Measure."""


@app.command()
def night(
    users: Annotated[int, typer.Option(min=1, help="Users with one simulation each.")] = 100_000,
    nights: Annotated[int, typer.Option(min=1, max=365, help="Nights to measure, after one to warm up.")] = 3,
    workers: Annotated[int | None, typer.Option(min=1, max=256, help="Worker processes.")] = None,
    json: Json = False,
) -> None:
    """How long a night takes, from planning to the end of the run."""
    from benchmarks.night import measure_nights

    _measure(measure_nights, workers, as_json=json, users=users, nights=nights)


@app.command()
def peers(
    users: Annotated[int, typer.Option(min=1, help="Users of Nightshift's nights.")] = 100_000,
    peer_users: Annotated[int, typer.Option(min=1, help="The first so many of them are the peers'.")] = 2_000,
    nights: Annotated[int, typer.Option(min=1, max=365, help="Nights to measure, after one to warm up.")] = 3,
    workers: Annotated[int | None, typer.Option(min=1, max=256, help="Worker processes of each.")] = None,
    json: Json = False,
) -> None:
    """How much faster that is than a Celery task for each user, or for a hundred, or tasks that do nothing."""
    from benchmarks.peers.measure import measure_peers

    _measure(measure_peers, workers, as_json=json, users=users, peer_users=peer_users, nights=nights)


@app.command()
def reprocess(
    users: Annotated[int, typer.Option(min=1, help="Users with one simulation each.")] = 100_000,
    days: Annotated[int, typer.Option(min=1, max=365, help="The days that are done again.")] = 30,
    repeats: Annotated[int, typer.Option(min=1, max=100, help="How often each is measured.")] = 3,
    workers: Annotated[int | None, typer.Option(min=1, max=256, help="Worker processes.")] = None,
    json: Json = False,
) -> None:
    """How long work takes that is done again: of one simulation, of all users; and a night that comes meanwhile."""
    from benchmarks.reprocess import measure_reprocess

    _measure(measure_reprocess, workers, as_json=json, users=users, days=days, repeats=repeats)


@app.command()
def prices(
    symbols: Annotated[int, typer.Option(min=1, max=10_000, help="Symbols in a window.")] = 10_000,
    peer_symbols: Annotated[int, typer.Option(min=1, help="The first so many of them are the peer's.")] = 1_000,
    windows: Annotated[int, typer.Option(min=1, max=200, help="Windows to measure, after two to warm up.")] = 12,
    json: Json = False,
) -> None:
    """How long a window of prices takes, from the parsed answer to committed and cached; and with the ORM."""
    from benchmarks.prices import measure_prices

    _measure(measure_prices, None, as_json=json, symbols=symbols, peer_symbols=peer_symbols, windows=windows)


@app.command()
def beside(
    users: Annotated[int, typer.Option(min=1, help="Users with one simulation each.")] = 1_000_000,
    nights: Annotated[int, typer.Option(min=1, max=100, help="Nights alone, and as many beside prices.")] = 3,
    symbols: Annotated[int, typer.Option(min=1, max=10_000, help="Symbols in a window.")] = 10_000,
    window_seconds: Annotated[int, typer.Option(min=1, help="How often a window comes; in production 300.")] = 10,
    workers: Annotated[int | None, typer.Option(min=1, max=256, help="Worker processes.")] = None,
    json: Json = False,
) -> None:
    """What prices that come in cost a night."""
    from benchmarks.beside import measure_beside

    sizes = {"users": users, "nights": nights, "symbols": symbols, "window_seconds": window_seconds}
    _measure(measure_beside, workers, as_json=json, **sizes)


@app.command()
def tables(
    users: Annotated[int, typer.Option(min=100, help="Users of the largest night.")] = 1_000_000,
    workers: Annotated[int | None, typer.Option(min=1, max=256, help="Worker processes.")] = None,
) -> None:
    """Everything that docs/performance.md claims, as its tables; about eleven minutes."""
    from benchmarks.tables import tables as measured_tables
    from core.settings import get_settings

    settings = get_settings()
    quiet_logging(settings)
    settings = settings.model_copy(update={"workers": workers or settings.workers})
    with interruptible():
        for table in measured_tables(users=users, settings=settings, tell=note):
            sys.stdout.write(table + "\n\n")
            sys.stdout.flush()


def _measure(measure: Callable[..., dict[str, Any]], workers: int | None, *, as_json: bool, **sizes: int) -> None:
    """Measure with this process' settings, and print the figures."""
    from core.settings import get_settings

    settings = get_settings()
    quiet_logging(settings)
    with interruptible():
        result = measure(**sizes, workers=workers or settings.workers, settings=settings, tell=note)
    if as_json:
        print_json(result)
    else:
        _print_figures(result)


def _print_figures(result: dict[str, Any]) -> None:
    """Figures by name, with groups of them (seconds by stage) as one line each; lists are for machines."""
    rows: list[list[str]] = []
    for name, value in result.items():
        if isinstance(value, dict) and "median" not in value:
            rows += [[f"{name}: {part}", *_cells(figure)] for part, figure in value.items()]
        elif not isinstance(value, list):
            rows.append([name, *_cells(value)])
    print_table(["figure", "min>", "median>", "max>"], rows)


def _cells(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [cell(value["min"]), cell(value["median"]), cell(value["max"])]
    return ["", cell(value), ""]
