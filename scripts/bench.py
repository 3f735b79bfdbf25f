"""`nightshift bench`: measure on servers of its own, which live in a temporary directory as long as the measurement."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable
from typing import Annotated, Any

import typer

from core.errors import NightshiftError
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
    assets: Annotated[int, typer.Option(min=8, max=10_000, help="Assets of the synthetic market.")] = 50,
    json: Json = False,
) -> None:
    """How long a night takes, from planning to the end of the run."""
    from benchmarks.night import measure_nights

    _measure(measure_nights, workers, as_json=json, users=users, nights=nights, assets=assets)


@app.command()
def workers(
    users: Annotated[int, typer.Option(min=1, help="Users with one simulation each.")] = 1_000_000,
    rounds: Annotated[int, typer.Option(min=1, max=100, help="Nights of each number, after one to warm up.")] = 12,
    workers: Annotated[int | None, typer.Option(min=1, max=256, help="Worker processes.")] = None,
    against: Annotated[list[int] | None, typer.Option(min=1, max=256, help="Another number; repeatable.")] = None,
    json: Json = False,
) -> None:
    """Whether more worker processes make a night longer. Nights of each number in turn, compared round by round."""
    from benchmarks.workers import measure_workers

    _measure(measure_workers, workers, as_json=json, users=users, rounds=rounds, against=against or [3])


@app.command()
def peers(
    users: Annotated[int, typer.Option(min=1, help="Users of Nightshift's nights.")] = 100_000,
    peer_users: Annotated[int, typer.Option(min=1, help="The first so many of them are the peers'.")] = 2_000,
    nights: Annotated[int, typer.Option(min=1, max=365, help="Nights to measure, after one to warm up.")] = 3,
    workers: Annotated[int | None, typer.Option(min=1, max=256, help="Worker processes of each.")] = None,
    json: Json = False,
) -> None:
    """How much faster that is than a Celery task a user. Also a task for a hundred, and tasks that do nothing."""
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
    """How long work takes that is done again. Of one simulation, of all users; and a night that comes meanwhile."""
    from benchmarks.reprocess import measure_reprocess

    _measure(measure_reprocess, workers, as_json=json, users=users, days=days, repeats=repeats)


@app.command()
def prices(
    symbols: Annotated[int, typer.Option(min=1, max=10_000, help="Symbols in a window.")] = 10_000,
    peer_symbols: Annotated[int, typer.Option(min=1, help="The first so many of them are the peer's.")] = 1_000,
    windows: Annotated[int, typer.Option(min=1, max=200, help="Windows to measure, after two to warm up.")] = 12,
    json: Json = False,
) -> None:
    """How long a window of prices takes. From the parsed answer to committed and cached; and with the ORM."""
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
def digests(
    users: Annotated[int, typer.Option(min=1, help="Users with one simulation each.")] = 1_000_000,
    nights: Annotated[int, typer.Option(min=1, max=100, help="Nights alone, and as many beside mails.")] = 3,
    mails: Annotated[int, typer.Option(min=11, help="The first so many users get a digest.")] = 10_000,
    workers: Annotated[int | None, typer.Option(min=1, max=256, help="Worker processes.")] = None,
    json: Json = False,
) -> None:
    """What digest mails that go out cost a night."""
    from benchmarks.digests import measure_digests

    _measure(measure_digests, workers, as_json=json, users=users, nights=nights, digests=mails)


@app.command()
def pages(
    users: Annotated[int, typer.Option(min=1_000, help="Users with one simulation each.")] = 1_000_000,
    runs: Annotated[int, typer.Option(min=10, max=10_000, help="Past runs, of a hundred batches each.")] = 1_000,
    workers: Annotated[int | None, typer.Option(min=1, max=256, help="Worker processes, which are idle.")] = None,
    json: Json = False,
) -> None:
    """How long the pages and Prometheus' scrape take."""
    from benchmarks.pages import measure_pages

    _measure(measure_pages, workers, as_json=json, users=users, runs=runs)


@app.command()
def backups(
    users: Annotated[int, typer.Option(min=1, help="Users with one simulation each.")] = 1_000_000,
    nights: Annotated[int, typer.Option(min=1, max=30, help="Nights before the backup.")] = 2,
    workers: Annotated[int | None, typer.Option(min=1, max=256, help="Worker processes.")] = None,
    json: Json = False,
) -> None:
    """How long a backup takes to make, prove and restore. Exit code 1 unless all is equal."""
    from benchmarks.backups import measure_backups

    _measure(measure_backups, workers, as_json=json, users=users, nights=nights)


