"""What the exporter shows of prices: how old they are, what is missing, what is held, what alarms."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta

from sqlalchemy import text
from sqlalchemy.orm import Session

from core.settings import Settings
from services.window_states import WindowState, window_states

_NEWEST_CLOSE = text("SELECT max(day) FROM closes")
_HELD = text("SELECT count(*) FROM held_prices WHERE status = 'held'")
_ALERTS = text("SELECT kind, count(*) FILTER (WHERE cleared_at IS NULL) AS active FROM alerts GROUP BY kind")


@dataclass(frozen=True, slots=True)
class PriceMetrics:
    """`newest_close`: None if there is none. `held`: prices that wait for confirmation.

    `windows`: of every source that ever had one. `enabled`: the sources that are asked. `alerts`: how many are active,
    by every kind that ever was.
    """

    newest_close: date | None
    windows: list[WindowState]
    enabled: list[str]
    held: int
    alerts: dict[str, int]


def price_metrics(session: Session, settings: Settings) -> PriceMetrics:
    """Read them."""
    return PriceMetrics(
        newest_close=session.execute(_NEWEST_CLOSE).scalar_one(),
        windows=window_states(session),
        enabled=[name.strip() for name in settings.price_sources.split(",") if name.strip()],
        held=session.execute(_HELD).scalar_one(),
        alerts={row.kind: row.active for row in session.execute(_ALERTS)},
    )


def price_age(newest_close: date, now: datetime) -> timedelta:
    """The age of the newest close: the time since its day ended (00:00 UTC of the day after), at least zero."""
    ended = datetime.combine(newest_close + timedelta(days=1), time(0), UTC)
    return max(now - ended, timedelta(0))
