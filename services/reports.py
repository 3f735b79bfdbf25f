"""The data of reports: one simulation's history, the best of a night, what a range of nights came to. Read-only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Decimal
from typing import Any

from sqlalchemy import bindparam, text
from sqlalchemy.orm import Session

from services.simulations import simulation_view


@dataclass(frozen=True, slots=True)
class DayPoint:
    """A simulation at the close of a day, amounts in units; `drawdown` is the share below the peak so far."""

    day: date
    cash: Decimal
    equity: Decimal
    peak: Decimal
    drawdown: float
    total_return: float | None
    volatility: float | None
    sharpe: float | None
    max_drawdown: float


@dataclass(frozen=True, slots=True)
class TradeLine:
    """A fill, amounts in units."""

    day: date
    side: str
    symbol: str
    quantity: Decimal
    price: Decimal
    notional: Decimal
    fee: Decimal
    realised: Decimal


@dataclass(frozen=True, slots=True)
class SimulationReport:
    """`settings` is the simulation's row of the view `simulation_settings`; days and trades are in order."""

    settings: dict[str, Any]
    days: list[DayPoint]
    trades: list[TradeLine]


@dataclass(frozen=True, slots=True)
class Leader:
    """A place on the leaderboard of the newest finished night."""

    rank: int
    user_id: int
    user_name: str | None
    simulation_id: int
    strategy: str | None
    equity: Decimal
    total_return: float


@dataclass(frozen=True, slots=True)
class StrategyDay:
    """All simulations of a strategy at the close of a day: how many, and their mean return since their start."""

    strategy: str
    day: date
    simulations: int
    mean_return: float


def simulation_report(session: Session, simulation_id: int) -> SimulationReport:
    """Everything there is about one simulation; UsageError if there is no such simulation."""
    settings = simulation_view(session, simulation_id)
    # With the user the keys of the partitions find each row; by simulation alone they would all be read.
    values = {"user": settings["user_id"], "simulation": simulation_id, "start": settings["start_day"]}
    days = [
        DayPoint(drawdown=float(1 - row.equity / row.peak) if row.peak else 0.0, **row._asdict())
        for row in session.execute(_DAYS, values)
    ]
    # Trades are kept of days too that no longer are.
    span = (days[-1].day - values["start"]).days + 1 if days else 0
    every = [values["start"] + timedelta(days=number) for number in range(span)]
    found = session.execute(_TRADES, {**values, "days": every})
    return SimulationReport(settings, days, [TradeLine(**row._asdict()) for row in found])


_DAYS = text(
    """
    SELECT day, cash, equity, peak, total_return, volatility, sharpe, max_drawdown
    FROM portfolio_history
    WHERE day >= :start AND user_id = :user AND simulation_id = :simulation
    ORDER BY day
    """
)
# A list of days instead of a range: the key of `trades` begins with the day, so each day is one look into an index.
_TRADES = text(
    """
    SELECT day, side, symbol, quantity, price, notional, fee, realised
    FROM trade_history
    WHERE day = ANY(CAST(:days AS date[])) AND user_id = :user AND simulation_id = :simulation
    ORDER BY day, side DESC, symbol
    """
)


def leaders(session: Session, limit: int = 10) -> list[Leader]:
    """The best of the newest leaderboard."""
    rows = session.execute(
        text(
            "SELECT rank, user_id, user_name, simulation_id, strategy, equity, total_return"
            " FROM leaderboard ORDER BY rank LIMIT :limit"
        ),
        {"limit": limit},
    )
    return [Leader(**row._asdict()) for row in rows]


def returns_by_strategy(session: Session, days: Sequence[date]) -> list[StrategyDay]:
    """The mean return of each strategy at the close of each of `days`, by strategy and day. Reads all their rows."""
    if not days:
        return []
    rows = session.execute(_BY_STRATEGY, {"days": list(days)})
    return [StrategyDay(**row._asdict()) for row in rows]


_BY_STRATEGY = text(
    """
    SELECT coalesce(st.name, s.strategy::text) AS strategy, p.day, count(*) AS simulations,
        avg((p.equity - s.initial_cash)::double precision / nullif(s.initial_cash, 0)) AS mean_return
    FROM portfolio_days AS p
    JOIN simulations AS s ON s.id = p.simulation_id
    LEFT JOIN strategies AS st ON st.code = s.strategy
    WHERE p.day IN :days
    GROUP BY 1, p.day ORDER BY 1, p.day
    """
).bindparams(bindparam("days", expanding=True))
