"""What operators do: pause, resume and cancel runs, and try again what is in quarantine.

Each is the same service that the command line calls, in one transaction with its row in the audit trail. Nothing is
published here: beat's next tick does that, so that an order is taken while Redis is away.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, TypeVar

from sqlalchemy.orm import Session
from starlette.responses import RedirectResponse, Response

from core.database import session_scope
from core.errors import UsageError
from services.audit import Result, record
from services.completion import finish_runs
from services.reprocessing import retry_quarantined
from services.run_control import pause_run, resume_run
from services.runs import RunView, cancel_run
from services.scopes import check_line
from workers.web.site import Ask, parse_number

T = TypeVar("T")


def act(
    ask: Ask,
    name: str,
    work: Callable[[Session], T],
    *,
    target: str | None = None,
    detail: Mapping[str, Any] | None = None,
    outcome: Callable[[T], Mapping[str, Any]] = lambda _: {},
) -> T:
    """Do it and write it down, together; or write down why it could not be done.

    Args:
        ask: whose it is.
        name: the action, as the trail calls it.
        work: does it.
        target: what it is about.
        detail: what was asked for.
        outcome: what came of it, for the trail.

    Raises:
        UsageError: as `work` does.
    """
    actor, now = ask.visitor.actor, ask.now
    try:
        with session_scope(ask.site.engine) as session:
            done = work(session)
            said = {**(detail or {}), **outcome(done)}
            record(session, actor, name, now=now, target=target, detail=said)
    except UsageError as error:
        with session_scope(ask.site.engine) as session:
            record(
                session, actor, name, now=now, target=target, detail=detail, result=Result.FAILED, error=str(error)
            )  # fmt: skip
        raise
    return done


def requested_by(ask: Ask) -> str:
    """Who it was, as runs say it."""
    return f"{ask.visitor.actor.who} (status page)"


def cancel(ask: Ask) -> Response:
    """End a run after the batches in work."""
    answer = _order(ask, "cancel", cancel_run)
    # Nothing may be left to wait for: then it is over now, and not at beat's next tick.
    finish_runs(ask.site.engine, now=ask.now)
    return answer


def pause(ask: Ask) -> Response:
    """Begin no batch of a run until it is resumed."""
    return _order(ask, "pause", pause_run)


def resume(ask: Ask) -> Response:
    """Let a paused run go on."""
    return _order(ask, "resume", resume_run)


def _order(ask: Ask, name: str, order: Callable[[Session, int, datetime], RunView]) -> Response:
    run_id = ask.number("run")
    act(ask, name, lambda session: order(session, run_id, ask.now), target=f"run {run_id}")
    return RedirectResponse(f"/runs/{run_id}?did={name}", 303)


def retry(ask: Ask) -> Response:
    """Try again whoever is in quarantine, or one user of them."""
    reason, user = ask.form.get("reason", "").strip(), ask.form.get("user", "").strip()
    users = [parse_number(user, "{} is no number of a user")] if user else None

    def work(session: Session) -> int | None:
        check_line(reason, "the reason", 1000)
        return retry_quarantined(
            session, reason=reason, requested_by=requested_by(ask), now=ask.now, settings=ask.site.settings,
            users=users,
        )  # fmt: skip

    run_id = act(
        ask, "retry quarantined", work, target=f"user {user}" if user else "everybody in quarantine",
        detail={"reason": reason}, outcome=lambda run: {"run": run},
    )  # fmt: skip
    if run_id is None:
        raise UsageError("nobody of them is in quarantine and lacks a day: there is nothing to do")
    return RedirectResponse(f"/runs/{run_id}?did=planned", 303)
