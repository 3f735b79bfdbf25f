"""One tick of beat: plan what is due, put back what was lost, finish what has ended, publish what is planned.

Every step is safe to repeat and to run beside itself; a tick that finds another at work leaves it to that one.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Engine, text

from core import tracing
from core.database import session_scope
from core.log import mask_secrets
from core.settings import Settings
from price_sources.registry import sources
from services.completion import finish_runs
from services.leaderboards import make_missing_boards
from services.locks import TICK_LOCK
from services.planning import plan_due
from services.price_chunks import publish_chunks
from services.price_planning import plan_prices
from services.price_wait import settle_missing
from services.publishing import Publisher
from services.reconciler import reconcile
from services.relay import publish_planned


@dataclass(frozen=True, slots=True)
class TickResult:
    """What one tick did; `ran` is False if another tick was at work. `waiting`: in words, a night that waits."""

    ran: bool
    planned: int = 0
    published: int = 0
    abandoned: int = 0
    lost: int = 0
    finished: int = 0
    fetches: int = 0
    waiting: str | None = None

    def summary(self) -> str:
        """For the schedule's record: what was done, or that nothing was to do."""
        if not self.ran:
            return "another tick was at work"
        counts = {
            "planned": self.planned,
            "published": self.published,
            "abandoned": self.abandoned,
            "lost": self.lost,
            "finished": self.finished,
            "fetches": self.fetches,
        }
        done = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
        return "; ".join(part for part in (done, self.waiting) if part) or "nothing to do"


def tick(engine: Engine, publish: Publisher, *, now: datetime, settings: Settings) -> TickResult:
    """Do all that is due at `now`, and write down how it went.

    Raises:
        PublishError: Redis did not take the messages; what was planned stays planned for the next tick.
    """
    with engine.connect() as holder, holder.begin():
        if not holder.execute(text("SELECT pg_try_advisory_xact_lock(:key)"), {"key": TICK_LOCK}).scalar_one():
            return TickResult(ran=False)
        try:
            with tracing.span("tick"):
                result = _tick(engine, publish, now, settings)
                tracing.annotate(result=result.summary())
        except Exception as error:
            record_run(engine, "tick", now=now, error=mask_secrets(f"{type(error).__name__}: {error}"))
            raise
    record_run(engine, "tick", now=now, result=result.summary())
    return result


def _tick(engine: Engine, publish: Publisher, now: datetime, settings: Settings) -> TickResult:
    with tracing.span("plan"), session_scope(engine) as session:
        planned = plan_due(session, now=now, settings=settings)
        tracing.annotate(runs=len(planned.runs))
    with session_scope(engine) as session:
        settle_missing(session, now=now, settings=settings)
    put_back = reconcile(engine, now=now, settings=settings)
    finished = finish_runs(engine, now=now)
    published = publish_planned(engine, publish, now=now, in_flight=settings.reprocess_in_flight)
    # A run without any batch is started by the relay and ends at once.
    finished += finish_runs(engine, now=now)
    # After the nights: whatever is wrong with prices must not keep a night from beginning.
    fetches = _prices(engine, publish, now, settings)
    make_missing_boards(engine)
    waiting = planned.waiting.summary() if planned.waiting is not None else None
    return TickResult(
        ran=True,
        planned=len(planned.runs),
        published=published,
        abandoned=put_back.abandoned,
        lost=put_back.lost,
        finished=len(finished),
        fetches=fetches,
        waiting=waiting,
    )


def _prices(engine: Engine, publish: Publisher, now: datetime, settings: Settings) -> int:
    enabled = sources(settings)
    if not enabled:
        return 0
    with session_scope(engine) as session:
        plan_prices(session, enabled, now=now, settings=settings)
    return publish_chunks(engine, publish, now=now)


def record_run(
    engine: Engine, name: str, *, now: datetime, result: str | None = None, error: str | None = None
) -> None:
    """Write down that a schedule ran, for health and `/scheduler/status`."""
    with session_scope(engine) as session:
        session.execute(
            text(
                "INSERT INTO beat_ticks (name, last_run_at, last_result, last_error, runs)"
                " VALUES (:name, :now, :result, :error, 1)"
                " ON CONFLICT (name) DO UPDATE SET last_run_at = :now, last_result = :result, last_error = :error,"
                " runs = beat_ticks.runs + 1"
            ),
            {"name": name, "now": now, "result": result, "error": error},
        )
