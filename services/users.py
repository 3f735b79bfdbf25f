"""Users from elsewhere: one request makes one user, with a first simulation, however often it arrives.

Guarantees: the user, the simulation, the plan that brings it up to date and the welcome mail appear in one transaction.
A request that is refused leaves nothing behind.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field
from sqlalchemy import text
from sqlalchemy.orm import Session

from core.settings import Settings
from models.tables import Registration, User
from services.notify_outbox import write
from services.reprocessing import request
from services.scopes import ReprocessScope
from services.simulations import create_simulation

# Stricter than the standard: a quoted local part or a name without ASCII is more often a mistake than an address.
_ADDRESS = re.compile(r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]{1,64}@[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)+")


def is_address(address: str) -> bool:
    """Whether mail could go there: one address, and nothing that a header would take for more."""
    return len(address) <= 254 and _ADDRESS.fullmatch(address) is not None


def _address(address: str) -> str:
    if not is_address(address):
        raise ValueError("not an address like name@example.org")
    return address


def _line(line: str) -> str:
    if not line.strip() or not line.isprintable():
        raise ValueError("must be one line of printable characters, and not empty")
    return line


class NewSimulation(BaseModel):
    """A first simulation; what it may be is checked by services.simulations."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    strategy: Annotated[str, Field(max_length=100)]
    # JSON has neither dates nor exact numbers; both come as texts.
    start_day: Annotated[date, Field(strict=False)]
    initial_cash: Annotated[Decimal, Field(strict=False, ge=0, max_digits=20, decimal_places=8)]
    weights_ppm: dict[str, int]
    parameters: dict[str, Any] = Field(default_factory=dict)


class NewUser(BaseModel):
    """A request: who, and what to begin with. `key` names the request; `notify`: a mail every night."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    key: Annotated[str, Field(max_length=100), AfterValidator(_line)]
    name: Annotated[str, Field(max_length=100), AfterValidator(_line)]
    email: Annotated[str, AfterValidator(_address)] | None = None
    notify: bool = False
    simulation: NewSimulation | None = None


@dataclass(frozen=True, slots=True)
class Registered:
    """The user, its simulation, and the run that brings it up to date; `repeated`: all of that was there already."""

    user_id: int
    simulation_id: int | None
    run: int | None = None
    repeated: bool = False


def register(session: Session, new: NewUser, *, now: datetime, settings: Settings) -> Registered:
    """Make a user; the caller commits. The next tick begins the run.

    Raises:
        UsageError: the simulation is malformed, or begins before what is kept.
    """
    # Two that bring the same request wait for each other, and the second finds what the first has made.
    session.execute(
        text("SELECT pg_advisory_xact_lock(hashtextextended('registration ' || :key, 0))"), {"key": new.key}
    )
    known = session.get(Registration, new.key)
    if known is not None:
        return Registered(known.user_id, known.simulation_id, repeated=True)
    user = User(name=new.name, email=new.email, notify=new.notify, created_at=now)
    session.add(user)
    session.flush()
    simulation_id = run = None
    if new.simulation is not None:
        simulation_id = create_simulation(session, user_id=user.id, **dict(new.simulation))
        run = _catch_up(session, simulation_id, new, now, settings)
    session.add(Registration(key=new.key, user_id=user.id, simulation_id=simulation_id, created_at=now))
    session.flush()
    if new.email is not None and settings.smtp_host:
        write(session, "welcome", f"welcome:{user.id}", {"user": user.id})
    return Registered(user.id, simulation_id, run)


def _catch_up(session: Session, simulation_id: int, new: NewUser, now: datetime, settings: Settings) -> int | None:
    """Plan what the nights before would have done; None if none of them was the simulation's."""
    assert new.simulation is not None  # noqa: S101 - the caller has made it
    newest: date | None = session.execute(_NEWEST_NIGHT).scalar_one()
    if newest is None or new.simulation.start_day > newest:
        return None
    scope = ReprocessScope(simulations=(simulation_id,))
    asked = request(
        session, scope, first_day=new.simulation.start_day, reason="a new simulation that began in the past",
        requested_by="users.register", now=now, settings=settings,
    )  # fmt: skip
    return asked.run


_NEWEST_NIGHT = text("SELECT max(day) FROM runs WHERE kind = 'nightly' AND status IN ('done', 'failed', 'cancelled')")
