"""Logging in and out, with its rows in the audit trail.

Guarantees: a login begins a session whose token nobody has seen before, whatever cookie came with it; the session of
that cookie ends. Every login, failure, refusal and logout is written down, and a name only if it is an account's:
somebody may have typed his password there.
"""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import Engine

from core.database import session_scope
from core.errors import NightshiftError
from core.log import get_logger
from core.settings import Settings
from services.audit import Actor, Result, record
from services.login_limits import LoginLimits
from services.operators import check_password, is_operator
from services.web_sessions import begin_session, end_session

log = get_logger(__name__)


class LoginRefusedError(NightshiftError):
    """The name or the password is wrong, or there were too many failures; `too_many`: which."""

    def __init__(self, message: str, *, too_many: bool) -> None:
        super().__init__(message)
        self.too_many = too_many


def log_in(
    engine: Engine,
    limits: LoginLimits,
    *,
    name: str,
    password: str,
    address: str,
    old_token: str,
    now: datetime,
    settings: Settings,
) -> str:
    """Log in; the token of the new session. One at a time, or the limits count too late.

    Raises:
        LoginRefusedError: nobody is logged in.
    """
    name = name.strip().lower()
    if not limits.allowed(name, address):
        _refuse(engine, limits, name, address, now, Result.REFUSED, "too many failures")
        raise LoginRefusedError("too many failures: try again later", too_many=True)
    with session_scope(engine) as session:
        account = check_password(session, name, password)
        if account is not None:
            end_session(session, old_token)
            token = begin_session(session, account, now=now, settings=settings)
            record(session, Actor(account.name, address), "login", now=now, detail={"role": account.role})
            return token
    limits.failed(name, address)
    _refuse(engine, limits, name, address, now, Result.FAILED, "wrong name or password")
    raise LoginRefusedError("the name or the password is wrong", too_many=False)


def log_out(engine: Engine, token: str, actor: Actor, *, now: datetime) -> None:
    """End the session, on the server too."""
    with session_scope(engine) as session:
        end_session(session, token)
        record(session, actor, "logout", now=now)


def _refuse(
    engine: Engine, limits: LoginLimits, name: str, address: str, now: datetime, result: Result, error: str
) -> None:
    if not limits.worth_a_row(address):
        log.warning("login refused", address=address, error=error)
        return
    with session_scope(engine) as session:
        who = name if is_operator(session, name) else None
        record(session, Actor(who, address), "login", now=now, result=result, error=error)
