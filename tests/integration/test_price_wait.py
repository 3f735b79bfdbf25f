"""Nights and their closes: each waits for those that may come, no longer than its deadline, and never in silence."""

from __future__ import annotations

import threading
from collections.abc import Callable
from datetime import date, datetime, timedelta

import pytest
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from core.database import session_scope
from core.settings import Settings
from services.alerts import active_alerts
from services.planning import plan_due, plan_nights
from services.price_wait import Readiness
from services.scheduler import scheduler_status
from services.tick import TickResult, tick
from tests.support.closes import CHOSEN, DAY, DUE, ONE_DAY, SECOND, add_closes, look, make_world
from tests.support.nights import change, rows, scalar, settings

DEADLINE = DUE + timedelta(hours=1)

PLANNED = "SELECT day FROM runs ORDER BY id"
KEPT = "SELECT day, since, cardinality(asset_ids) FROM night_waits"
ALERTS = "SELECT key, kind, cleared_at IS NOT NULL FROM alerts ORDER BY key"
WORD = "SELECT kind FROM outbox ORDER BY id"


def ticked(engine: Engine, now: datetime, chosen: Settings = CHOSEN) -> TickResult:
    return tick(engine, lambda _: None, now=now, settings=chosen)


def test_a_night_waits_until_its_closes_are_there(engine: Engine) -> None:
    make_world(engine, 10)
    add_closes(engine, range(1, 9))
    waiting = "the night of 2026-11-24 waits for closes: 8 of 10, until 01:01 at the latest"
    for moment in (DUE, DUE + 5 * SECOND):
        result = ticked(engine, moment)
        assert (result.planned, result.waiting, result.summary()) == (0, waiting, waiting)
    assert rows(engine, KEPT) == [(DAY, DUE, 10)]

    add_closes(engine, [9, 10])
    result = ticked(engine, DUE + 10 * SECOND)
    assert (result.planned, result.waiting) == (1, None)
    assert rows(engine, PLANNED) == [(DAY,)]
    assert rows(engine, KEPT) == rows(engine, ALERTS) == rows(engine, WORD) == []


def test_at_the_deadline_a_night_begins_with_one_alert_that_late_closes_clear(engine: Engine) -> None:
    make_world(engine, 10)
    add_closes(engine, [1, 2])
    ticked(engine, DUE)
    assert ticked(engine, DEADLINE - SECOND).planned == 0
    assert rows(engine, ALERTS) == []
    assert ticked(engine, DEADLINE).planned == 1
    ticked(engine, DEADLINE + 5 * SECOND)
    assert rows(engine, PLANNED) == [(DAY,)]
    assert rows(engine, ALERTS) == [("closes:2026-11-24", "closes_missing", False)]
    detail = "SELECT detail FROM alerts"
    assert scalar(engine, detail) == "8 of 10 closes of 2026-11-24 are missing: A003, A004, A005, A006, A007, …"

    add_closes(engine, range(3, 9))
    ticked(engine, DEADLINE + 10 * SECOND)
    assert scalar(engine, detail) == "2 of 10 closes of 2026-11-24 are missing: A009, A010"
    assert rows(engine, WORD) == [("alert_raised",)]

    add_closes(engine, [9, 10])
    for number in (15, 20):
        ticked(engine, DEADLINE + number * SECOND)
    assert rows(engine, ALERTS) == [("closes:2026-11-24", "closes_missing", True)]
    assert rows(engine, WORD) == [("alert_raised",), ("alert_cleared",)]
    assert rows(engine, KEPT) == []


def test_closes_that_never_come_are_given_up_in_the_end(engine: Engine) -> None:
    """When no source is asked for them any more. The nights after lack theirs too, with alerts of their own."""
    make_world(engine, 10)
    ticked(engine, DEADLINE)
    ticked(engine, DUE + 14 * ONE_DAY)
    alerts = rows(engine, ALERTS)
    assert alerts == [(f"closes:{DAY + ONE_DAY * number}", "closes_missing", False) for number in range(5)]
    ticked(engine, DUE + 15 * ONE_DAY)
    assert rows(engine, ALERTS) == [("closes:2026-11-24", "closes_missing", True), *alerts[1:]]
    told = scalar(engine, "SELECT payload ->> 'detail' FROM outbox WHERE kind = 'alert_cleared'")
    assert told.startswith("given up: 10 of 10 closes of 2026-11-24")


def test_a_calendar_that_is_set_while_a_night_waits_counts_at_once(engine: Engine) -> None:
    make_world(engine, 4)
    saturday = DUE + 4 * ONE_DAY
    add_closes(engine, range(1, 5), date(2026, 11, 27))
    ticked(engine, saturday)
    assert rows(engine, PLANNED) == []
    change(engine, "UPDATE assets SET calendar = 'weekdays'")
    assert ticked(engine, saturday + SECOND).planned == 1
    assert rows(engine, ALERTS) == []


def test_after_an_outage_of_everything_everything_is_waited_for(engine: Engine) -> None:
    make_world(engine, 10)
    later = DAY + 20 * ONE_DAY
    now = DUE + 20 * ONE_DAY
    assert look(engine, now=now, day=later).expected == 10
    assert ticked(engine, now).planned == 0
    add_closes(engine, [1], later)
    # The days between are planned without waiting; the newest is not, though one asset has its close.
    result = ticked(engine, now)
    assert result.waiting is not None
    assert "1 of 10" in result.waiting
    assert (later,) not in rows(engine, PLANNED)


