"""What the first page says: the night at hand, what is wrong, queues, workers, prices, quarantine, beat, newest runs.

What is wrong is what `nightshift status` says (services.problems), and the alerts that are raised. Redis may be away:
then the rest is shown all the same, and the page says what is missing.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import date, datetime

from sqlalchemy import text
from sqlalchemy.orm import Session

from core.queues import Queue
from core.settings import Settings
from services.alerts import AlertView, active_alerts
from services.observed import BrokerState, Observed, observe
from services.problems import Problem, find_problems
from services.runs import RunView, count_quarantine, list_runs, newest_nightly, runs_at_work
from services.scheduler import next_night
from services.window_states import WindowState

NEWEST_RUNS = 8


@dataclass(frozen=True, slots=True)
class QueueLine:
    """A queue: messages that wait, those that a worker has, groups and processes that serve it; None: nobody knows."""

    name: str
    waiting: int
    taken: int
    groups: int | None
    processes: int | None


@dataclass(frozen=True, slots=True)
class Glance:
    """What there is to see.

    Attributes:
        problems: the worst first.
        redis_error: why Redis gave no answer; None if it did.
        queues: none if Redis gave no answer.
        workers: names of the groups that answered lately; None: nobody has asked them.
        night: the nightly run that is being worked on, else the newest.
        waits_since: since when the next night waits for its closes; None: it does not.
        next_day, next_due: the first night that is not due yet, and when it will be.
        users, simulations: as the statistics of the tables say.
        held: prices that wait for a decision.
        last_tick: when beat last gave a sign.
    """

    now: datetime
    problems: list[Problem]
    redis_error: str | None
    queues: list[QueueLine]
    workers: list[str] | None
    night: RunView | None
    waits_since: datetime | None
    next_day: date
    next_due: datetime
    users: int
    simulations: int
    quarantined: int
    newest_close: date | None
    windows: list[WindowState]
    held: int
    alerts: list[AlertView]
    last_tick: datetime | None
    last_tick_result: str | None
    runs: list[RunView]

    @property
    def running(self) -> bool:
        """Whether a night is at work."""
        return self.night is not None and self.night.status in {"planned", "running"}


def read_glance(session: Session, redis_url: str, *, now: datetime, settings: Settings) -> Glance:
    """Read the database and Redis."""
    seen = _observe(session, redis_url, now, settings)
    day, due = next_night(session, now=now, settings=settings)
    row = session.execute(_FIGURES).one()
    registry = seen.broker.registry if seen.broker else None
    return Glance(
        now=now,
        problems=find_problems(seen),
        redis_error=seen.redis_error,
        queues=[] if seen.broker is None else [_queue(str(queue), seen.broker) for queue in Queue],
        workers=None if registry is None else sorted(registry.answered),
        night=newest_nightly(session, now),
        waits_since=row.waits_since,
        next_day=day,
        next_due=due,
        users=row.users,
        simulations=row.simulations,
        quarantined=count_quarantine(session),
        newest_close=seen.prices.newest_close,
        windows=seen.prices.windows,
        held=seen.prices.held,
        alerts=active_alerts(session),
        last_tick=seen.last_tick,
        last_tick_result=seen.last_tick_result,
        runs=_runs(session, now),
    )


def _observe(session: Session, redis_url: str, now: datetime, settings: Settings) -> Observed:
    """Workers are not asked, which takes a second: the exporter has asked them, and written down who answered."""
    seen = observe(session, redis_url, None, now=now, settings=settings)
    if seen.broker is None or seen.broker.registry is None:
        return seen
    return replace(seen, served={str(queue): groups for queue, groups in seen.broker.registry.groups.items()})


def _runs(session: Session, now: datetime) -> list[RunView]:
    """The newest, and what is at work where nights that are planned are newer."""
    newest = list_runs(session, now, NEWEST_RUNS)
    shown = {run.id for run in newest}
    return newest + [run for run in runs_at_work(session, now, NEWEST_RUNS) if run.id not in shown]


def _queue(name: str, broker: BrokerState) -> QueueLine:
    known = broker.registry
    return QueueLine(
        name,
        broker.waiting.get(name, 0),
        broker.taken.get(name, 0),
        None if known is None else known.groups[Queue(name)],
        None if known is None else known.processes[Queue(name)],
    )


# The planner's estimates are good enough for people, and cost nothing with a hundred million users.
_FIGURES = text(
    """
    SELECT
        (SELECT greatest(reltuples, 0)::bigint FROM pg_class WHERE oid = 'users'::regclass) AS users,
        (SELECT greatest(reltuples, 0)::bigint FROM pg_class WHERE oid = 'simulations'::regclass) AS simulations,
        (SELECT since FROM night_waits
            WHERE day > coalesce((SELECT max(day) FROM runs WHERE kind = 'nightly'), '-infinity')
            ORDER BY day LIMIT 1) AS waits_since
    """
)
