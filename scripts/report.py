"""`nightshift report`: one simulation or one run as a page with plots."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from core.errors import UsageError
from scripts.cli import connected, note

if TYPE_CHECKING:
    from scripts.page import Page
    from services.reports import RunReport, SimulationReport
    from services.runs import BatchView


def report(
    out: Annotated[Path, typer.Option(help="The HTML file to write.")],
    simulation: Annotated[int | None, typer.Option(help="A simulation's id.")] = None,
    run: Annotated[int | None, typer.Option(help="A run's id.")] = None,
) -> None:
    """Write a self-contained HTML report about a simulation or a run."""
    from core.clock import utc_now
    from core.database import session_scope
    from scripts.page import check_target, write_page
    from services.reports import run_report, simulation_report

    if (simulation is None) == (run is None):
        raise UsageError("give either --simulation or --run")
    check_target(out)
    with connected() as servers, session_scope(servers.engine) as session:
        if simulation is not None:
            page = simulation_page(simulation_report(session, simulation))
        else:
            page = run_page(run_report(session, run or 0, utc_now()))
    write_page(out, page)
    note(f"wrote {out}")


def simulation_page(data: SimulationReport) -> Page:
    """Equity, drawdown, statistics and trades of a simulation."""
    from scripts.page import Page, Plot, Table
    from scripts.plots import line_plot

    settings, days = data.settings, data.days
    facts = [
        ("strategy", settings["strategy"]),
        ("begins", settings["start_day"]),
        ("initial cash", settings["initial_cash"]),
        *(
            (f"{slot['symbol'] or slot['asset_id']}", f"{slot['weight_ppm'] / 10_000:g} %")
            for slot in settings["slots"]
        ),
        *((name, value) for name, value in settings["parameters"].items() if value),
    ]
    plots = []
    if days:
        last, dates = days[-1], [point.day for point in days]
        facts += [
            ("equity", last.equity), ("return", _percent(last.total_return)),
            ("volatility (year)", _percent(last.volatility)),
            ("Sharpe ratio", last.sharpe), ("maximum drawdown", _percent(last.max_drawdown)),
            ("days", len(days)), ("trades", len(data.trades)), ("fees", sum(t.fee for t in data.trades)),
            ("realised", sum(t.realised for t in data.trades)),
        ]  # fmt: skip
        equity = {"": (dates, [float(point.equity) for point in days])}
        plots = [
            Plot("Equity", line_plot(equity, ylabel="units")),
            Plot("Drawdown", line_plot({"": (dates, [-point.drawdown for point in days])}, ylabel="%", percent=True)),
        ]
    columns = ["day", "side", "symbol", "quantity>", "price>", "notional>", "fee>", "realised>"]
    rows = [(t.day, t.side, t.symbol, str(t.quantity), t.price, t.notional, t.fee, t.realised) for t in data.trades]
    lead = f"of user {settings['user_id']}, {settings['user_name']}" + ("" if days else " · no night yet")
    return Page(f"Simulation {settings['simulation_id']}", lead, facts, plots, [Table("Trades", columns, rows)])


def run_page(data: RunReport) -> Page:
    """Throughput and the batches' timeline of a run."""
    from scripts.page import Page, Plot, Table
    from scripts.plots import bar_plot, span_plot

    run = data.run
    facts = [
        ("status", run.status), ("users", run.users), ("users done", run.users_done), ("seconds", run.seconds),
        ("users/s", run.users_per_second), ("batches", run.batches), ("rows", run.rows), ("trades", run.trades),
        ("quarantined", run.quarantined), ("total equity", run.total_equity), ("total fees", run.total_fees),
        ("digest", run.digest),
    ]  # fmt: skip
    worked = [batch for batch in data.batches if batch.started_at and batch.seconds]
    plots = []
    if worked:
        origin = min(batch.started_at for batch in worked if batch.started_at)
        spans = [(batch.worker or "?", _since(origin, batch), batch.seconds or 0.0) for batch in worked]
        speeds = [batch.users / batch.seconds for batch in worked if batch.seconds]
        plots = [
            Plot("When each worker worked on a batch", span_plot(spans, xlabel="seconds since the first batch began")),
            Plot("Throughput of each batch", bar_plot([str(batch.seq) for batch in worked], speeds, ylabel="users/s")),
        ]
    columns = [
        "batch",
        "users",
        "status",
        "attempts>",
        "seconds>",
        "rows>",
        "trades>",
        "quarantined>",
        "worker",
        "error",
    ]
    rows = [
        (str(b.id), f"{b.user_lo}–{b.user_hi - 1}", b.status, b.attempts, b.seconds, b.rows, b.trades, b.quarantined,
         b.worker, b.error)
        for b in data.batches
    ]  # fmt: skip
    days = f"{run.day}" if run.first_day == run.day else f"{run.first_day} to {run.day}"
    return Page(
        f"Run {run.id}", f"{run.kind}, {days}, by {run.requested_by}", facts, plots, [Table("Batches", columns, rows)]
    )


def _since(origin: datetime, batch: BatchView) -> float:
    return (batch.started_at - origin).total_seconds() if batch.started_at else 0.0


def _percent(value: float | None) -> str | None:
    return None if value is None else f"{100 * value:.2f} %"
