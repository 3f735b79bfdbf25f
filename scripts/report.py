"""`nightshift report`: one simulation, one run or the whole platform as a page with plots, or as figures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from core.errors import UsageError
from scripts.cli import Json, connected, note, print_json

if TYPE_CHECKING:
    from datetime import datetime

    from sqlalchemy.orm import Session

    from core.settings import Settings
    from scripts.page import Page


def report(
    out: Annotated[Path | None, typer.Option(help="The HTML file to write; an earlier report is replaced.")] = None,
    simulation: Annotated[int | None, typer.Option(help="A simulation's id.")] = None,
    run: Annotated[int | None, typer.Option(help="A run's id.")] = None,
    platform: Annotated[bool, typer.Option("--platform", help="All users together.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is no report.")] = False,
    json: Json = False,
) -> None:
    """Write a report about a simulation, a run or all users. One self-contained HTML file; or its figures as JSON."""
    from core.clock import utc_now
    from core.database import session_scope

    if (simulation is not None) + (run is not None) + platform != 1:
        raise UsageError("give one of --simulation or --run or --platform")
    if out is None and not json:
        raise UsageError("give --out FILE.html for a page, or --json for its figures")
    if out is not None:
        from scripts.page import check_target

        check_target(out, force=force)
    with connected() as servers, session_scope(servers.engine) as session:
        figures = _figures(session, servers.settings, utc_now(), simulation, run)
    if json:
        print_json(figures)
    if out is not None:
        from scripts.page import write_page

        write_page(out, page_of(figures))
        note(f"wrote {out}")


def _figures(session: Session, settings: Settings, now: datetime, simulation: int | None, run: int | None) -> Any:
    from services.report_platform import platform_figures
    from services.report_run import run_figures
    from services.report_simulation import simulation_figures

    if simulation is not None:
        return simulation_figures(session, simulation, settings.max_stale_days)
    if run is not None:
        return run_figures(session, run, now)
    return platform_figures(session, now)


def page_of(figures: Any) -> Page:
    """The page of the figures of a simulation, a run or the platform."""
    from scripts.report_platform import platform_page
    from scripts.report_run import run_page
    from scripts.report_simulation import simulation_page
    from services.report_run import RunFigures
    from services.report_simulation import SimulationFigures

    if isinstance(figures, SimulationFigures):
        return simulation_page(figures)
    if isinstance(figures, RunFigures):
        return run_page(figures)
    return platform_page(figures)
