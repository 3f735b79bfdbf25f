"""Where prices come from: the sources, their windows, and the prices that are held back."""

from __future__ import annotations

from datetime import datetime

from starlette.responses import Response

from core.database import session_scope
from core.errors import UsageError
from price_sources.registry import limits_of, sources
from services.held_prices import list_held
from services.price_windows_list import windows_before
from services.source_reports import source_reports
from services.window_states import window_states
from workers.web.site import Ask

_WINDOWS, _HELD = 24, 50


def prices(ask: Ask) -> Response:
    """`/prices?source=NAME&before=MOMENT&held_before=ID`."""
    settings, query = ask.site.settings, ask.request.query_params
    before, held_before = _moment(query.get("before", "")), ask.key("held_before")
    enabled = sources(settings)
    limits = {name: str(limit) for name, limit in limits_of(settings).items()}
    with session_scope(ask.site.engine) as session:
        reports = source_reports(session, enabled, limits)
        # A source that is no longer enabled keeps its windows.
        states = window_states(session)
        names = list(dict.fromkeys([*enabled, *(state.source for state in states)]))
        source = query.get("source") or (names[0] if names else "")
        windows = windows_before(session, source, before=before, limit=_WINDOWS + 1)
        held = list_held(session, limit=_HELD + 1, before=held_before)
    return ask.page(
        "prices.html",
        reports=reports,
        states=states,
        names=names,
        source=source,
        windows=windows[:_WINDOWS],
        older=windows[_WINDOWS - 1].starts_at if len(windows) > _WINDOWS else None,
        before=before,
        held=held[:_HELD],
        held_older=held[_HELD - 1].id if len(held) > _HELD else None,
        held_before=held_before,
    )


def _moment(value: str) -> datetime | None:
    if not value:
        return None
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise UsageError(f"before={value[:40]!a} is no moment like 2026-03-05T00:00:00+00:00")
    return moment
