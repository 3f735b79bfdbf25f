"""`nightshift bench`: measure on servers of its own, which live in a temporary directory as long as the measurement."""

from __future__ import annotations

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
    from core.settings import get_settings

    settings = get_settings()
    quiet_logging(settings)
    with interruptible():
        result = measure_nights(
            users=users, nights=nights, workers=workers or settings.workers, settings=settings, tell=note
        )
    if json:
        print_json(result)
    else:
        print_table(["figure", "min>", "median>", "max>"], [[name, *_cells(value)] for name, value in result.items()])


def _cells(value: Any) -> list[str]:
    if isinstance(value, dict):
        return [cell(value["min"]), cell(value["median"]), cell(value["max"])]
    return ["", cell(value), ""]
