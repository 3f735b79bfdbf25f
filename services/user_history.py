"""One user: his simulations as they stand, what he has in quarantine, and what all of it was worth day by day."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal

from sqlalchemy import text
from sqlalchemy.orm import Session

from core.errors import UsageError
from models.ticks import from_ticks
from services.runs import QuarantineView, quarantine_of

HISTORY_DAYS = 90


@dataclass(frozen=True, slots=True)
class UserView:
    """Who it is. `notify`: he wants mail; his address is nobody's business here."""

    id: int
    name: str
    created_at: datetime
    notify: bool
    live: bool
    simulations: int


@dataclass(frozen=True, slots=True)
class SimulationLine:
    """A simulation and its row of the newest night, in units; None: it has none of that night."""

    id: int
    strategy: str
    start_day: date
    initial_cash: Decimal
    equity: Decimal | None
    total_return: float | None
    nights: int | None
    max_drawdown: float | None


@dataclass(frozen=True, slots=True)
class UserHistory:
    """A user. `equity`: day and units of all his simulations together, the oldest first."""

    user: UserView
    newest: date | None
    quarantined: list[QuarantineView]
    equity: list[tuple[date, Decimal]]


def newest_night(session: Session) -> date | None:
    """The newest night that is done."""
    day: date | None = session.execute(_NEWEST).scalar_one_or_none()
    return day


def user_history(session: Session, user_id: int) -> UserHistory:
    """Everything about a user but his simulations; UsageError if there is no such user."""
    row = session.execute(_USER, {"user": user_id}).one_or_none()
    if row is None:
        raise UsageError(f"there is no user {user_id}")
    newest = newest_night(session)
    equity = []
    if newest is not None:
        values = {"user": user_id, "first": newest - timedelta(days=HISTORY_DAYS - 1), "last": newest}
        equity = [(found.day, from_ticks(found.equity)) for found in session.execute(_EQUITY, values)]
    quarantined = [quarantine_of(entry) for entry in session.execute(_QUARANTINED, {"user": user_id})]
    return UserHistory(UserView(**row._asdict()), newest, quarantined, equity)


def simulations_after(
    session: Session, user_id: int, newest: date | None, *, after: int = 0, limit: int = 50
) -> list[SimulationLine]:
    """The simulations of a user, those after the id `after`, with their rows of the night `newest`."""
    values = {"user": user_id, "after": after, "limit": limit, "newest": newest or date.min}
    return [
        SimulationLine(
            id=row.id,
            strategy=row.strategy,
            start_day=row.start_day,
            initial_cash=from_ticks(row.initial_cash),
            equity=None if row.equity is None else from_ticks(row.equity),
            total_return=None if row.equity is None or not row.initial_cash else row.equity / row.initial_cash - 1,
            nights=row.nights,
            max_drawdown=row.max_drawdown,
        )
        for row in session.execute(_SIMULATIONS, values)
    ]


_NEWEST = text("SELECT day FROM runs WHERE kind = 'nightly' AND status = 'done' ORDER BY day DESC LIMIT 1")
_USER = text(
    """
    SELECT u.id, u.name, u.created_at, u.notify, u.live,
        (SELECT count(*) FROM simulations s WHERE s.user_id = u.id) AS simulations
    FROM users u WHERE u.id = :user
    """
)
_EQUITY = text(
    """
    SELECT day, sum(equity) AS equity FROM portfolio_days
    WHERE user_id = :user AND day BETWEEN :first AND :last GROUP BY day ORDER BY day
    """
)
_QUARANTINED = text("SELECT * FROM quarantine WHERE cleared_at IS NULL AND user_id = :user ORDER BY id DESC LIMIT 100")
_SIMULATIONS = text(
    """
    SELECT s.id, coalesce(t.name, s.strategy::text) AS strategy, s.start_day, s.initial_cash,
        p.equity, p.nights, p.max_drawdown
    FROM (
        SELECT id, user_id, strategy, start_day, initial_cash FROM simulations
        WHERE user_id = :user AND id > :after ORDER BY id LIMIT :limit
    ) AS s
    LEFT JOIN strategies t ON t.code = s.strategy
    LEFT JOIN portfolio_days p ON p.day = :newest AND p.user_id = s.user_id AND p.simulation_id = s.id
    ORDER BY s.id
    """
)
