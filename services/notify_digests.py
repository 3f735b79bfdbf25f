"""Digests: who gets one of a night, and what it says.

Guarantees: one for each user and day, however often it is planned. Only the user and the day lie in the outbox: the
figures and the address are looked up when it is sent, so that a correction or a change of mind in between is heeded.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from decimal import Decimal

from sqlalchemy import text
from sqlalchemy.orm import Session

from core.settings import Settings, get_settings
from models.ticks import from_ticks

PLOT_DAYS = 30


@dataclass(frozen=True, slots=True)
class SimulationDay:
    """A simulation at the close of a day, in units; `change` since the day before, or since its start."""

    simulation_id: int
    strategy: str
    equity: Decimal
    change: Decimal
    change_ratio: float


@dataclass(frozen=True, slots=True)
class Digest:
    """A user's day: its simulations, the best first, and the equity of all of them over the last days."""

    day: date
    simulations: list[SimulationDay]
    history: list[tuple[date, Decimal]]

    @property
    def equity(self) -> Decimal:
        """Of all simulations."""
        return sum((each.equity for each in self.simulations), Decimal(0))

    @property
    def change(self) -> Decimal:
        """Of all simulations."""
        return sum((each.change for each in self.simulations), Decimal(0))

    @property
    def change_ratio(self) -> float:
        """The change, by what there was before."""
        before = self.equity - self.change
        return float(self.change / before) if before else 0.0


def plan_digests(session: Session, run_id: int, *, settings: Settings | None = None) -> int:
    """Leave word of a nightly run that is done for every user who wants it, in one statement; how many.

    Nothing where no digests are sent. Of nights that are caught up with, the last one is told. `settings`: None, those
    of this process.
    """
    if not (settings or get_settings()).sends_digests:
        return 0
    planned: int = session.execute(_PLAN, {"run": run_id}).rowcount  # type: ignore[attr-defined]
    return planned


def digest_of(session: Session, user_id: int, day: date) -> Digest | None:
    """What the user's mail says; None if no simulation has that day."""
    simulations = [
        SimulationDay(
            row.simulation_id,
            row.strategy,
            from_ticks(row.equity),
            from_ticks(row.equity - row.before),
            (row.equity - row.before) / row.before if row.before else 0.0,
        )
        for row in session.execute(_SIMULATIONS, {"user": user_id, "day": day})
    ]
    if not simulations:
        return None
    simulations.sort(key=lambda each: (-each.change_ratio, each.simulation_id))
    values = {"user": user_id, "day": day, "days": PLOT_DAYS}
    history = [(row.day, from_ticks(int(row.equity))) for row in session.execute(_HISTORY, values)]
    return Digest(day, simulations, history)


_PLAN = text(
    """
    INSERT INTO outbox (kind, key, payload)
    SELECT 'digest', concat_ws(':', 'digest', r.day, u.id),
        jsonb_build_object('user', u.id, 'day', r.day, 'run', r.id)
    FROM runs r CROSS JOIN users u
    WHERE r.id = :run AND r.kind = 'nightly' AND r.status = 'done' AND u.notify AND u.email IS NOT NULL
      AND NOT EXISTS (
          SELECT FROM runs n WHERE n.kind = 'nightly' AND n.day > r.day AND n.status IN ('planned', 'running', 'done')
      )
      AND EXISTS (SELECT FROM simulations s WHERE s.user_id = u.id AND s.start_day <= r.day)
    ORDER BY u.id
    ON CONFLICT (key) DO NOTHING
    """
)
_SIMULATIONS = text(
    """
    SELECT s.id AS simulation_id, coalesce(st.name, s.strategy::text) AS strategy, p.equity,
        coalesce(b.equity, s.initial_cash) AS before
    FROM portfolio_days p
    JOIN simulations s ON s.id = p.simulation_id
    LEFT JOIN strategies st ON st.code = s.strategy
    LEFT JOIN portfolio_days b
        ON b.day = CAST(:day AS date) - 1 AND b.user_id = p.user_id AND b.simulation_id = p.simulation_id
    WHERE p.day = :day AND p.user_id = :user
    """
)
_HISTORY = text(
    """
    SELECT day, sum(equity) AS equity FROM portfolio_days
    WHERE user_id = :user AND day > CAST(:day AS date) - CAST(:days AS integer) AND day <= :day
    GROUP BY day ORDER BY day
    """
)
