"""Doing work again from the page: a form, the figures of what it would do, and only then the run.

The figures are those of the run that would be planned (services.estimates). The form that confirms them carries a key,
so that pressing its button twice plans one run.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any

from pydantic import ValidationError
from sqlalchemy.orm import Session
from starlette.responses import RedirectResponse, Response

from core.errors import UsageError
from engine.strategies import strategies
from services.estimates import Estimate, estimate
from services.reprocessing import Requested, request
from services.scopes import Only, ReprocessScope
from workers.web.actions import act, requested_by
from workers.web.site import Ask, parse_number

FIELDS = (
    "users", "simulations", "symbols", "strategy", "run", "quarantined", "failed", "everything", "from", "only",
    "reason",
)  # fmt: skip
_WORDS = re.compile(r"[\s,;]+")


@dataclass(frozen=True, slots=True)
class _Asked:
    """What the form says."""

    scope: ReprocessScope
    first_day: date | None
    only: Only
    reason: str


def form(ask: Ask) -> Response:
    """`/reprocess`, perhaps with some of it filled in by the page that led here."""
    query = ask.request.query_params
    return _form(ask, {name: query.get(name, "") for name in FIELDS})


def look(ask: Ask) -> Response:
    """What it would do; nothing is written."""
    values = _values(ask)
    try:
        asked = _asked(values)
        figures = act(
            ask, "reprocess: dry run", lambda session: _estimate(session, ask, asked), detail=_told(asked),
            outcome=lambda found: {"simulations": found.simulations},
        )  # fmt: skip
    except UsageError as error:
        return _form(ask, values, error=_for_a_page(error), status=400)
    return ask.page("confirm.html", values=values, figures=figures, asked=asked, key=secrets.token_urlsafe(16))


def confirm(ask: Ask) -> Response:
    """Plan the run."""
    values = _values(ask)
    try:
        asked = _asked(values)
        done = act(
            ask, "reprocess", lambda session: _request(session, ask, asked), detail=_told(asked),
            outcome=lambda found: {"run": found.run, "simulations": found.simulations},
        )  # fmt: skip
    except UsageError as error:
        return _form(ask, values, error=_for_a_page(error), status=400)
    if done.run is None:
        return _form(ask, values, error="nobody of them has anything to be done again: nothing to do", status=400)
    return RedirectResponse(f"/runs/{done.run}?did=planned", 303)


def _form(ask: Ask, values: Mapping[str, str], *, error: str | None = None, status: int = 200) -> Response:
    names = sorted(strategy.name for strategy in strategies().values())
    return ask.page(
        "reprocess.html", status=status, values=values, error=error, strategies=names, choices=[*map(str, Only)]
    )


def _values(ask: Ask) -> dict[str, str]:
    return {name: ask.form.get(name, "").strip() for name in FIELDS}


def _asked(values: Mapping[str, str]) -> _Asked:
    """What the fields mean; UsageError if they mean nothing."""
    only = values["only"] or Only.EVERYTHING
    if only not in list(Only):
        raise UsageError(f"{only[:40]!a} is none of {', '.join(Only)}")
    try:
        scope = ReprocessScope(
            users=tuple(_ids(values["users"], "user")),
            simulations=tuple(_ids(values["simulations"], "simulation")),
            symbols=tuple(word for word in _WORDS.split(values["symbols"]) if word),
            strategy=values["strategy"] or None,
            run=next(iter(_ids(values["run"], "run")), None),
            quarantined=bool(values["quarantined"]),
            failed=bool(values["failed"]),
            everything=bool(values["everything"]),
        )
    except ValidationError as error:
        raise UsageError(f"{error.errors(include_input=False)[0]['msg']}") from None
    return _Asked(scope, _day(values["from"]), Only(only), values["reason"])


def _ids(text: str, kind: str) -> list[int]:
    return [parse_number(word, f"{{}} is no number of a {kind}") for word in _WORDS.split(text) if word]


def _day(text: str) -> date | None:
    try:
        return date.fromisoformat(text) if text else None
    except ValueError:
        raise UsageError(f"{text[:40]!a} is no day: write YYYY-MM-DD") from None


def _estimate(session: Session, ask: Ask, asked: _Asked) -> Estimate:
    return estimate(
        session, asked.scope, first_day=asked.first_day, only=asked.only, reason=asked.reason, now=ask.now,
        settings=ask.site.settings,
    )  # fmt: skip


def _request(session: Session, ask: Ask, asked: _Asked) -> Requested:
    key = ask.form.get("key", "")
    return request(
        session, asked.scope, first_day=asked.first_day, only=asked.only, reason=asked.reason,
        requested_by=requested_by(ask), now=ask.now, settings=ask.site.settings, key=f"page:{key}" if key else None,
    )  # fmt: skip


def _told(asked: _Asked) -> dict[str, Any]:
    scope = asked.scope.model_dump(mode="json", exclude_defaults=True)
    for name in ("users", "simulations"):
        if len(scope.get(name, ())) > 20:
            scope[name] = f"{len(scope[name])} ids"
    first = None if asked.first_day is None else str(asked.first_day)
    return {"scope": scope, "from": first, "only": str(asked.only), "reason": asked.reason[:500]}


_LABELS = {
    "--from": "the first day", "--reason": "the reason", "--all": "everybody", "--quarantined": "in quarantine",
    "--only": "which of them", "--user": "users", "--simulation": "simulations", "--symbol": "symbols",
    "--strategy": "strategy", "--failed": "failed batches", "--run": "run",
}  # fmt: skip


def _for_a_page(error: UsageError) -> str:
    """The services say the options of the command line; a form has labels."""
    return re.sub(r"--[a-z]+", lambda match: _LABELS.get(match.group(), match.group()), str(error))
