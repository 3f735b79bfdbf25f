"""A night as the two peers do it: of one user by the ORM, and of a hundred users with bulk inserts.

Both read the simulations and their rows of the day before in one query; the caller commits.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

from sqlalchemy import and_, bindparam, insert, select
from sqlalchemy.orm import Session

from benchmarks.peers.ledger import Fill, Portfolio, Terms, advance, begin
from benchmarks.peers.orm import Close, PortfolioDay, Simulation, Trade
from benchmarks.peers.quotes import Quotes, quotes_of
from core.clock import day_number

# Made once: to build the statement takes the ORM longer than to send it.
_SIMULATIONS = (
    select(Simulation, PortfolioDay)
    .outerjoin(
        PortfolioDay,
        and_(
            PortfolioDay.day == bindparam("before"),
            PortfolioDay.user_id == Simulation.user_id,
            PortfolioDay.simulation_id == Simulation.id,
        ),
    )
    .where(Simulation.user_id.between(bindparam("first"), bindparam("last")), Simulation.start_day <= bindparam("day"))
)


@dataclass(frozen=True, slots=True)
class Night:
    """A day, and the prices that a process looked up for it."""

    day: date
    quotes: Quotes


def load_night(session: Session, day: date, max_stale_days: int) -> Night:
    """All closes up to `day`, read once in each process and night."""
    rows = session.execute(select(Close.asset_id, Close.day, Close.close).where(Close.day <= day).order_by(Close.day))
    numbered = ((asset, day_number(on), close) for asset, on, close in rows)
    return Night(day, quotes_of(numbered, day_number(day), max_stale_days))


def advance_user(session: Session, night: Night, user_id: int) -> None:
    """One user's night, everything by the ORM."""
    for simulation, before in _simulations(session, night.day, user_id, user_id):
        portfolio, fills = _advance(night, simulation, before)
        session.add(PortfolioDay(**_day_values(night.day, simulation, portfolio)))
        session.add_all(Trade(**values) for values in _trade_values(night.day, simulation, fills))


def advance_users(session: Session, night: Night, first_user: int, last_user: int) -> None:
    """The night of the users from `first_user` to `last_user`, written by two bulk inserts."""
    days: list[dict[str, Any]] = []
    trades: list[dict[str, Any]] = []
    for simulation, before in _simulations(session, night.day, first_user, last_user):
        portfolio, fills = _advance(night, simulation, before)
        days.append(_day_values(night.day, simulation, portfolio))
        trades.extend(_trade_values(night.day, simulation, fills))
    for table, rows in ((PortfolioDay, days), (Trade, trades)):
        if rows:
            session.execute(insert(table), rows)


def _simulations(
    session: Session, day: date, first_user: int, last_user: int
) -> Iterable[tuple[Simulation, PortfolioDay | None]]:
    """The simulations of some users that have begun, and the row of each of the day before."""
    values = {"before": day - timedelta(days=1), "first": first_user, "last": last_user, "day": day}
    return session.execute(_SIMULATIONS, values)


def _advance(night: Night, simulation: Simulation, before: PortfolioDay | None) -> tuple[Portfolio, list[Fill]]:
    terms = Terms(
        simulation.strategy, day_number(simulation.start_day), simulation.initial_cash, simulation.params,
        simulation.asset_ids, simulation.weights_ppm,
    )  # fmt: skip
    portfolio = begin(terms) if before is None else _portfolio(before)
    return portfolio, advance(terms, portfolio, night.quotes, day_number(night.day))


def _portfolio(row: PortfolioDay) -> Portfolio:
    return Portfolio(
        row.cash, row.equity, row.peak, row.nights, row.return_mean, row.return_m2, row.max_drawdown,
        list(row.quantities), list(row.cost_basis), row.state[0],
    )  # fmt: skip


def _day_values(day: date, simulation: Simulation, portfolio: Portfolio) -> dict[str, Any]:
    return {
        "day": day,
        "user_id": simulation.user_id,
        "simulation_id": simulation.id,
        "nights": portfolio.nights,
        "cash": portfolio.cash,
        "equity": portfolio.equity,
        "peak": portfolio.peak,
        "return_mean": portfolio.mean,
        "return_m2": portfolio.m2,
        "max_drawdown": portfolio.max_drawdown,
        "asset_ids": simulation.asset_ids,
        "quantities": portfolio.quantities,
        "cost_basis": portfolio.costs,
        "state": [portfolio.memory],
    }


def _trade_values(day: date, simulation: Simulation, fills: list[Fill]) -> Iterator[dict[str, Any]]:
    keys = {"day": day, "user_id": simulation.user_id, "simulation_id": simulation.id}
    for fill in fills:
        yield keys | fill._asdict()
