"""The state of everything in one reading: the newest night, the queues, the prices, the quarantine, alerts, beat."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date, datetime

from sqlalchemy import Engine, text

from core.database import session_scope
from core.settings import Settings
from schedules.calendar import next_due
from services.alerts import AlertView, active_alerts
from services.queue_state import queue_lengths, redis_client, unacked
from services.runs import RunView, count_quarantine, newest_nightly
from services.window_states import WindowState, window_states


@dataclass(frozen=True, slots=True)
class Status:
    """What `nightshift status` shows.

    Attributes:
        night: the nightly run that is being worked on, else the newest.
        next_day, next_due: the first night that is not due yet, and when it will be.
        queues, unacked: messages that wait, and that a worker has taken, by queue.
        workers: names of the workers that answered.
        quarantined: simulations (or whole users) in quarantine.
        windows: how far each source of prices is.
        alerts: those that are active, the oldest first.
    """

    now: datetime
    night: RunView | None
    next_day: date
    next_due: datetime
    queues: dict[str, int]
    unacked: dict[str, int]
    workers: list[str]
    users: int
    simulations: int
    newest_close: date | None
    quarantined: int
    windows: list[WindowState]
    alerts: list[AlertView]
    last_tick: datetime | None
    last_tick_result: str | None


def read_status(engine: Engine, redis_url: str, workers: list[str], *, now: datetime, settings: Settings) -> Status:
    """Read it all.

    Raises:
        ServerUnreachableError: Redis does not answer.
    """
    with redis_client(redis_url) as client:
        queues = {str(queue): length for queue, length in queue_lengths(client).items()}
        taken = {str(queue): length for queue, length in unacked(client).items()}
    day, due = next_due(now, settings.nightly_at)
    with session_scope(engine) as session:
        row = session.execute(_COUNTS).one()
        tick = session.execute(
            text("SELECT last_run_at, coalesce(last_error, last_result) AS result FROM beat_ticks WHERE name = :name"),
            {"name": "tick"},
        ).one_or_none()
        return Status(
            now=now,
            night=newest_nightly(session, now),
            next_day=day,
            next_due=due,
            queues=queues,
            unacked=taken,
            workers=sorted(workers),
            users=row.users,
            simulations=row.simulations,
            newest_close=row.newest_close,
            quarantined=count_quarantine(session),
            windows=window_states(session),
            alerts=active_alerts(session),
            last_tick=tick.last_run_at if tick else None,
            last_tick_result=tick.result if tick else None,
        )


# The planner's estimates are good enough for people, and cost nothing with a hundred million users.
_COUNTS = text(
    """
    SELECT
        (SELECT max(day) FROM closes) AS newest_close,
        (SELECT greatest(reltuples, 0)::bigint FROM pg_class WHERE oid = 'users'::regclass) AS users,
        (SELECT greatest(reltuples, 0)::bigint FROM pg_class WHERE oid = 'simulations'::regclass) AS simulations
    """
)
