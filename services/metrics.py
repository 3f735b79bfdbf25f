"""The numbers that the exporter shows, read from the database: they survive restarts and agree with the tables."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta

from sqlalchemy import Engine, text

from core.database import session_scope
from services.window_states import WindowState, window_states

# An answer that takes longer is no answer: a scrape must not pile up on a database in trouble.
_STATEMENT_TIMEOUT = text("SET LOCAL statement_timeout = '5s'")
_RUNS = text("SELECT kind, status, count(*) FROM runs GROUP BY kind, status")
_BATCHES = text(
    """
    SELECT status, count(*) AS batches FROM batches
    WHERE run_id IN (SELECT id FROM runs WHERE status IN ('planned', 'running') UNION ALL (SELECT max(id) FROM runs))
    GROUP BY status
    """
)
_NEWEST_NIGHT = text(
    """
    SELECT r.users, coalesce(sum(b.users) FILTER (WHERE b.status = 'done'), 0)
    FROM (SELECT id, users FROM runs WHERE kind = 'nightly' AND status <> 'missed' ORDER BY day DESC LIMIT 1) r
    LEFT JOIN batches b ON b.run_id = r.id
    GROUP BY r.id, r.users
    """
)
_QUARANTINED = text("SELECT count(DISTINCT user_id) FROM quarantine WHERE cleared_at IS NULL")
_NEWEST_CLOSE = text("SELECT max(day) FROM closes")
_HELD = text("SELECT count(*) FROM held_prices WHERE status = 'held'")
_ALERTS = text("SELECT kind, count(*) FILTER (WHERE cleared_at IS NULL) AS active FROM alerts GROUP BY kind")
_NIGHT_WAITING = text(
    "SELECT EXISTS (SELECT 1 FROM night_waits"
    " WHERE day > coalesce((SELECT max(day) FROM runs WHERE kind = 'nightly'), '-infinity'))"
)
_LAST_TICK = text("SELECT last_run_at FROM beat_ticks WHERE name = 'tick'")


@dataclass(frozen=True, slots=True)
class DatabaseMetrics:
    """`runs` by (kind, status); `batches` by status, of the unfinished runs and the newest one.

    Users are those of the newest nightly run, except the quarantined ones: users with an active entry in quarantine.
    None: there is no nightly run, no close, no tick yet.

    `windows`: of every source that ever had one. `held`: prices that wait for confirmation. `alerts`: how
    many are active, by every kind that ever was. `night_waiting`: whether a night that is due waits for its closes.
    """

    runs: dict[tuple[str, str], int]
    batches: dict[str, int]
    users_planned: int | None
    users_done: int | None
    users_quarantined: int
    newest_close: date | None
    windows: list[WindowState]
    held: int
    alerts: dict[str, int]
    night_waiting: bool
    last_tick: datetime | None


def database_metrics(engine: Engine) -> DatabaseMetrics:
    """Read them all in one transaction.

    Raises:
        sqlalchemy.exc.SQLAlchemyError: the database is away, too slow, or not migrated.
    """
    with session_scope(engine) as session:
        session.execute(_STATEMENT_TIMEOUT)
        night = session.execute(_NEWEST_NIGHT).one_or_none()
        return DatabaseMetrics(
            runs={(kind, status): count for kind, status, count in session.execute(_RUNS)},
            batches={row.status: row.batches for row in session.execute(_BATCHES)},
            users_planned=None if night is None else int(night[0]),
            users_done=None if night is None else int(night[1]),
            users_quarantined=session.execute(_QUARANTINED).scalar_one(),
            newest_close=session.execute(_NEWEST_CLOSE).scalar_one(),
            windows=window_states(session),
            held=session.execute(_HELD).scalar_one(),
            alerts={row.kind: row.active for row in session.execute(_ALERTS)},
            night_waiting=session.execute(_NIGHT_WAITING).scalar_one(),
            last_tick=session.execute(_LAST_TICK).scalar_one_or_none(),
        )


def price_age(newest_close: date, now: datetime) -> timedelta:
    """The age of the newest close: the time since its day ended (00:00 UTC of the day after), at least zero."""
    ended = datetime.combine(newest_close + timedelta(days=1), time(0), UTC)
    return max(now - ended, timedelta(0))
