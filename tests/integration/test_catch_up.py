"""Nights after an outage, and under clocks that jump: every due day once, in order, and none in silence."""

from __future__ import annotations

import threading
from datetime import UTC, date, datetime, time, timedelta

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.orm import Session

from core.database import session_scope
from core.settings import Settings
from services.digest import digest_of_day
from services.planning import plan_due
from services.tick import TickResult, tick
from tests.support.nights import FIRST_NIGHT, LAST_SAMPLE_DAY, NOW, Night, change, rows, scalar, settings

HOUR = timedelta(hours=1)
NIGHTS = [FIRST_NIGHT + timedelta(days=number) for number in range(30)]


@pytest.fixture
def fresh(fresh: Engine) -> Engine:
    """The samples' market: without its calendar, nights of weekends would wait for closes, and begin with an alert."""
    change(fresh, "UPDATE assets SET calendar = 'XNYS'")
    return fresh


def at(day: date, clock: str) -> datetime:
    """A moment of the day, UTC."""
    return datetime.combine(day, time.fromisoformat(clock), UTC)


def ticked(night: Night, now: datetime) -> TickResult:
    """A tick at this moment, and all the work that follows from it."""
    night.now = now
    result = tick(night.engine, night.queue, now=now, settings=night.settings)
    night.drain()
    return result


def nights(engine: Engine) -> list[tuple[date, str]]:
    """Day and status of each run, in the order in which they began."""
    return [(day, status) for day, status in rows(engine, "SELECT day, status FROM runs ORDER BY started_at, day")]


def test_a_system_that_was_down_for_days_does_each_night_in_order(month: Engine, fresh: Engine) -> None:
    night = Night(fresh, settings(400, catch_up_days=30))
    ticked(night, at(NIGHTS[1], "00:01"))
    assert nights(fresh) == [(NIGHTS[0], "done")]
    ticked(night, at(NIGHTS[8], "17:30"))
    assert nights(fresh) == [(day, "done") for day in NIGHTS[:8]]
    finished = rows(fresh, "SELECT day FROM runs ORDER BY finished_at, day")
    assert [day for (day,) in finished] == NIGHTS[:8]
    assert digest_of_day(fresh, NIGHTS[7]) == digest_of_day(month, NIGHTS[7])
    late = rows(fresh, "SELECT payload ->> 'day', payload -> 'late_minutes' FROM outbox ORDER BY id")
    # Half an hour is allowed; at 17:30 the newest of them fell due 17 hours and 29 minutes ago.
    assert late == [(str(NIGHTS[number]), 17 * 60 - 1 + 24 * 60 * (7 - number)) for number in range(1, 8)]


def test_what_is_further_back_than_the_window_is_missed_with_word_of_it(month: Engine, fresh: Engine) -> None:
    night = Night(fresh, settings(400, catch_up_days=3))
    ticked(night, at(NIGHTS[1], "00:01"))
    ticked(night, at(NIGHTS[8], "09:00"))
    statuses = dict(rows(fresh, "SELECT day, status FROM runs"))
    missed = NIGHTS[1:5]
    assert statuses == dict.fromkeys(NIGHTS[:8], "done") | dict.fromkeys(missed, "missed")
    # One word of all: after years without a stack there are thousands of them.
    word = (
        "SELECT payload ->> 'first_day', payload ->> 'day', (payload ->> 'days')::int, (payload ->> 'run')::bigint"
        " FROM outbox WHERE kind = 'day_missed'"
    )
    newest = scalar(fresh, "SELECT id FROM runs WHERE status = 'missed' ORDER BY day DESC LIMIT 1")
    assert rows(fresh, word) == [(str(missed[0]), str(missed[-1]), len(missed), newest)]
    ticked(night, at(NIGHTS[8], "09:05"))
    assert scalar(fresh, "SELECT count(*) FROM outbox WHERE kind = 'day_missed'") == 1
    # The simulations lose nothing by it: the first night after them goes over the missed days too.
    for day in NIGHTS[:8]:
        assert digest_of_day(fresh, day) == digest_of_day(month, day)


