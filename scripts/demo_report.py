"""What the demo's nights came to: tables on stdout, and a page with plots."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from decimal import Decimal
from typing import Any

from scripts.cli import print_table
from scripts.page import Page, Table
from scripts.plots_kinds import bar_plot, line_plot
from services.reports import Leader, SimulationReport, StrategyDay
from services.runs import RunView

_SHOWN_DAYS = 10
_LEADER_COLUMNS = ["rank>", "user>", "name", "simulation>", "strategy", "equity>", "return>"]
_HISTORY_COLUMNS = ["day", "cash>", "equity>", "return>", "drawdown>"]


def print_results(runs: Sequence[RunView], best: Sequence[Leader], histories: Sequence[SimulationReport]) -> None:
    """Totals, the leaderboard, and the last days of its first simulation."""
    print_table(
        ["what", "how much>"], totals(runs), title=f"The nights of {runs[0].day} to {runs[-1].day}" if runs else None
    )
    print_table(_LEADER_COLUMNS, _leader_rows(best), title="Leaderboard")
    if histories:
        first = histories[0]
        count = f"{len(first.trades)} trade{'' if len(first.trades) == 1 else 's'}"
        title = f"Simulation {first.settings['simulation_id']}, {first.settings['strategy']}, {count}"
        print_table(_HISTORY_COLUMNS, _history_rows(first)[-_SHOWN_DAYS:], title=title)


def totals(runs: Sequence[RunView]) -> list[tuple[str, Any]]:
    """What the nights came to together; the speed is that of the wall clock, pauses between nights included."""
    done = [run for run in runs if run.started_at and run.finished_at]
    if not done:
        return [("nights", 0)]
    seconds = sum(run.seconds or 0.0 for run in done)
    last = done[-1]
    return [
        ("nights", len(done)),
        ("users of the last night", last.users),
        ("portfolio days", sum(run.rows or 0 for run in done)),
        ("trades", sum(run.trades or 0 for run in done)),
        ("fees", sum((run.total_fees or Decimal(0) for run in done), Decimal(0))),
        ("quarantined", sum(run.quarantined or 0 for run in done)),
        ("equity at the end", last.total_equity),
        ("seconds", seconds),
        ("users/s", f"{sum(run.users_done for run in done) / max(seconds, 1e-3):,.0f}"),
        ("simulations/s", f"{sum(run.simulations or 0 for run in done) / max(seconds, 1e-3):,.0f}"),
        ("digest of the last night", last.digest),
    ]


def demo_page(
    runs: Sequence[RunView],
    best: Sequence[Leader],
    histories: Sequence[SimulationReport],
    returns: Sequence[StrategyDay],
) -> Page:
    """The same as a page, with equity curves and throughput by night."""
    by_strategy: dict[str, tuple[list[date], list[float]]] = {}
    for point in returns:
        days, values = by_strategy.setdefault(point.strategy, ([], []))
        days.append(point.day)
        values.append(point.mean_return)
    curves = {
        f"{report.settings['user_name']} ({report.settings['strategy']})": (
            [point.day for point in report.days],
            [point.total_return or 0.0 for point in report.days],
        )
        for report in histories
    }
    labels = [f"{run.day:%m-%d}" for run in runs]
    plots = [
        line_plot("Equity curves of the leaderboard", curves, ylabel="return since the start", percent=True),
        line_plot("Mean return by strategy", by_strategy, ylabel="return since the start", percent=True),
        bar_plot("Throughput by night", labels, [run.users_per_second or 0.0 for run in runs], ylabel="users/s"),
        bar_plot("Trades by night", labels, [run.trades or 0 for run in runs], ylabel="trades"),
    ]
    columns = ["run>", "day", "users>", "seconds>", "users/s>", "rows>", "trades>", "fees>", "equity>", "digest"]
    rows = [
        (str(run.id), run.day, run.users, run.seconds, run.users_per_second, run.rows, run.trades, run.total_fees,
         run.total_equity, run.digest)
        for run in runs
    ]  # fmt: skip
    tables = [Table("Leaderboard", _LEADER_COLUMNS, _leader_rows(best)), Table("Nights", columns, rows)]
    if histories:
        first = histories[0]
        caption = f"Simulation {first.settings['simulation_id']}, day by day"
        tables.insert(1, Table(caption, _HISTORY_COLUMNS, _history_rows(first)))
    lead = f"{runs[0].day} to {runs[-1].day}, sample users on real closes" if runs else "no night yet"
    return Page("Nightshift: the demo", lead, totals(runs), [*plots, *tables])


def _leader_rows(best: Sequence[Leader]) -> list[list[Any]]:
    return [
        [
            place.rank,
            str(place.user_id),
            place.user_name,
            str(place.simulation_id),
            place.strategy,
            place.equity,
            _percent(place.total_return),
        ]
        for place in best
    ]


def _history_rows(report: SimulationReport) -> list[list[Any]]:
    return [[p.day, p.cash, p.equity, _percent(p.total_return), _percent(p.drawdown)] for p in report.days]


def _percent(value: float | None) -> str | None:
    return None if value is None else f"{100 * value:.2f} %"
