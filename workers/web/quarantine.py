"""What is in quarantine, newest first, and for operators the way to try it again."""

from __future__ import annotations

from starlette.responses import Response

from core.database import session_scope
from services.runs import count_quarantine, list_quarantine
from workers.web.site import Ask

_ENTRIES = 50


def quarantine(ask: Ask) -> Response:
    """`/quarantine?before=ID`."""
    before = ask.key("before")
    with session_scope(ask.site.engine) as session:
        entries = list_quarantine(session, _ENTRIES + 1, before=before)
        total = count_quarantine(session)
    older = entries[_ENTRIES - 1].id if len(entries) > _ENTRIES else None
    return ask.page("quarantine.html", entries=entries[:_ENTRIES], total=total, before=before, older=older)
