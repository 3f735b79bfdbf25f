"""Users from elsewhere: made once for each key, wholly or not at all, and brought up to date."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError
from sqlalchemy import Engine

from core.database import session_scope
from core.errors import UsageError
from core.queues import Queue
from services.users import NewUser, Registered, register
from tasks.messages import REGISTER, RegisterArguments
from tests.support.nights import FIRST_NIGHT, LAST_SAMPLE_DAY, NOW, Night, rows, sample_world, scalar, settings
from tests.support.polling import wait_until
from tests.support.workers import quick
from workers.app import make_app
from workers.embedded import ServerUrls
from workers.stack import Stack

SIMULATION = {
    "strategy": "buy_and_hold", "start_day": str(FIRST_NIGHT), "initial_cash": "1000.50",
    "weights_ppm": {"AAPL": 500_000, "GE": 500_000}, "parameters": {},
}  # fmt: skip
REQUEST = {"key": "request 1", "name": "Ada", "email": "ada@example.org", "notify": True, "simulation": SIMULATION}
MAIL = settings(smtp_host="127.0.0.1", smtp_from="nightshift@example.org")


def make(engine: Engine, **changes: Any) -> Registered:
    """Register, and commit."""
    with session_scope(engine) as session:
        return register(session, NewUser.model_validate(REQUEST | changes), now=NOW, settings=MAIL)


def counts(engine: Engine) -> tuple[int, ...]:
    """Users, simulations, welcome mails, registrations."""
    tables = ("users", "simulations", "outbox", "registrations")
    return tuple(scalar(engine, f"SELECT count(*) FROM {table}") for table in tables)


def test_a_simulation_that_began_in_the_past_is_brought_up_to_date_at_once(engine: Engine) -> None:
    sample_world(engine, 20)
    night = Night(engine, settings())
    night.run(LAST_SAMPLE_DAY)
    made = make(engine)
    assert made.run is not None
    assert make(engine) == Registered(made.user_id, made.simulation_id, repeated=True)
    night.publish()
    night.drain()
    assert rows(engine, "SELECT status, rows FROM runs WHERE id = :run", run=made.run) == [("done", 30)]
    days = "SELECT min(day), max(day), count(*) FROM portfolio_days WHERE simulation_id = :id"
    assert rows(engine, days, id=made.simulation_id) == [(FIRST_NIGHT, LAST_SAMPLE_DAY, 30)]
    assert rows(engine, "SELECT kind, payload FROM outbox WHERE kind = 'welcome'") == [
        ("welcome", {"user": made.user_id})
    ]
    later = make(engine, key="later", simulation=SIMULATION | {"start_day": str(LAST_SAMPLE_DAY + timedelta(days=1))})
    assert later.run is None


def test_ten_at_once_with_one_key_make_one_user(engine: Engine) -> None:
    sample_world(engine, 1)
    before = counts(engine)
    with ThreadPoolExecutor(10) as pool:
        made = list(pool.map(lambda _: make(engine), range(10)))
    assert len({each.user_id for each in made}) == 1
    assert sorted(each.repeated for each in made) == [False] + [True] * 9
    assert counts(engine) == (before[0] + 1, before[1] + 1, 1, 1)


def test_a_request_that_is_refused_leaves_nothing_behind(engine: Engine) -> None:
    with pytest.raises(UsageError, match="unknown symbol"):
        make(engine)
    assert counts(engine) == (0, 0, 0, 0)


def test_what_is_no_request_is_refused_at_the_door() -> None:
    RegisterArguments.model_validate(REQUEST)
    RegisterArguments.model_validate({"key": "k", "name": "Ada"})
    wrong: list[dict[str, Any]] = [
        {"name": ""}, {"name": "a\nb"}, {"name": "x" * 101}, {"key": ""}, {"email": "a@b"}, {"email": "a@b.c, d@e.f"},
        {"email": "a@b.c\r\nBcc: d@e.f"}, {"email": "<a@b.c>"}, {"notify": "yes"}, {"more": 1},
        {"simulation": SIMULATION | {"initial_cash": "1.123456789"}},
        {"simulation": SIMULATION | {"start_day": "soon"}},
    ]  # fmt: skip
    for change in wrong:
        with pytest.raises(ValidationError):
            RegisterArguments.model_validate(REQUEST | change)


@pytest.mark.usefixtures("_plain_logs")
def test_a_task_registers(database: str, engine: Engine, redis_url: str, tmp_path: Path) -> None:
    chosen = quick(tmp_path, 100)
    stack = Stack(chosen, ServerUrls(database, redis_url), workers=1, beat=False, flower=False, exporter=False)
    stack._make_children()
    worker = stack._children["control"]
    count: Callable[[], int] = lambda: scalar(engine, "SELECT count(*) FROM users")  # noqa: E731
    try:
        worker.start()
        with make_app(chosen, redis_url) as app:
            for _ in range(2):
                app.send_task(REGISTER, kwargs=REQUEST | {"simulation": None}, queue=Queue.CONTROL.value)
            app.send_task(REGISTER, kwargs={"key": "last", "name": "Bob"}, queue=Queue.CONTROL.value)
        wait_until(lambda: count() >= 2, seconds=60, what="the users")
    finally:
        worker.kill()
        stack.stop()
    assert rows(engine, "SELECT name, email, notify FROM users ORDER BY id") == [
        ("Ada", "ada@example.org", True), ("Bob", None, False),
    ]  # fmt: skip