def test_word_of_a_missed_day_is_part_of_its_transaction(fresh: Engine) -> None:
    night = Night(fresh, settings(catch_up_days=1))
    ticked(night, at(NIGHTS[1], "00:01"))
    seen = "SELECT (SELECT count(*) FROM runs WHERE status = 'missed'), (SELECT count(*) FROM outbox)"
    with Session(fresh) as session:
        plan_due(session, now=at(NIGHTS[4], "09:00"), settings=night.settings)
        assert session.execute(text(seen)).one() == (2, 1)
        session.rollback()
    assert rows(fresh, seen) == [(0, 0)]


@pytest.mark.parametrize("late", ["00:01:00", "00:47", "23:59:59"])
def test_a_beat_that_was_away_at_the_minute_plans_when_it_is_back(fresh: Engine, late: str) -> None:
    night = Night(fresh, settings())
    ticked(night, at(NIGHTS[1], "12:00"))
    assert ticked(night, at(NIGHTS[2], "00:00:59")).summary() == "nothing to do"
    assert ticked(night, at(NIGHTS[2], late)).planned == 1
    assert nights(fresh) == [(NIGHTS[0], "done"), (NIGHTS[1], "done")]


@pytest.mark.parametrize("jump", [HOUR, -HOUR], ids=["forward", "back"])
def test_a_clock_that_jumps_plans_nothing_twice(month: Engine, fresh: Engine, jump: timedelta) -> None:
    night = Night(fresh, settings(400))
    moment = at(NIGHTS[1], "00:30")
    ticked(night, moment)
    ticked(night, moment + jump)
    ticked(night, moment)
    assert nights(fresh) == [(NIGHTS[0], "done")]
    ticked(night, at(NIGHTS[2], "00:30"))
    assert nights(fresh) == [(NIGHTS[0], "done"), (NIGHTS[1], "done")]
    assert digest_of_day(fresh, NIGHTS[1]) == digest_of_day(month, NIGHTS[1])


def test_what_a_clock_wrote_before_it_was_set_back_is_not_waited_for(fresh: Engine) -> None:
    """A batch of a dead worker, one whose message is lost, one to be retried, and one that somebody works on."""
    night = Night(fresh, settings(300))
    night.plan(LAST_SAMPLE_DAY)
    night.publish()
    night.queue.messages.clear()
    ahead = NOW + HOUR
    change(fresh, "UPDATE batches SET queued_at = :ahead", ahead=ahead)
    running = "UPDATE batches SET status = 'running', attempts = 1, started_at = :ahead WHERE seq IN (0, 3)"
    change(fresh, running, ahead=ahead)
    change(fresh, "UPDATE batches SET status = 'planned', not_before = :ahead WHERE seq = 2", ahead=ahead)
    worked_on = scalar(fresh, "SELECT id FROM batches WHERE seq = 3")
    with fresh.connect() as holder, holder.begin():
        holder.exec_driver_sql(f"SELECT pg_advisory_xact_lock((1::bigint << 56) | {worked_on})")
        result = tick(fresh, night.queue, now=NOW, settings=night.settings)
        assert (result.abandoned, result.lost, result.published) == (1, 1, 3)
        assert worked_on not in [message.batch_id for message in night.queue.messages]


def test_two_ticks_at_once_plan_each_night_once(fresh: Engine) -> None:
    """Both beats of two machines, and one that finds a night at work."""
    night = Night(fresh, settings(400, catch_up_days=30))
    ticked(night, at(NIGHTS[1], "00:01"))
    now = at(NIGHTS[4], "00:01")
    results = together(fresh, night.settings, now)
    assert sum(planned for planned, _ in results) == 3
    night.now = now
    night.drain()
    tick(fresh, night.queue, now=now, settings=night.settings)
    night.drain()
    planned = rows(fresh, "SELECT day, count(*) FROM runs GROUP BY day ORDER BY day")
    assert planned == [(day, 1) for day in NIGHTS[:4]]


def together(engine: Engine, chosen: Settings, now: datetime) -> list[tuple[int, bool]]:
    """Two planners and two ticks at the same moment: how many nights each planned, and whether it ran."""
    start = threading.Barrier(4)
    found: list[tuple[int, bool]] = []

    def plan() -> None:
        start.wait()
        with session_scope(engine) as session:
            found.append((len(plan_due(session, now=now, settings=chosen).runs), True))

    def beat() -> None:
        start.wait()
        result = tick(engine, lambda _: None, now=now, settings=chosen)
        found.append((result.planned, result.ran))

    threads = [threading.Thread(target=action) for action in (plan, plan, beat, beat)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 4
    return found