def test_a_later_day_never_overtakes_one_that_waits(engine: Engine) -> None:
    patient = settings(price_deadline_minutes=3 * 24 * 60)
    make_world(engine, 10)
    assert ticked(engine, DUE - ONE_DAY, patient).planned == 1
    ticked(engine, DUE, patient)
    add_closes(engine, range(1, 11), DAY + ONE_DAY)
    result = ticked(engine, DUE + ONE_DAY, patient)
    expected = "the night of 2026-11-24 waits for closes: 0 of 10, until 2026-11-28 00:01 at the latest"
    assert (result.planned, result.waiting) == (0, expected)
    add_closes(engine, range(1, 11))
    assert ticked(engine, DUE + ONE_DAY + SECOND, patient).planned == 2
    assert rows(engine, PLANNED) == [(DAY - ONE_DAY,), (DAY,), (DAY + ONE_DAY,)]


def test_days_that_are_caught_up_do_not_wait_an_hour_each(engine: Engine) -> None:
    make_world(engine, 10)
    add_closes(engine, range(1, 11))
    ticked(engine, DUE)
    add_closes(engine, range(1, 11), DAY + 2 * ONE_DAY)
    result = ticked(engine, DEADLINE + 3 * ONE_DAY)
    assert (result.planned, result.waiting) == (3, None)
    days = [DAY + ONE_DAY * number for number in range(4)]
    assert rows(engine, PLANNED) == [(day,) for day in days]
    assert rows(engine, ALERTS) == [(f"closes:{days[number]}", "closes_missing", False) for number in (1, 3)]


def test_of_days_that_are_caught_up_only_the_newest_may_wait(engine: Engine) -> None:
    make_world(engine, 10)
    add_closes(engine, range(1, 11))
    ticked(engine, DUE)
    result = ticked(engine, DUE + 3 * ONE_DAY)
    assert result.planned == 2
    assert result.summary().startswith("2 planned, ")
    assert result.summary().endswith("; the night of 2026-11-27 waits for closes: 0 of 10, until 01:01 at the latest")


def test_in_development_no_night_waits(engine: Engine) -> None:
    make_world(engine, 10)
    change(engine, "UPDATE simulations SET start_day = :day", day=DAY)
    result = ticked(engine, DUE, settings(dev_night_every=timedelta(minutes=5)))
    assert (result.planned, result.waiting) == (1, None)
    assert rows(engine, KEPT) == rows(engine, ALERTS) == []


def test_a_night_that_a_person_asks_for_does_not_wait(engine: Engine) -> None:
    make_world(engine, 10)
    ticked(engine, DUE)
    with session_scope(engine) as session:
        plan_nights(session, through=DAY, now=DUE, settings=CHOSEN, requested_by="me")
    result = ticked(engine, DUE + SECOND)
    assert (result.planned, result.waiting) == (0, None)
    assert rows(engine, PLANNED) == [(DAY,)]
    # What was kept for the wait is forgotten.
    assert rows(engine, KEPT) == rows(engine, ALERTS) == []


@pytest.mark.parametrize(("moment", "planned"), [(DUE, 0), (DEADLINE, 1)], ids=["due", "deadline"])
def test_two_at_once_wait_once_plan_once_and_alert_once(engine: Engine, moment: datetime, planned: int) -> None:
    make_world(engine, 10)
    start = threading.Barrier(4)
    found: list[int] = []

    def plan() -> None:
        start.wait()
        with session_scope(engine) as session:
            found.append(len(plan_due(session, now=moment, settings=CHOSEN).runs))

    def beat() -> None:
        start.wait()
        found.append(ticked(engine, moment).planned)

    together([plan, plan, beat, beat])
    assert len(found) == 4
    assert sum(found) == planned
    assert len(rows(engine, PLANNED)) == len(rows(engine, ALERTS)) == len(rows(engine, WORD)) == planned
    assert rows(engine, KEPT) == [(DAY, moment, 10)]


def together(actions: list[Callable[[], None]]) -> None:
    threads = [threading.Thread(target=action) for action in actions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_a_plan_that_is_rolled_back_takes_its_alert_along(engine: Engine) -> None:
    make_world(engine, 10)
    with Session(engine) as session:
        assert len(plan_due(session, now=DEADLINE, settings=CHOSEN).runs) == 1
        assert [alert.key for alert in active_alerts(session)] == ["closes:2026-11-24"]
        session.rollback()
    assert rows(engine, PLANNED) == rows(engine, ALERTS) == rows(engine, WORD) == rows(engine, KEPT) == []


def test_the_schedule_shows_the_night_that_waits(engine: Engine) -> None:
    make_world(engine, 10)

    def nightly(now: datetime) -> tuple[str | None, datetime | None]:
        with session_scope(engine) as session:
            view = scheduler_status(session, now=now, settings=CHOSEN)[0]
        return view.result, view.next_run

    waiting = "the night of 2026-11-24 waits for closes: 0 of 10, until 01:01 at the latest"
    assert nightly(DUE) == (None, DUE + ONE_DAY)
    ticked(engine, DUE)
    assert nightly(DUE + SECOND) == (waiting, DEADLINE)
    add_closes(engine, range(1, 11))
    ticked(engine, DUE + 2 * SECOND)
    run = scalar(engine, "SELECT id FROM runs")
    assert nightly(DUE + 3 * SECOND) == (f"run {run} of 2026-11-24: running", DUE + ONE_DAY)
    ticked(engine, DUE + ONE_DAY)
    result, moment = nightly(DUE + ONE_DAY)
    following = waiting.replace("11-24", "11-25")
    assert (result, moment) == (f"run {run} of 2026-11-24: running; {following}", DEADLINE + ONE_DAY)


def test_great_numbers_are_readable() -> None:
    readiness = Readiness(DAY, ready=False, have=812, expected=1000, deadline=DEADLINE, missing=[], late=False)
    assert readiness.summary() == "the night of 2026-11-24 waits for closes: 812 of 1,000, until 01:01 at the latest"
