"""How a request becomes a page: who asks, whether he may, what he gets, and what becomes of an error.

Guarantees: a page that needs a login shows nothing without one; nothing is changed without an operator's session and
the CSRF token of its form, and who tries is written down; an error is a page with one line and no secret.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import Any
from urllib.parse import parse_qsl, quote

from anyio import CapacityLimiter, to_thread
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, RedirectResponse, Response
from starlette.routing import Route

from core.database import session_scope
from core.errors import NightshiftError, UsageError
from core.log import get_logger, mask_secrets
from core.settings import Settings
from services.audit import Result, record
from services.login_limits import LoginLimits
from workers.web.access import Access, Refusal, Visitor, identify, refuse
from workers.web.rendering import Renderer

log = get_logger(__name__)

_LONGEST_FORM, _MOST_FIELDS = 65_536, 50


@dataclass(frozen=True, slots=True)
class Site:
    """What all pages need."""

    engine: Engine
    redis_url: str
    clock: Callable[[], datetime]
    settings: Settings
    limits: LoginLimits
    renderer: Renderer = field(default_factory=Renderer)


@dataclass(frozen=True, slots=True)
class Ask:
    """One request: what is asked for, by whom, when; `form` is that of a POST."""

    site: Site
    request: Request
    visitor: Visitor
    form: Mapping[str, str]
    now: datetime

    def page(self, template: str, *, status: int = 200, **values: Any) -> HTMLResponse:
        """The template as an answer."""
        common = {"visitor": self.visitor, "path": self.request.url.path, "now": self.now}
        return HTMLResponse(self.site.renderer.render(template, {**common, **values}), status)

    def number(self, name: str) -> int:
        """A number of the path; UsageError if no row can have it."""
        return parse_number(self.request.path_params[name], f"there is no {name} {{}}")

    def key(self, name: str) -> int | None:
        """A key of the query to page by; UsageError if it is no number."""
        value = self.request.query_params.get(name, "")
        return parse_number(value, f"{name}={{}} is no number to page by") if value else None

    def day(self, name: str) -> date | None:
        """A day of the query to page by; UsageError if it is none."""
        value = self.request.query_params.get(name, "")
        if not value:
            return None
        try:
            return date.fromisoformat(value)
        except ValueError:
            raise UsageError(f"{name}={value[:40]!a} is no day: write YYYY-MM-DD") from None


View = Callable[[Ask], Response]


def parse_number(value: str, complaint: str) -> int:
    """The number of a row; UsageError with the complaint, in which {} is the value, if no row can have it."""
    if not (value.isascii() and value.isdigit() and len(value) < 20 and int(value) < 2**63):
        raise UsageError(complaint.format(ascii(value[:40])))
    return int(value)


def page(site: Site, path: str, view: View, access: Access = Access.READ) -> Route:
    """The route of a page that is only looked at."""

    async def endpoint(request: Request) -> Response:
        return await to_thread.run_sync(_serve, site, request, {}, view, access)

    return Route(path, endpoint, methods=["GET"])


def action(
    site: Site, path: str, view: View, access: Access = Access.ACT, *, limiter: CapacityLimiter | None = None
) -> Route:
    """The route of a form that is sent. `limiter`: so many of them at a time."""

    async def endpoint(request: Request) -> Response:
        try:
            form = await _read_form(request)
        except UsageError as error:
            return Response(f"{error}\n", 400, media_type="text/plain")
        return await to_thread.run_sync(_serve, site, request, form, view, access, limiter=limiter)

    return Route(path, endpoint, methods=["POST"])


def _serve(site: Site, request: Request, form: Mapping[str, str], view: View, access: Access) -> Response:
    now = site.clock()
    ask = Ask(site, request, Visitor.nobody(), form, now)
    try:
        visitor = identify(site.engine, request, now=now, settings=site.settings, touch=access is not Access.LIVE)
        ask = Ask(site, request, visitor, form, now)
        refusal = refuse(visitor, access, request, form, site.settings)
        return view(ask) if refusal is None else _refused(ask, refusal)
    except UsageError as error:
        return ask.page("error.html", status=404 if request.method == "GET" else 400, message=str(error))
    except SQLAlchemyError as error:
        log.warning("a page without the database", path=request.url.path, error=type(error).__name__)
        message = f"the database did not answer ({type(error).__name__}): look again in a moment"
        return ask.page("error.html", status=503, message=message)
    except NightshiftError as error:
        return ask.page("error.html", status=503, message=mask_secrets(str(error)))


def _refused(ask: Ask, refusal: Refusal) -> Response:
    if ask.request.method == "POST" and (ask.visitor.account or ask.site.limits.worth_a_row(ask.visitor.address)):
        with session_scope(ask.site.engine) as session:
            record(
                session, ask.visitor.actor, f"POST {ask.request.scope['route'].path}", now=ask.now,
                target=ask.request.url.path, result=Result.REFUSED, error=refusal.reason,
            )  # fmt: skip
    if refusal.log_in:
        query = f"?{ask.request.url.query}" if ask.request.url.query else ""
        return RedirectResponse(f"/login?next={quote(ask.request.url.path + query, safe='')}", 303)
    return ask.page("error.html", status=refusal.status, message=refusal.reason)


async def _read_form(request: Request) -> dict[str, str]:
    """The fields of a form; of several of one name the last. UsageError if it is none, or too large."""
    body = b""
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > _LONGEST_FORM:
                raise UsageError("this form is too large")
    except ClientDisconnect:
        raise UsageError("the form did not arrive") from None
    try:
        return dict(parse_qsl(body.decode(), keep_blank_values=True, max_num_fields=_MOST_FIELDS))
    except ValueError:
        raise UsageError("this is not a form") from None
