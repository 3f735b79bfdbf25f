"""The first page: the night at a glance, its parts that refresh themselves, and the calendar of nights."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from starlette.responses import Response

from core.database import session_scope
from services.calendar_of_nights import NightState, calendar_of_nights
from services.night_at_a_glance import read_glance
from workers.web.site import Ask

_LIVE, _CALM = 2_000, 15_000  # milliseconds


def show(ask: Ask) -> Response:
    """`/`, with the year of nights through `until`."""
    with session_scope(ask.site.engine) as session:
        calendar = calendar_of_nights(session, until=ask.day("until"), today=ask.now.date())
    following = None
    if calendar.newest is not None and calendar.last < calendar.newest:
        following = min(calendar.last + timedelta(weeks=52), calendar.newest)
    return ask.page(
        "night.html",
        **_glance(ask),
        calendar=calendar,
        states=[state for state in NightState if state is not NightState.NONE],
        previous=calendar.first - timedelta(days=1) if calendar.older else None,
        following=following,
    )


def live(ask: Ask) -> Response:
    """The parts of it that refresh themselves."""
    return ask.page("night_live.html", **_glance(ask))


def _glance(ask: Ask) -> dict[str, Any]:
    site = ask.site
    with session_scope(site.engine) as session:
        glance = read_glance(session, site.redis_url, now=ask.now, settings=site.settings)
    return {"glance": glance, "every": _LIVE if glance.running else _CALM}
