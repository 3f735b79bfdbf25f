"""The page of the platform."""

from __future__ import annotations

from collections.abc import Sequence

from scripts.page import Block, Page, Plot, Table
from scripts.page_text import days, money, percent, seconds
from scripts.plots import amount
from scripts.plots_kinds import Box, bar_plot, box_plot, line_plot
from services.report_platform import AmountSpread, Bin, Growth, PlatformFigures, StrategyFigures
from services.runs import RunView

_SHOWN_NIGHTS = 30
_STRATEGIES = (
    "Quantiles of the return since each simulation's start, after so many nights in the mean; of the maximum drawdown, "
    "the median and the quantile that 95 % do not exceed."
)


def platform_page(data: PlatformFigures) -> Page:
    """Users, how their equity is spread, strategies compared, growth, and how long the nights took."""
    last = data.nights[-1] if data.nights else None
    facts = [
        ("users", data.users),
        ("simulations", data.simulations),
        ("in quarantine", data.quarantined),
        ("portfolios of that night", data.portfolios if data.day else None),
        ("their equity", money(data.total_equity)),
        ("median equity", money(data.equity.median) if data.equity else None),
        ("last night took", seconds(last.seconds) if last else None),
        ("users/s", last.users_per_second and f"{last.users_per_second:,.0f}" if last else None),
    ]
    blocks: list[Block] = [
        *_equity(data.bins, data.equity),
        *_strategies(data.strategies),
        *_growth(data.growth),
        *_nights(data.nights),
    ]
    lead = f"all users, at the close of {data.day}" if data.day else "all users · no night is done yet"
    return Page("The platform", lead, facts, blocks)


def _equity(bins: Sequence[Bin], spread: AmountSpread | None) -> list[Plot | Table]:
    if not bins or spread is None:
        return []
    values = (
        spread.smallest, spread.p5, spread.quartile1, spread.median, spread.quartile3, spread.p95, spread.largest,
    )  # fmt: skip
    return [
        bar_plot(
            "Equity of simulations",
            [amount(float(f"{part.low:.4g}")) for part in bins],
            [part.simulations for part in bins],
            ylabel="simulations",
            xlabel="equity (units), from",
            note="Ten bars a decade: each is a quarter wider than the one before it.",
        ),
        Table(
            "Quantiles of equity",
            ["least>", "5 %>", "25 %>", "median>", "75 %>", "95 %>", "most>"],
            [[money(value) for value in values]],
        ),
    ]


def _strategies(strategies: Sequence[StrategyFigures]) -> list[Plot | Table]:
    boxes = [
        Box(item.strategy, (item.p5, item.quartile1, item.median, item.quartile3, item.p95))
        for item in strategies
        if item.p5 is not None
        and item.quartile1 is not None
        and item.median is not None
        and item.quartile3 is not None
        and item.p95 is not None
    ]
    rows = [
        (
            item.strategy, item.simulations, f"{item.mean_nights:,.0f}", percent(item.p5), percent(item.quartile1),
            percent(item.median), percent(item.quartile3), percent(item.p95), percent(item.drawdown_median),
            percent(item.drawdown_p95),
        )
        for item in strategies
    ]  # fmt: skip
    if not rows:
        return []
    columns = [
        "strategy", "simulations>", "nights>", "5 %>", "25 %>", "median>", "75 %>", "95 %>", "drawdown>", "its 95 %>",
    ]  # fmt: skip
    box = box_plot(
        "Returns by strategy",
        boxes,
        xlabel="return since each simulation's start",
        note="A box from 25 % to 75 % of the simulations, a line at the median, whiskers from 5 % to 95 %.",
    )
    return [*([box] if boxes else []), Table("Strategies compared", columns, rows, _STRATEGIES)]


def _growth(growth: Sequence[Growth]) -> list[Plot | Table]:
    if len(growth) < 2:
        return []
    when = [point.day for point in growth]
    series = {
        "users": (when, [float(point.users) for point in growth]),
        "simulations": (when, [float(point.simulations) for point in growth]),
    }
    note = "By the day of registration (UTC), of those that are there now."
    return [line_plot("Growth", series, ylabel="registered so far", note=note)]


def _nights(nights: Sequence[RunView]) -> list[Plot | Table]:
    if not nights:
        return []
    labels = [f"{run.day:%m-%d}" for run in nights]
    rows = [
        (
            run.day, str(run.id), run.status, run.users, run.simulations, seconds(run.seconds),
            run.users_per_second and f"{run.users_per_second:,.0f}", run.trades, run.quarantined,
            money(run.total_equity),
        )
        for run in reversed(nights[-_SHOWN_NIGHTS:])
    ]  # fmt: skip
    columns = [
        "night", "run>", "status", "users>", "simulations>", "duration>", "users/s>", "trades>", "quarantined>",
        "equity>",
    ]  # fmt: skip
    span = days(nights[0].day, nights[-1].day)
    return [
        bar_plot(
            "How long the nights took", labels, [run.seconds or 0.0 for run in nights], ylabel="seconds", note=span
        ),
        bar_plot(
            "Simulations advanced by night", labels, [run.simulations or 0 for run in nights], ylabel="simulations"
        ),
        Table("Nights, newest first", columns, rows),
    ]
