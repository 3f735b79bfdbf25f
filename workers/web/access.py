"""Who asks, and what he may.

Without any account, and with the exporter bound to loopback, everybody on this machine may look: a laptop's first
night. As soon as there is an account, or the exporter is bound to another address, looking takes a login. Acting always
takes an operator's.
"""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import Enum, auto
from urllib.parse import urlsplit

from sqlalchemy import Engine
from starlette.requests import Request
from starlette.responses import Response

from core.database import session_scope
from core.settings import Settings
from services.audit import Actor
from services.operators import Account
from services.web_sessions import csrf_token, find_session, new_token

_COOKIE = "nightshift"


class Access(Enum):
    """What a page asks of its visitor."""

    PUBLIC = auto()
    """Nothing: health, the way in, the way out of mails."""
    FORM = auto()
    """A form that anybody may send, if it is ours: the login."""
    READ = auto()
    """A login, or this machine."""
    LIVE = auto()
    """The same; but nobody has to be there for it to be asked, so that it keeps no session alive."""
    ACT = auto()
    """An operator's login, and of a form its CSRF token."""


@dataclass(frozen=True, slots=True)
class Visitor:
    """Somebody.

    Attributes:
        account: None: he is not logged in.
        token: his cookie's; of who is not logged in, that of the login form.
        fresh: the token is new, and his browser does not know it yet.
        address: where he is.
        may_look: without a login, because he is on this machine and there are no accounts.
    """

    account: Account | None
    token: str
    fresh: bool
    address: str
    may_look: bool

    @classmethod
    def nobody(cls) -> Visitor:
        """Whoever could not be asked."""
        return cls(None, "", fresh=False, address="", may_look=False)

    @property
    def actor(self) -> Actor:
        """For the audit trail."""
        return Actor(self.account.name if self.account else None, self.address)

    @property
    def operates(self) -> bool:
        """Whether he may act."""
        return self.account is not None and self.account.role == "operator"

    @property
    def csrf(self) -> str:
        """What his forms carry."""
        return csrf_token(self.token)


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why not. `log_in`: he is shown the way in."""

    reason: str
    status: int = 403
    log_in: bool = False


def identify(engine: Engine, request: Request, *, now: datetime, settings: Settings, touch: bool) -> Visitor:
    """Who asks; `touch`: he did it himself, so that his session is not idle."""
    token = request.cookies.get(_cookie_name(settings), "")
    with session_scope(engine) as session:
        found = find_session(session, token, now=now, settings=settings, touch=touch)
    fresh = len(token) < 20
    return Visitor(
        account=found.account,
        token=new_token() if fresh else token,
        fresh=fresh,
        address=request.client.host if request.client else "unknown",
        may_look=not found.accounts and is_loopback(settings.host) and is_loopback(_host(request)),
    )


def refuse(
    visitor: Visitor, access: Access, request: Request, form: Mapping[str, str], settings: Settings
) -> Refusal | None:
    """Why he may not; None: he may."""
    if access is Access.PUBLIC:
        return None
    posts = request.method == "POST"
    return _without_login(visitor, access, posts=posts) or (
        _forged(visitor, request, form, settings) if posts else None
    )


def _without_login(visitor: Visitor, access: Access, *, posts: bool) -> Refusal | None:
    if access is Access.ACT:
        if visitor.account is None:
            return Refusal("log in to do this", 403, log_in=not posts)
        if not visitor.operates:
            return Refusal(f"only an operator may do this, and {visitor.account.name} is a {visitor.account.role}")
    if access in {Access.READ, Access.LIVE} and visitor.account is None and not visitor.may_look:
        return Refusal("log in to see this", 401, log_in=access is Access.READ)
    return None


def _forged(visitor: Visitor, request: Request, form: Mapping[str, str], settings: Settings) -> Refusal | None:
    if not _same_site(request, settings):
        return Refusal("this form came from another site")
    if not hmac.compare_digest(form.get("csrf", "").encode(), visitor.csrf.encode()):
        return Refusal("this form has expired: load its page again")
    return None


def give_cookie(response: Response, token: str, settings: Settings) -> None:
    """Have the browser keep the token until it is closed; scripts never see it."""
    response.set_cookie(
        _cookie_name(settings), token, path="/", secure=_is_secure(settings), httponly=True, samesite="lax"
    )


def take_cookie(response: Response, settings: Settings) -> None:
    """Have the browser forget the token."""
    response.delete_cookie(_cookie_name(settings), path="/", secure=_is_secure(settings), httponly=True, samesite="lax")


def is_loopback(host: str) -> bool:
    """Whether it names this machine, and can name no other."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _is_secure(settings: Settings) -> bool:
    return settings.public_url.startswith("https:")


def _cookie_name(settings: Settings) -> str:
    # The prefix keeps other hosts of the domain from setting it.
    return f"__Host-{_COOKIE}" if _is_secure(settings) else _COOKIE


def _host(request: Request) -> str:
    """The name in the address bar: with another one, a page of somebody else's has had it resolved to this machine."""
    return urlsplit(f"//{request.headers.get('host', '')}").hostname or ""


def _same_site(request: Request, settings: Settings) -> bool:
    """Whether the browser says that the form is ours; one that says nothing is judged by the CSRF token alone."""
    if request.headers.get("sec-fetch-site", "same-origin") not in {"same-origin", "none"}:
        return False
    origin = request.headers.get("origin")
    if origin is None:
        return True
    ours = {request.headers.get("host", ""), urlsplit(settings.public_url).netloc}
    return urlsplit(origin).netloc in ours - {""}
