"""The audit trail, for operators."""

from __future__ import annotations

from starlette.responses import Response

from core.database import session_scope
from services.audit import audit_before
from workers.web.site import Ask

_ROWS = 50


def audit(ask: Ask) -> Response:
    """`/audit?before=ID`."""
    before = ask.key("before")
    with session_scope(ask.site.engine) as session:
        rows = audit_before(session, before=before, limit=_ROWS + 1)
    older = rows[_ROWS - 1].id if len(rows) > _ROWS else None
    return ask.page("audit.html", rows=rows[:_ROWS], before=before, older=older)
