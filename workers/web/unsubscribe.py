"""The way out of mails: for people a question and a button, for mail programs one POST (RFC 8058). No login, no cookie.

A GET ends nothing: mail scanners follow links. The token is the permission, so there is no CSRF token beside it.
"""

from __future__ import annotations

from starlette.responses import Response

from core.database import session_scope
from core.errors import UsageError
from services.notify_links import unsubscribe
from workers.web.site import Ask


def question(ask: Ask) -> Response:
    """`/unsubscribe?token=…`."""
    return ask.page("unsubscribe.html", token=ask.request.query_params.get("token", ""), done=False, error=None)


def answer(ask: Ask) -> Response:
    """End the mails."""
    token = ask.request.query_params.get("token") or ask.form.get("token", "")
    try:
        with session_scope(ask.site.engine) as session:
            unsubscribe(session, token, settings=ask.site.settings)
    except UsageError as error:
        # Without its secret the server cannot tell, which is nobody's business here.
        told = "this link is damaged, or not ours" if "NIGHTSHIFT" in str(error) else str(error)
        return ask.page("unsubscribe.html", status=400, token="", done=False, error=told)
    return ask.page("unsubscribe.html", token="", done=True, error=None)
