"""Maintenance: what is made ahead, what goes, what is tidied; on one screen, in the order in which it is done.

Guarantees: every step is safe to interrupt and to repeat, and one maintenance is at work at a time. It gives way: it
begins nothing that goes while a night is planned or running, and makes what is missing all the same. What it could not
do, it leaves to the next time and says so.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from typing import TypeVar

from sqlalchemy import Connection, Engine, text

from core.database import session_scope
from core.log import get_logger, mask_secrets
from core.settings import Settings
from services.partitions import ensure_ahead, missing_ahead
from services.retention_days import KeptDays, kept_days
from services.retention_horizon import Horizon, clear_archive, horizon, move_horizon
from services.retention_partitions import Going, drop_partition, partitions_to_drop, ticks_kept_from
from services.retention_rows import expiries
from services.retention_runs import forget_owed, runs_to_summarise, summarise_run
from services.retention_vacuum import Thawed, freeze, partitions_to_freeze
from services.tick import record_run

log = get_logger(__name__)
_T = TypeVar("_T")

# Any constant of our own.
_MAINTENANCE_LOCK = 0x4E53_4D41_494E
_NIGHT = text("SELECT EXISTS (SELECT FROM runs WHERE kind = 'nightly' AND status IN ('planned', 'running'))")


@dataclass(frozen=True, slots=True)
class Due:
    """What maintenance would do, and has not done.

    Attributes:
        horizon: from which day on every portfolio day is kept, now and when it has moved.
        make: partitions to be made; drop: those that go, with what goes once the horizon has moved.
        expired: rows to be deleted, by table.
        summarise: how many runs become one row each.
        freeze: partitions that will not change any more.
    """

    horizon: Horizon
    make: list[str]
    drop: list[Going]
    expired: dict[str, int]
    summarise: int
    freeze: list[Thawed]


@dataclass(slots=True)
class Maintained:
    """What maintenance did. `stopped`: why it did not do everything; None: nothing is left.

    Attributes:
        daily_from: from which day on every portfolio day is kept; None: none has gone.
        archived: rows of simulations that were left out, which went into the archive; `cleared`: that left it.
        dropped: partitions, of `dropped_bytes` together.
        deleted: rows by table.
        summarised: runs.
    """

    made: list[str] = field(default_factory=list)
    daily_from: date | None = None
    archived: int = 0
    cleared: int = 0
    dropped: list[str] = field(default_factory=list)
    dropped_bytes: int = 0
    deleted: dict[str, int] = field(default_factory=dict)
    summarised: int = 0
    frozen: list[str] = field(default_factory=list)
    stopped: str | None = None

    def summary(self) -> str:
        """One line for the schedule's record."""
        counts = {
            "partitions made": len(self.made),
            "dropped": len(self.dropped),
            "frozen": len(self.frozen),
            "runs summarised": self.summarised,
            "rows deleted": sum(self.deleted.values()),
        }
        done = ", ".join(f"{count} {name}" for name, count in counts.items() if count) or "nothing to do"
        return done if self.stopped is None else f"{done}; stopped: {self.stopped}"


class _StopError(Exception):
    """Ends the steps; its text says why."""


def due(engine: Engine, *, now: datetime, settings: Settings) -> Due:
    """Look at what there is to be done, and do nothing."""
    with engine.connect() as connection:
        found = horizon(connection, settings.keep_days)
        kept = KeptDays(found.possible)
        newest = found.newest or date.min
        return Due(
            horizon=found,
            make=[partition.name for partition in missing_ahead(connection, now)],
            drop=partitions_to_drop(connection, kept, ticks_kept_from(connection, settings.keep_tick_days, now)),
            expired={expiry.table: expiry.count(connection) for expiry in expiries(now, settings)},
            summarise=len(runs_to_summarise(connection, now - timedelta(days=settings.keep_run_days))),
            freeze=partitions_to_freeze(connection, newest) if found.newest else [],
        )


