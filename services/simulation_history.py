"""One simulation: its equity as a line, what it holds, and its days and trades by key, newest first.

Days lie in a partition each. Every query names the days that it looks into, so that it reads those partitions only; the
further back nothing is found, the more days the next look takes, because of old days only the last of a month may be
there.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Decimal
from typing import Any

from sqlalchemy import text
from sqlalchemy.orm import Session

from models.ticks import from_ticks
from services.reports import TradeLine
from services.simulations import simulation_view
from services.user_history import newest_night

LINE_DAYS = 366
_FIRST_LOOK, _GROWTH = 64, 8


@dataclass(frozen=True, slots=True)
class DayLine:
    """A simulation at the close of a day, in units; `drawdown` is the share below the peak so far."""

    day: date
    cash: Decimal
    equity: Decimal
    drawdown: float
    change: float | None
    """Since the row before, of those that are shown."""


@dataclass(frozen=True, slots=True)
class Position:
    """What it holds of an asset at the close of its newest day, in units; None: there is no close by then."""

    symbol: str
    quantity: Decimal
    cost: Decimal
    close: Decimal | None
    close_day: date | None
    value: Decimal | None


@dataclass(frozen=True, slots=True)
class SimulationHistory:
    """A simulation.

    Attributes:
        settings: its row of the view `simulation_settings`.
        newest: its newest row of portfolio_history; None: there is none.
        line: day and equity in units, of up to LINE_DAYS days.
    """

    settings: dict[str, Any]
    newest: dict[str, Any] | None
    positions: list[Position]
    line: list[tuple[date, Decimal]]


def simulation_history(session: Session, simulation_id: int) -> SimulationHistory:
    """Everything about a simulation but its days; UsageError if there is no such simulation."""
    settings = simulation_view(session, simulation_id)
    night = newest_night(session)
    if night is None:
        return SimulationHistory(settings, None, [], [])
    values = {
        "user": settings["user_id"],
        "simulation": simulation_id,
        "first": max(settings["start_day"], night - timedelta(days=LINE_DAYS - 1)),
        "last": night,
    }
    line = [(row.day, from_ticks(row.equity)) for row in session.execute(_LINE, values)]
    # Of one that was left out for more than a year, its newest row is further back.
    last = line[-1:] or [(row.day, row.equity) for row in days_before(session, settings, before=night, limit=1)[:1]]
    if not last:
        return SimulationHistory(settings, None, [], [])
    at = {**values, "day": last[0][0]}
    newest = session.execute(_STATE, at).one()
    positions = [_position(row) for row in session.execute(_POSITIONS, at)]
    return SimulationHistory(settings, dict(newest._mapping), positions, line)  # noqa: SLF001 - a documented name


def days_before(session: Session, settings: dict[str, Any], *, before: date, limit: int = 30) -> list[DayLine]:
    """The newest days before a day, newest first; one more than the limit if there are older ones."""
    values: dict[str, Any] = {"user": settings["user_id"], "simulation": settings["simulation_id"], "limit": limit + 2}
    rows: list[Any] = []
    last, look = before - timedelta(days=1), _FIRST_LOOK
    while len(rows) < limit + 2 and last >= settings["start_day"]:
        first = max(settings["start_day"], last - timedelta(days=look - 1))
        rows += session.execute(_DAYS, {**values, "first": first, "last": last}).all()
        last, look = first - timedelta(days=1), look * _GROWTH
    older = [*rows[1:], None][: len(rows)]
    return [
        DayLine(
            row.day,
            from_ticks(row.cash),
            from_ticks(row.equity),
            1 - row.equity / row.peak if row.peak else 0.0,
            row.equity / previous.equity - 1 if previous is not None and previous.equity else None,
        )
        for row, previous in list(zip(rows, older, strict=True))[: limit + 1]
    ]


def trades_of(session: Session, settings: dict[str, Any], days: list[date]) -> list[TradeLine]:
    """The trades of these days, the newest first."""
    values = {"user": settings["user_id"], "simulation": settings["simulation_id"], "days": days}
    return [TradeLine(**row._asdict()) for row in session.execute(_TRADES, values)] if days else []


def _position(row: Any) -> Position:
    value = None if row.close is None else from_ticks(row.quantity) * from_ticks(row.close)
    return Position(
        symbol=row.symbol,
        quantity=from_ticks(row.quantity),
        cost=from_ticks(row.cost),
        close=None if row.close is None else from_ticks(row.close),
        close_day=row.close_day,
        value=value,
    )


_LINE = text(
    """
    SELECT day, equity FROM kept_days
    WHERE user_id = :user AND simulation_id = :simulation AND day BETWEEN :first AND :last ORDER BY day
    """
)
_STATE = text(
    """
    SELECT day, nights, cash, equity, peak, total_return, volatility, sharpe, max_drawdown FROM portfolio_history
    WHERE user_id = :user AND simulation_id = :simulation AND day = :day
    """
)
_POSITIONS = text(
    """
    SELECT coalesce(a.symbol, h.asset_id::text) AS symbol, h.quantity, h.cost, c.close, c.day AS close_day
    FROM kept_days p
    CROSS JOIN LATERAL unnest(p.asset_ids, p.quantities, p.cost_basis) AS h (asset_id, quantity, cost)
    LEFT JOIN assets a ON a.id = h.asset_id
    LEFT JOIN LATERAL (
        SELECT close, day FROM closes WHERE asset_id = h.asset_id AND day <= :day ORDER BY day DESC LIMIT 1
    ) AS c ON true
    WHERE p.user_id = :user AND p.simulation_id = :simulation AND p.day = :day AND h.quantity <> 0
    ORDER BY 1
    """
)
_DAYS = text(
    """
    SELECT day, cash, equity, peak FROM kept_days
    WHERE user_id = :user AND simulation_id = :simulation AND day BETWEEN :first AND :last
    ORDER BY day DESC LIMIT :limit
    """
)
# A list of days: the key of `trades` begins with the day, so each day is one look into an index.
_TRADES = text(
    """
    SELECT day, side, symbol, quantity, price, notional, fee, realised FROM trade_history
    WHERE day = ANY(CAST(:days AS date[])) AND user_id = :user AND simulation_id = :simulation
    ORDER BY day DESC, side DESC, symbol
    """
)
