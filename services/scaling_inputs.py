"""What the wish for workers is made of, and where it is kept.

The backlog is the database's: of ad-hoc work only a few batches are in Redis at a time, however many there are to do.
How many processes a worker has, and how busy its host is, is what workers said last; where nobody asks them, the
settings tell the first, and the second is no reason for anything.

The wish is one row. Whoever decides holds it, so that two ticks at once decide one after the other, and it outlives
restarts of everything.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from statistics import fmean
from typing import Any

from sqlalchemy import Engine, text
from sqlalchemy.orm import Session

from core.database import session_scope
from core.errors import ServerUnreachableError
from core.log import get_logger
from core.queues import Queue
from core.settings import Settings
from services.queue_state import KEY_PREFIX, Client, redis_client
from services.scaling import Decision, Limits, Signals, State, wanted
from services.worker_registry import SILENT, clock_of, workers_state

log = get_logger(__name__)

GROUP = "simulations"
"""The group of workers whose number follows the work; one of each other group is enough."""

_LOADS = f"{KEY_PREFIX}worker_loads"
_ROW = "scaling:"

_BACKLOG = text(
    """
    SELECT r.kind = 'nightly' AS nightly, count(*) FILTER (WHERE b.status <> 'running') AS waiting,
        count(*) FILTER (WHERE b.status = 'running') AS at_work
    FROM batches b JOIN runs r ON r.id = b.run_id
    WHERE b.status IN ('planned', 'queued', 'running') AND r.status IN ('planned', 'running')
      AND NOT r.paused AND NOT r.cancel_requested
    GROUP BY 1
    """
)
# The newest runs of each kind that have anything done.
_SECONDS = text(
    """
    SELECT k.nightly, (
        SELECT avg(extract(epoch FROM b.finished_at - b.started_at))::float FROM (
            SELECT id FROM runs WHERE (kind = 'nightly') = k.nightly AND started_at IS NOT NULL ORDER BY id DESC LIMIT 3
        ) AS r CROSS JOIN LATERAL (
            SELECT started_at, finished_at FROM batches
            WHERE run_id = r.id AND status = 'done' AND finished_at >= started_at ORDER BY seq LIMIT 500
        ) AS b
    ) AS seconds
    FROM (VALUES (true), (false)) AS k (nightly)
    """
)
_MAKE = text("INSERT INTO beat_ticks (name, last_run_at) VALUES (:name, :now) ON CONFLICT (name) DO NOTHING")
_HOLD = text("SELECT last_result FROM beat_ticks WHERE name = :name FOR UPDATE")
_KEEP = text("UPDATE beat_ticks SET last_run_at = :now, last_result = :result, runs = runs + 1 WHERE name = :name")
_WISHES = text(
    "SELECT substr(name, length(:row) + 1) AS name, last_result FROM beat_ticks WHERE starts_with(name, :row)"
)


@dataclass(frozen=True, slots=True)
class Load:
    """Of a worker's host: shares in use, 0 to 1."""

    cpu: float
    memory: float


@dataclass(frozen=True, slots=True)
class Fleet:
    """The workers of the group: processes of one on average, mean load of their hosts. None: not known."""

    processes: float | None = None
    cpu: float | None = None
    memory: float | None = None


def limits_of(settings: Settings) -> Limits:
    """The limits that the settings say."""
    return Limits(
        minimum=settings.scale_min,
        maximum=settings.scale_max,
        backlog_seconds=settings.scale_backlog_seconds,
        queue=settings.scale_queue,
        cpu=settings.scale_cpu,
        memory=settings.scale_memory,
        pressure=timedelta(seconds=settings.scale_pressure_seconds),
        up=timedelta(seconds=settings.scale_up_seconds),
        down=timedelta(seconds=settings.scale_down_seconds),
    )


def write_loads(client: Client, asked: float, loads: Mapping[str, Load]) -> None:
    """Write down what the workers of the group said of their hosts at the moment `asked`; others are forgotten."""
    with client.pipeline(transaction=True) as pipeline:
        pipeline.delete(_LOADS)
        for name, load in loads.items():
            pipeline.hset(_LOADS, name, json.dumps(asdict(load) | {"asked": asked}))
        pipeline.execute()


def read_fleet(client: Client) -> Fleet:
    """What is known of the workers of the group."""
    workers, now = workers_state(client), clock_of(client)
    found: Mapping[Any, Any] = client.hgetall(_LOADS)
    loads = [load for load in map(json.loads, found.values()) if now - load["asked"] <= SILENT.total_seconds()]
    groups = workers.groups[Queue.SIMULATIONS] if workers else 0
    return Fleet(
        processes=workers.processes[Queue.SIMULATIONS] / groups if workers and groups else None,
        cpu=fmean(load["cpu"] for load in loads) if loads else None,
        memory=fmean(load["memory"] for load in loads) if loads else None,
    )


def read_signals(session: Session, fleet: Fleet, settings: Settings) -> Signals:
    """What is to do, and who does it."""
    rows = session.execute(_BACKLOG).all()
    seconds = {row.nightly: row.seconds for row in session.execute(_SECONDS) if row.seconds is not None}
    measured = [(row.waiting, seconds[row.nightly]) for row in rows if row.waiting and row.nightly in seconds]
    known = sum(waiting for waiting, _ in measured)
    nights = sum(row.waiting + row.at_work for row in rows if row.nightly)
    return Signals(
        waiting=sum(row.waiting for row in rows),
        at_work=sum(row.at_work for row in rows),
        seconds=sum(waiting * its for waiting, its in measured) / known if known else None,
        processes=max(fleet.processes or settings.workers, 1.0),
        at_once=nights + settings.reprocess_in_flight,
        cpu=fleet.cpu,
        memory=fleet.memory,
    )


def decide(engine: Engine, redis_url: str, *, now: datetime, settings: Settings) -> Decision:
    """Decide how many workers are wanted, and keep it."""
    fleet = _ask_fleet(redis_url)
    values = {"name": _ROW + GROUP, "now": now}
    with session_scope(engine) as session:
        session.execute(_MAKE, values)
        before = _state(session.execute(_HOLD, values).scalar_one())
        decision = wanted(before, read_signals(session, fleet, settings), limits_of(settings), now)
        session.execute(_KEEP, values | {"result": _as_text(decision.state)})
    if before is None or decision.workers != before.workers:
        log.info("workers wanted", group=GROUP, workers=decision.workers, reason=decision.reason)
    return decision


def desired_workers(session: Session) -> dict[str, int]:
    """How many workers are wanted, by group; empty before the first decision."""
    found = {row.name: _state(row.last_result) for row in session.execute(_WISHES, {"row": _ROW})}
    return {group: state.workers for group, state in found.items() if state is not None}


def _ask_fleet(redis_url: str) -> Fleet:
    try:
        with redis_client(redis_url) as client:
            return read_fleet(client)
    except ServerUnreachableError as error:
        log.warning("workers wanted without word from them", error=str(error))
        return Fleet()


def _as_text(state: State) -> str:
    moments = {"changed": state.changed, "pressed": state.pressed, "calm": state.calm}
    written = {name: moment.isoformat() for name, moment in moments.items() if moment is not None}
    return json.dumps({"workers": state.workers, "enough": state.enough} | written)


def _state(written: str | None) -> State | None:
    if written is None:
        return None
    found = json.loads(written)
    moments = {name: datetime.fromisoformat(found[name]) for name in ("changed", "pressed", "calm") if name in found}
    return State(found["workers"], enough=found["enough"], **moments)
