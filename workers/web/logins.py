"""The way in and the way out."""

from __future__ import annotations

from starlette.responses import RedirectResponse, Response

from services.logins import LoginRefusedError, log_in, log_out
from workers.web.access import give_cookie, take_cookie
from workers.web.site import Ask


def form(ask: Ask) -> Response:
    """`/login`."""
    return _form(ask, ask.request.query_params.get("next", ""))


def enter(ask: Ask) -> Response:
    """Log in, and go where somebody wanted to go."""
    onward = ask.form.get("next", "")
    try:
        token = log_in(
            ask.site.engine, ask.site.limits, name=ask.form.get("name", ""), password=ask.form.get("password", ""),
            address=ask.visitor.address, old_token=ask.visitor.token, now=ask.now, settings=ask.site.settings,
        )  # fmt: skip
    except LoginRefusedError as error:
        return _form(ask, onward, error=str(error), status=429 if error.too_many else 403)
    answer = RedirectResponse(_own(onward), 303)
    give_cookie(answer, token, ask.site.settings)
    return answer


def leave(ask: Ask) -> Response:
    """Log out."""
    if ask.visitor.account is not None:
        log_out(ask.site.engine, ask.visitor.token, ask.visitor.actor, now=ask.now)
    answer = RedirectResponse("/login", 303)
    take_cookie(answer, ask.site.settings)
    return answer


def _form(ask: Ask, onward: str, *, error: str | None = None, status: int = 200) -> Response:
    answer = ask.page("login.html", status=status, next=_own(onward), error=error, name=ask.form.get("name", ""))
    if ask.visitor.fresh:
        give_cookie(answer, ask.visitor.token, ask.site.settings)
    return answer


def _own(path: str) -> str:
    """`path` if it is one of ours: nobody is sent elsewhere after he has logged in here."""
    ours = path.startswith("/") and not path.startswith(("//", "/\\")) and path.isprintable()
    return path if ours else "/"