def maintain(engine: Engine, *, now: datetime, settings: Settings, seconds: float | None = None) -> Maintained:
    """Do it, and write down how it went.

    Args:
        engine: of a session without a limit on statements, or with one longer than to vacuum a day takes.
        now: the moment.
        settings: how long what is kept.
        seconds: no step is begun after so many; None: all are.
    """
    began = time.monotonic()
    done = Maintained()
    with _alone(engine) as alone:
        if not alone:
            done.stopped = "another maintenance is at work"
            return done

        def may_go_on() -> None:
            if seconds is not None and time.monotonic() - began >= seconds:
                raise _StopError("time is up")
            with engine.connect() as connection:
                if connection.execute(_NIGHT).scalar_one():
                    raise _StopError("a night is at work")

        try:
            _steps(engine, now, settings, done, may_go_on)
        except _StopError as reason:
            done.stopped = str(reason)
        except Exception as error:
            record_run(engine, "maintain", now=now, error=mask_secrets(f"{type(error).__name__}: {error}"))
            raise
    record_run(engine, "maintain", now=now, result=done.summary())
    return done


@contextmanager
def _alone(engine: Engine) -> Iterator[bool]:
    """Whether nobody else does maintenance; nobody does as long as the block lasts."""
    with engine.execution_options(isolation_level="AUTOCOMMIT").connect() as holder:
        values = {"key": _MAINTENANCE_LOCK}
        taken = bool(holder.execute(text("SELECT pg_try_advisory_lock(:key)"), values).scalar_one())
        try:
            yield taken
        finally:
            if taken:
                holder.execute(text("SELECT pg_advisory_unlock(:key)"), values)


def _steps(engine: Engine, now: datetime, settings: Settings, done: Maintained, may_go_on: Callable[[], None]) -> None:
    done.made = ensure_ahead(engine, now=now)
    may_go_on()
    busy = _move(engine, settings, done)
    skipped = []
    for going in _look(engine, lambda connection: _to_drop(connection, now, settings)):
        may_go_on()
        if drop_partition(engine, going, now=now):
            done.dropped.append(going.name)
            done.dropped_bytes += going.bytes
        else:
            skipped.append(going.name)
    before = now - timedelta(days=settings.keep_run_days)
    for run in _look(engine, lambda connection: runs_to_summarise(connection, before)):
        may_go_on()
        done.deleted["batches"] = done.deleted.get("batches", 0) + summarise_run(engine, run)
        done.summarised += 1
    for expiry in expiries(now, settings):
        may_go_on()
        for deleted in expiry.delete(engine):
            done.deleted[expiry.table] = done.deleted.get(expiry.table, 0) + deleted
            may_go_on()
    forget_owed(engine)
    for thawed in _look(engine, lambda connection: _to_freeze(connection, settings)):
        may_go_on()
        freeze(engine, thawed)
        done.frozen.append(thawed.name)
    if skipped:
        raise _StopError(f"somebody holds the locks of {', '.join(skipped[:3])}")
    if busy is not None:
        raise _StopError(busy)


def _move(engine: Engine, settings: Settings, done: Maintained) -> str | None:
    """Move the horizon; why it could not be moved, if it could not."""
    moved = move_horizon(engine, settings.keep_days)
    if moved.daily_from is not None:
        done.archived = moved.archived
        done.cleared = clear_archive(engine)
    with session_scope(engine) as session:
        kept = kept_days(session)
    done.daily_from = None if kept == KeptDays() else kept.daily_from
    return moved.busy


def _look(engine: Engine, query: Callable[[Connection], Sequence[_T]]) -> Sequence[_T]:
    with engine.connect() as connection:
        return query(connection)


def _to_drop(connection: Connection, now: datetime, settings: Settings) -> list[Going]:
    kept = KeptDays(horizon(connection, settings.keep_days).daily_from)
    return partitions_to_drop(connection, kept, ticks_kept_from(connection, settings.keep_tick_days, now))


def _to_freeze(connection: Connection, settings: Settings) -> list[Thawed]:
    newest = horizon(connection, settings.keep_days).newest
    return [] if newest is None else partitions_to_freeze(connection, newest)
