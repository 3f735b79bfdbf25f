"""How others fail us: a provider of prices, and a receiver of messages."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from benchmarks.alerts.site import Site
from benchmarks.alerts.stubs import Stub
from core.database import session_scope
from services.completion import finish_runs
from services.reprocessing import request
from services.runs import cancel_run
from services.scopes import Only, ReprocessScope


@contextmanager
def failing(stub: Stub) -> Iterator[None]:
    """Every request is answered with status 500."""
    stub.fails = True
    try:
        yield
    finally:
        stub.fails = False


@contextmanager
def provider_fails(site: Site) -> Iterator[None]:
    """The source of prices answers 500."""
    with failing(site.provider):
        yield


@contextmanager
def receiver_fails(site: Site) -> Iterator[None]:
    """The channel of the administrators answers 500, while there is something to tell them: a cancelled run."""
    with failing(site.receiver):
        with session_scope(site.engine) as session:
            first_day = site.scalar("SELECT min(day) FROM portfolio_days")
            asked = request(
                session, ReprocessScope(users=(1,)), first_day=first_day, only=Only.EVERYTHING,  # type: ignore[arg-type]
                reason="to be cancelled", requested_by="bench", now=site.now(), settings=site.settings,
            )  # fmt: skip
            assert asked.run is not None  # noqa: S101 - user 1 has days
            cancel_run(session, asked.run, site.now())
        finish_runs(site.engine, now=site.now())
        yield
