"""The state of everything in one reading: the newest night, queues, workers, prices, quarantine, and what is wrong.

Redis may be away: then what it knows is empty, and that it is away is one of the problems.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime

from sqlalchemy import Engine, text

from core.database import session_scope
from core.queues import Queue
from core.settings import Settings
from services.alerts import AlertView, active_alerts
from services.observed import observe
from services.problems import Problem, find_problems
from services.runs import RunView, count_quarantine, newest_nightly, runs_at_work
from services.scaling_inputs import desired_workers
from services.scheduler import next_night
from services.window_states import WindowState

# Somebody waits for it: a database that hangs is told of rather than waited for.
_PATIENCE = text("SET LOCAL statement_timeout = '10s'")


@dataclass(frozen=True, slots=True)
class Status:
    """What `nightshift status` shows.

    Attributes:
        problems: what is wrong, the worst first.
        redis_error: why Redis gave no answer; None if it did.
        night: the nightly run that is being worked on, else the newest; `adhoc`: ad-hoc work that is not over.
        deadline: when that night should be done.
        next_day, next_due: the first night that is not due yet, and when it will be.
        queues, unacked: messages that wait, and that a worker has taken, by queue.
        workers: names of the workers that answered.
        served: how many of them serve a queue.
        quarantined: simulations (or whole users) in quarantine.
        windows: how far each source of prices is.
        alerts: those of the application that are active, the oldest first.
        desired_workers: how many workers are wanted, by group; empty before the first tick.
    """

    now: datetime
    problems: list[Problem]
    redis_error: str | None
    night: RunView | None
    adhoc: list[RunView]
    deadline: datetime | None
    next_day: date
    next_due: datetime
    queues: dict[str, int]
    unacked: dict[str, int]
    workers: list[str]
    served: dict[str, int]
    users: int
    simulations: int
    newest_close: date | None
    quarantined: int
    held_prices: int
    windows: list[WindowState]
    alerts: list[AlertView]
    last_tick: datetime | None
    last_tick_result: str | None
    desired_workers: dict[str, int]


def read_status(
    engine: Engine, redis_url: str, workers: Mapping[str, Sequence[str]], *, now: datetime, settings: Settings
) -> Status:
    """Read it all; `workers`: the queues that each one serves that answered.

    Raises:
        sqlalchemy.exc.SQLAlchemyError: the database is away or does not answer in time.
    """
    served = Counter(queue for queues in workers.values() for queue in queues)
    with session_scope(engine) as session:
        session.execute(_PATIENCE)
        seen = observe(session, redis_url, served, now=now, settings=settings)
        row = session.execute(_COUNTS).one()
        day, due = next_night(session, now=now, settings=settings)
        return Status(
            now=now,
            problems=find_problems(seen),
            redis_error=seen.redis_error,
            night=newest_nightly(session, now),
            adhoc=[run for run in runs_at_work(session, now) if run.kind != "nightly"],
            deadline=seen.night.night.deadline if seen.night.night else None,
            next_day=day,
            next_due=due,
            queues=seen.broker.waiting if seen.broker else {},
            unacked=seen.broker.taken if seen.broker else {},
            workers=sorted(workers),
            served={queue: served[queue] for queue in Queue} if seen.broker else {},
            users=row.users,
            simulations=row.simulations,
            quarantined=count_quarantine(session),
            alerts=active_alerts(session),
            newest_close=seen.prices.newest_close,
            held_prices=seen.prices.held,
            windows=seen.prices.windows,
            last_tick=seen.last_tick,
            last_tick_result=seen.last_tick_result,
            desired_workers=desired_workers(session),
        )


# The planner's estimates are good enough for people, and cost nothing with a hundred million users.
_COUNTS = text(
    """
    SELECT
        (SELECT greatest(reltuples, 0)::bigint FROM pg_class WHERE oid = 'users'::regclass) AS users,
        (SELECT greatest(reltuples, 0)::bigint FROM pg_class WHERE oid = 'simulations'::regclass) AS simulations
    """
)
