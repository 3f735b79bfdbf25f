"""What an equity curve comes to, in the figures that people compare. A figure that is not defined is None, never 0.

A year has 365 nights, as everywhere here: a night follows every day, also of a market that was closed. Returns are
those from close to close, the first from the initial cash. Nothing is annualised that is shorter than a year, but
volatility and the ratios of daily returns, whose square root of time says so by convention.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal

NIGHTS_OF_A_YEAR = 365


@dataclass(frozen=True, slots=True)
class Drawdown:
    """The deepest fall below an earlier peak.

    Attributes:
        depth: share of the peak, 0 … 1.
        peak_day: None: the initial cash was the peak.
        recovered_day: the first day at the peak again; None: not yet.
    """

    depth: float
    peak_day: date | None
    trough_day: date
    recovered_day: date | None


@dataclass(frozen=True, slots=True)
class Performance:
    """Figures of one equity curve; shares, not percents. `nights`: how many returns they are made of."""

    nights: int
    total_return: float | None
    cagr: float | None
    volatility: float | None
    sharpe: float | None
    sortino: float | None
    max_drawdown: float
    drawdown: Drawdown | None
    calmar: float | None


@dataclass(frozen=True, slots=True)
class Running:
    """The running statistics of a portfolio day (engine.statistics), as its row holds them."""

    nights: int
    return_mean: float
    return_m2: float
    max_drawdown: float


def performance(initial: int, days: Sequence[date], equity: Sequence[int], running: Running) -> Performance:
    """The figures of a curve.

    Args:
        initial: ticks, before the first day.
        days: in order, one at least.
        equity: ticks, at the close of each of them.
        running: the statistics of the last day. Where they count more nights than there are days, some rows are gone,
            and what needs every day is None.
    """
    complete = running.nights == len(days)
    change = total_return(initial, equity[-1])
    yearly = cagr(change, running.nights)
    return Performance(
        nights=running.nights,
        total_return=change,
        cagr=yearly,
        volatility=volatility(running),
        sharpe=sharpe(running),
        sortino=sortino(daily_returns(initial, equity)) if complete else None,
        max_drawdown=running.max_drawdown,
        drawdown=worst_drawdown(initial, days, equity) if complete else None,
        calmar=calmar(yearly, running.max_drawdown),
    )


def total_return(initial: int, last: int) -> float | None:
    """`last / initial - 1`; None without initial cash."""
    return (last - initial) / initial if initial else None


def daily_returns(initial: int, equity: Sequence[int]) -> list[float]:
    """`(E_i - E_(i-1)) / E_(i-1)`, E_0 the initial cash; 0 after a close at 0, as in docs/ledger.md."""
    before = [initial, *equity[:-1]]
    return [(now - then) / then if then else 0.0 for then, now in zip(before, equity, strict=True)]


def cagr(change: float | None, nights: int) -> float | None:
    """Compound annual growth rate: `(1 + total return) ** (365 / nights) - 1`.

    None of less than a year: returns of shorter periods must not be annualised (CFA Institute, Global Investment
    Performance Standards for Firms, 2020).
    """
    if change is None or nights < NIGHTS_OF_A_YEAR:
        return None
    return math.pow(1 + change, NIGHTS_OF_A_YEAR / nights) - 1


def volatility(running: Running) -> float | None:
    """Standard deviation of daily returns (n - 1) times `sqrt(365)`; None of fewer than two."""
    if running.nights < 2:
        return None
    return math.sqrt(running.return_m2 / (running.nights - 1)) * math.sqrt(NIGHTS_OF_A_YEAR)


def sharpe(running: Running) -> float | None:
    """Mean daily return by its standard deviation, times `sqrt(365)`, the risk-free rate taken as 0.

    None where the returns do not vary. Source: W. F. Sharpe, The Sharpe Ratio, Journal of Portfolio Management 21 (1),
    1994.
    """
    if running.nights < 2 or running.return_m2 <= 0:
        return None
    deviation = math.sqrt(running.return_m2 / (running.nights - 1))
    return running.return_mean / deviation * math.sqrt(NIGHTS_OF_A_YEAR)


def sortino(returns: Sequence[float]) -> float | None:
    """Mean daily return by the downside deviation `sqrt(sum(min(r, 0)**2) / n)`, times `sqrt(365)`; target 0.

    All n returns count below the root, those above the target as 0. None where none is below 0, or of fewer than two.
    Source: F. A. Sortino and L. N. Price, Performance Measurement in a Downside Risk Framework, Journal of Investing
    3 (3), 1994.
    """
    if len(returns) < 2:
        return None
    downside = math.sqrt(math.fsum(min(value, 0.0) ** 2 for value in returns) / len(returns))
    return math.fsum(returns) / len(returns) / downside * math.sqrt(NIGHTS_OF_A_YEAR) if downside > 0 else None


def calmar(yearly: float | None, max_drawdown: float) -> float | None:
    """`CAGR / maximum drawdown`, over the whole life; None of less than a year, and where it never fell.

    Source: T. W. Young, Calmar Ratio: A Smoother Tool, Futures 20 (1), 1991, who takes the last 36 months.
    """
    return None if yearly is None or max_drawdown <= 0 else yearly / max_drawdown


def worst_drawdown(initial: int, days: Sequence[date], equity: Sequence[int]) -> Drawdown | None:
    """Maximum over all days of `(peak - E) / peak`, the peak being the highest E so far; None if it never fell.

    The first of equally deep ones. Source: M. Magdon-Ismail and A. Atiya, Maximum Drawdown, Risk 17 (10), 2004.
    """
    deepest, peak, peak_at, found = 0.0, initial, -1, (-1, -1)
    for at, value in enumerate(equity):
        if value > peak:
            peak, peak_at = value, at
        depth = (peak - value) / peak if peak else 0.0
        if depth > deepest:
            deepest, found = depth, (peak_at, at)
    if deepest == 0:
        return None
    top, bottom = found
    level = initial if top < 0 else equity[top]
    back = next((day for day, value in zip(days[bottom:], equity[bottom:], strict=True) if value >= level), None)
    return Drawdown(deepest, None if top < 0 else days[top], days[bottom], back)


def win_rate(realised: Sequence[Decimal]) -> float | None:
    """The share of sales that realised a profit, as in the view `user_days`; None without sales."""
    return sum(value > 0 for value in realised) / len(realised) if realised else None


def turnover(bought: Decimal, sold: Decimal, equity: Sequence[Decimal]) -> float | None:
    """The lesser of purchases and sales by the mean equity of all days; over the whole life, not annualised.

    None where the mean is 0. Source: U.S. Securities and Exchange Commission, Form N-1A, Item 13, which takes the mean
    of months and leaves out cash.
    """
    mean = sum(equity, Decimal(0)) / len(equity) if equity else Decimal(0)
    return float(min(bought, sold) / mean) if mean else None
