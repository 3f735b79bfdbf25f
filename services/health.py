"""Health: each part is asked one question that only a working part can answer.

A check never raises and never shows a connection string; what it cannot find out counts as ill.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from time import perf_counter
from typing import Any

from sqlalchemy import Engine, text
from sqlalchemy.exc import SQLAlchemyError

from core.database import session_scope
from core.errors import ServerUnreachableError
from core.settings import Settings
from schedules.calendar import last_due_day
from services.queue_state import redis_client

# A tick may wait behind a planning of a million users.
_TICKS_MISSED = 6
_SHORTEST_SILENCE = timedelta(seconds=60)


@dataclass(frozen=True, slots=True)
class Check:
    """The answer of one part, and how many seconds it took."""

    name: str
    ok: bool
    detail: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Health:
    """All checks; healthy if every one is."""

    checks: tuple[Check, ...]

    @property
    def ok(self) -> bool:
        """Whether every check passed."""
        return all(check.ok for check in self.checks)

    def as_json(self) -> dict[str, Any]:
        """`{"ok": …, "checks": [{"name", "ok", "detail", "seconds"}, …]}`."""
        return {"ok": self.ok, "checks": [asdict(check) for check in self.checks]}


def check_health(
    engine: Engine, redis_url: str, ping_workers: Callable[[], Sequence[str]], *, now: datetime, settings: Settings
) -> Health:
    """Ask database, Redis, workers, beat and prices. `ping_workers` gives the names of the workers that answer."""
    return Health((
        _check("database", lambda: _database(engine)),
        _check("redis", lambda: _redis(redis_url)),
        _check("workers", lambda: _workers(ping_workers)),
        _check("beat", lambda: _beat(engine, now, settings)),
        _check("prices", lambda: _prices(engine, now, settings)),
    ))  # fmt: skip


class _IllError(Exception):
    """What a part answered is not well; the message says why."""


def _check(name: str, ask: Callable[[], str]) -> Check:
    started = perf_counter()
    try:
        ok, detail = True, ask()
    except _IllError as error:
        ok, detail = False, str(error)
    except ServerUnreachableError:
        # Its message says where the server should be, which is nobody's business who may ask for health.
        ok, detail = False, "Redis did not answer"
    except SQLAlchemyError as error:
        # Its message quotes the statement, and may quote the connection string.
        ok, detail = False, f"the database did not answer ({type(error).__name__})"
    except Exception as error:  # noqa: BLE001 - whatever breaks a check is what the check is there to report
        ok, detail = False, f"the check failed ({type(error).__name__})"
    return Check(name, ok, detail, round(perf_counter() - started, 4))


def _database(engine: Engine) -> str:
    with session_scope(engine) as session:
        session.execute(text("SELECT count(*) FROM (SELECT FROM runs LIMIT 1) AS any_run"))
    return "answers"


def _redis(redis_url: str) -> str:
    with redis_client(redis_url) as client:
        client.ping()
        # A full server with `noeviction` answers a ping, and refuses what it is for.
        client.set("nightshift:health", 1, ex=60)
    return "answers and takes writes"


def _workers(ping: Callable[[], Sequence[str]]) -> str:
    names = sorted(ping())
    if not names:
        raise _IllError("no worker answers")
    return f"{len(names)} answer: {', '.join(names)}"


def _beat(engine: Engine, now: datetime, settings: Settings) -> str:
    with session_scope(engine) as session:
        last = session.execute(text("SELECT last_run_at FROM beat_ticks WHERE name = 'tick'")).scalar_one_or_none()
    if last is None:
        raise _IllError("no tick yet")
    age = now - last
    seconds = f"last tick {max(age.total_seconds(), 0):.0f} s ago"
    if age > max(_TICKS_MISSED * timedelta(seconds=settings.tick_seconds), _SHORTEST_SILENCE):
        raise _IllError(seconds)
    return seconds


def _prices(engine: Engine, now: datetime, settings: Settings) -> str:
    """Fresh enough for the newest due night: older closes value nothing, so that night would quarantine everybody."""
    with session_scope(engine) as session:
        newest = session.execute(text("SELECT max(day) FROM closes")).scalar_one()
    if newest is None:
        raise _IllError("no closes yet")
    if settings.dev_night_every is not None:
        # Days pass faster than prices come: no night is due by the calendar.
        return f"newest close {newest}"
    due = last_due_day(now, settings.nightly_at)
    if newest < due - timedelta(days=settings.max_stale_days):
        raise _IllError(f"newest close {newest}, too old for the night of {due}")
    return f"newest close {newest}"