@app.command()
def alerts(
    only: Annotated[list[str] | None, typer.Option(help="This alert, e.g. BeatSilent; repeatable.")] = None,
    json: Json = False,
) -> None:
    """Provoke every alert on a stack of its own. With Prometheus and Alertmanager; 1 if one does not fire or clear."""
    from benchmarks.alerts.measure import measure_alerts, pace
    from core.log import configure_logging
    from core.settings import get_settings

    settings = get_settings()
    # The stack's restarts are what is asked for; the processes log into files of their own.
    configure_logging(settings.model_copy(update={"log_level": "error"}))
    with interruptible():
        found = measure_alerts(only or [], settings=settings, tell=note)
    if json:
        print_json([dataclasses.asdict(fired) | {"ok": fired.ok} for fired in found])
    else:
        print_table(
            ["alert", "provoked by", "ended by", "fired after s>", "cleared after s>", "suppressed", "rows"],
            [[f.alert, f.provoked, f.cured, f.fired_s, f.cleared_s, f.suppressed, f.rows] for f in found],
            title=pace(),
        )
    missing = [fired.alert for fired in found if not fired.ok]
    if missing:
        raise NightshiftError(f"{len(missing)} of {len(found)} alerts did not fire or not clear: {', '.join(missing)}")


@app.command()
def years(
    users: Annotated[int, typer.Option(min=1, help="Users with one simulation each.")] = 1_000,
    nights: Annotated[int, typer.Option(min=1, max=2_000, help="Nights, each with the maintenance of a day.")] = 400,
    workers: Annotated[int | None, typer.Option(min=1, max=256, help="Worker processes.")] = None,
    json: Json = False,
) -> None:
    """Whether everything levels off over the years. Tables, partitions, the time of a night; nothing needed goes."""
    from benchmarks.years import measure_years

    _measure(measure_years, workers, as_json=json, users=users, nights=nights)


@app.command()
def partitions(
    users: Annotated[int, typer.Option(min=1, help="Users with one simulation each.")] = 100_000,
    nights: Annotated[int, typer.Option(min=1, max=100, help="Nights with each number of partitions.")] = 5,
    workers: Annotated[int | None, typer.Option(min=1, max=256, help="Worker processes.")] = None,
    json: Json = False,
) -> None:
    """How long a night takes beside a thousand partitions. And beside a hundred."""
    from benchmarks.years import measure_partitions

    _measure(measure_partitions, workers, as_json=json, users=users, nights=nights)


@app.command()
def scaling(json: Json = False) -> None:
    """How many workers would have been wanted. Over recorded nights and reprocessing: neither flapping nor late."""
    from benchmarks.scaling import measure_scaling
    from core.settings import get_settings

    settings = get_settings()
    found = measure_scaling(settings=settings, tell=note)
    if json:
        print_json(found)
        return
    print_table(
        ["scenario", "changes>", "flaps>", "late, s>", "at most>", "done after, s>", "with fewest>", "with most>",
         "worker hours>", "with most>"],
        [
            [name, its["changes"], its["flaps"], its["lag_s"], its["most_workers"],
             *(its["done_after_s"][how] for how in ("wanted", "fewest", "most")),
             *(its["worker_hours"][how] for how in ("wanted", "most"))]
            for name, its in found.items()
        ],
    )  # fmt: skip


@app.command()
def tables(
    users: Annotated[int, typer.Option(min=100, help="Users of the largest night.")] = 1_000_000,
    workers: Annotated[int | None, typer.Option(min=1, max=256, help="Worker processes.")] = None,
) -> None:
    """All tables of docs/performance.md: about fifteen minutes."""
    from benchmarks.tables import tables as measured_tables
    from core.settings import get_settings

    settings = get_settings()
    quiet_logging(settings)
    settings = settings.model_copy(update={"workers": workers or settings.workers})
    with interruptible():
        for table in measured_tables(users=users, settings=settings, tell=note):
            sys.stdout.write(table + "\n\n")
            sys.stdout.flush()


def _measure(measure: Callable[..., dict[str, Any]], workers: int | None, *, as_json: bool, **sizes: Any) -> None:
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
            rows += [[f"{name}: {part}{_what(figure)}", *_cells(figure)] for part, figure in value.items()]
        elif not isinstance(value, list):
            rows.append([name, *_cells(value)])
    print_table(["figure", "min>", "median>", "max>"], rows)


def _cells(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [cell(part) for part in value.values()]
    return ["", cell(value), ""]


def _what(value: Any) -> str:
    return " (low, mean, high)" if isinstance(value, dict) and "mean" in value else ""
