"""The processes of the stack: who serves which queue, with which options, beat, alerts, backups."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import Engine, text

from core.database import session_scope
from core.queues import Queue
from core.settings import PREFIX, Settings
from services.alerts import active_alerts
from services.doctor_findings import Finding, Group
from services.metrics_backups import backup_metrics
from services.metrics_server import server_metrics
from services.wording import counted

WORKERS, STACK = Group("workers"), Group("stack")
# A lease, a transaction beside it, and a tick's own; exporter, status page, commands and people.
_CONNECTIONS_OF_A_PROCESS, _CONNECTIONS_OF_OTHERS = 3, 20
_TICKS_MISSED = 6
_SHORTEST_SILENCE = timedelta(seconds=60)
_BACKUP_TAKES = timedelta(hours=1)
_LAST_TICK = text("SELECT last_run_at FROM beat_ticks WHERE name = 'tick'")


@dataclass(frozen=True, slots=True)
class WorkerOptions:
    """A group of workers as it describes itself: its queues, its processes, and the options that must be the same."""

    name: str
    queues: tuple[str, ...]
    processes: int
    options: Mapping[str, Any]


def examine_workers(workers: Sequence[WorkerOptions], expected: Mapping[str, Any]) -> Iterator[Finding]:
    """Whether each queue is served, and whether all have the options of this process, `expected`."""
    if not workers:
        yield WORKERS.error(
            "queues", "no worker answers", "start `nightshift up`, or the workers of docs/deployment.md"
        )
        return
    for queue in Queue:
        if not any(queue in worker.queues for worker in workers):
            yield WORKERS.error("queues", f"nobody serves {queue}", f"start a worker with -Q {queue}")
    processes = sum(worker.processes for worker in workers)
    yield WORKERS.ok(
        "workers", f"{len(workers)} answer with {processes} processes: {', '.join(w.name for w in workers)}"
    )
    yield from _options(workers, expected)


def _options(workers: Sequence[WorkerOptions], expected: Mapping[str, Any]) -> Iterator[Finding]:
    different = False
    for worker in workers:
        others = [
            f"{name} {worker.options.get(name)} (here {value})"
            for name, value in expected.items()
            if worker.options.get(name) != value
        ]
        if others:
            different = True
            yield WORKERS.error(
                "options",
                f"{worker.name} has {', '.join(others)}: messages come back by the shortest of them",
                f"give every process the same {PREFIX}… settings and restart {worker.name}",
            )
    if not different:
        yield WORKERS.ok("options", f"all have the {len(expected)} options of this process")


def examine_connections(engine: Engine, workers: Sequence[WorkerOptions]) -> Iterator[Finding]:
    """Whether the database has a connection for every process."""
    with session_scope(engine) as session:
        metrics = server_metrics(session)
    used, limit = sum(metrics.connections.values()), metrics.limit
    processes = sum(worker.processes for worker in workers)
    wanted = processes * _CONNECTIONS_OF_A_PROCESS + _CONNECTIONS_OF_OTHERS
    detail = (
        f"{limit} connections are allowed, {used} are in use; {processes} processes and the others may want {wanted}"
    )
    remedy = f"max_connections = {wanted + limit // 10} or more, then restart PostgreSQL; or fewer workers"
    if wanted > limit:
        yield STACK.error("connections", detail, remedy)
    elif used > 0.8 * limit:
        yield STACK.warning("connections", detail, "SELECT * FROM pg_stat_activity shows whose they are")
    else:
        yield STACK.ok("connections", detail)


def examine_beat(engine: Engine, settings: Settings, *, now: datetime) -> Finding:
    """Whether ticks are worked on."""
    with session_scope(engine) as session:
        last = session.execute(_LAST_TICK).scalar_one_or_none()
    remedy = "start beat (`nightshift up`, or `python -m workers.start beat`) and a worker for control"
    if last is None:
        return STACK.error("beat", "no tick was ever worked on: no night is planned", remedy)
    age = max(now - last, timedelta(0))
    detail = f"the last tick was worked on {age.total_seconds():,.0f} s ago"
    if age > max(_TICKS_MISSED * timedelta(seconds=settings.tick_seconds), _SHORTEST_SILENCE):
        return STACK.error("beat", f"{detail}: no night is planned", remedy)
    return STACK.ok("beat", detail)


def examine_alerts(engine: Engine) -> Iterator[Finding]:
    """The alerts that are raised in the database."""
    with session_scope(engine) as session:
        alerts = active_alerts(session)
    for alert in alerts:
        detail = f"{alert.kind}: {alert.detail} (since {alert.raised_at:%Y-%m-%d %H:%M} UTC)"
        yield STACK.warning("alerts", detail, "`nightshift status` says what to do")
    if not alerts:
        yield STACK.ok("alerts", "none is active")


def examine_backups(engine: Engine, settings: Settings, *, now: datetime) -> Iterator[Finding]:
    """Whether backups are made, and whether they can be restored."""
    with session_scope(engine) as session:
        made = backup_metrics(session, settings)
    due = timedelta(hours=settings.backup_hours) + _BACKUP_TAKES
    if made.damaged:
        detail = f"{counted(made.damaged, 'backup', 'backups')} did not stand verification"
        yield STACK.error(
            "backups", detail, "`nightshift backup list` names them; `nightshift backup create` makes another"
        )
    if not settings.backup_to:
        yield STACK.warning("backups", "none is made by itself", f"set {PREFIX}BACKUP_TO (docs/backups.md)")
    elif made.newest is None or now - made.newest > due:
        detail = "none was ever made" if made.newest is None else f"the newest is {_hours(now - made.newest)} old"
        remedy = "`nightshift backup create` says what is wrong; is there a worker for maintenance?"
        yield STACK.error("backups", f"{detail}, one is due every {settings.backup_hours:g} h", remedy)
    elif made.proven is None or now - made.proven > due + timedelta(hours=settings.backup_hours):
        detail = (
            "none was ever restored" if made.proven is None else f"the newest proven is {_hours(now - made.proven)} old"
        )
        yield STACK.warning(
            "backups", f"{detail}: a backup that was never restored is a hope", "`nightshift backup verify`"
        )
    elif not made.damaged:
        yield STACK.ok(
            "backups", f"the newest is {_hours(now - made.newest)} old, the newest proven {_hours(now - made.proven)}"
        )


def _hours(span: timedelta) -> str:
    return f"{span.total_seconds() / 3600:,.1f} h"
