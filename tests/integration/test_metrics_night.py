"""The night's figures, reckoned by hand: whether it began, when it will end, whether it was in time."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import pytest
from sqlalchemy import Engine

from core.database import session_scope
from core.settings import Settings
from services.health import check_health
from services.metrics_night import NightMetrics, night_metrics
from services.night_at_a_glance import read_glance
from services.scheduler import next_night
from tests.support.exporter import AWAY, NOW, exporter, scrape
from tests.support.nights import change, settings

DAY = date(2024, 3, 4)
DUE = datetime(2024, 3, 5, 0, 1, tzinfo=UTC)
LONG_AGO = datetime(2023, 1, 1, tzinfo=UTC)


def night(engine: Engine, day: date, status: str, *, first: date | None = None, **moments: object) -> None:
    """A nightly run of 100 users, planned long after nights began."""
    values = {"created": LONG_AGO, "started": None, "finished": None} | moments
    change(
        engine,
        "INSERT INTO runs (kind, first_day, day, status, scope, requested_by, batch_users, users, created_at,"
        " started_at, finished_at) VALUES"
        " ('nightly', :first, :day, :status, '{}', 'beat', 10, 100, :created, :started, :finished)",
        first=first or day, day=day, status=status, **values,
    )  # fmt: skip


def batches(engine: Engine, day: date, **users: int) -> None:
    """Batches of that night, by status: how many users."""
    for seq, (status, count) in enumerate(users.items()):
        change(
            engine,
            "INSERT INTO batches (run_id, seq, user_lo, user_hi, users, status, finished_at) SELECT id, :seq, 1, 2,"
            " :users, :status, :at FROM runs WHERE day = :day",
            seq=seq, users=count, status=status, day=day, at=NOW - timedelta(seconds=7),
        )  # fmt: skip


def read(engine: Engine, now: datetime = NOW, configured: Settings | None = None) -> NightMetrics:
    with session_scope(engine) as session:
        return night_metrics(session, now=now, settings=configured or settings())


def test_a_night_at_work_by_the_wall_clock(engine: Engine, redis_url: str) -> None:
    night(engine, DAY - timedelta(days=1), "done", started=LONG_AGO, finished=LONG_AGO)
    night(engine, DAY, "running", started=NOW - timedelta(seconds=20))
    # It is planned and waits for the other: the night at hand is the older one.
    night(engine, DAY + timedelta(days=1), "planned")
    batches(engine, DAY, done=40, failed=10, queued=50, split=100)
    offset = timedelta(hours=5)
    samples = scrape(exporter(engine, redis_url, settings=settings(clock_offset=offset, night_deadline_minutes=20)))
    wall = NOW - offset
    expected = {
        "users_planned": 100, "users_done": 40, "night_running": 1, "night_failed_ratio": 0.1,
        "night_due_timestamp_seconds": (DUE - offset).timestamp(),
        "night_deadline_timestamp_seconds": (DUE - offset + timedelta(minutes=20)).timestamp(),
        "night_started_timestamp_seconds": (wall - timedelta(seconds=20)).timestamp(),
        "night_duration_seconds": 20,
        "night_users_per_second": 2,
        "night_estimated_end_timestamp_seconds": (wall + timedelta(seconds=30)).timestamp(),
    }  # fmt: skip
    assert {name: samples.get((f"nightshift_{name}", ())) for name in expected} == expected
    assert ("nightshift_night_finished_timestamp_seconds", ()) not in samples
    progress = "nightshift_run_last_progress_timestamp_seconds", ("nightly",)
    assert samples[progress] == (wall - timedelta(seconds=7)).timestamp()
    # Nobody works on what is paused, and that is no standstill.
    change(engine, "UPDATE runs SET paused = true")
    assert progress not in scrape(exporter(engine, redis_url))


def test_a_night_that_is_due_and_has_not_started_is_late(engine: Engine) -> None:
    assert read(engine).start_delay is None
    night(engine, DAY - timedelta(days=1), "done", started=LONG_AGO, finished=LONG_AGO)
    assert read(engine).start_delay == (NOW - DUE).total_seconds()
    # Due is not the same as overdue: a moment before, nothing is late.
    assert read(engine, DUE - timedelta(seconds=1)).start_delay == 0
    night(engine, DAY, "planned")
    assert read(engine).start_delay == (NOW - DUE).total_seconds()
    change(engine, "UPDATE runs SET status = 'running' WHERE status = 'planned'")
    assert read(engine).start_delay == 0


def test_nights_are_in_time_if_they_are_done_by_their_deadline(engine: Engine) -> None:
    in_time, late = timedelta(minutes=30), timedelta(minutes=30, microseconds=1)
    began = DUE - timedelta(days=10, minutes=1)
    for back, (status, took) in enumerate([
        ("done", in_time), ("done", late), ("failed", in_time), ("running", None), ("missed", None),
        ("cancelled", in_time),
    ]):  # fmt: skip
        due = DUE - timedelta(days=back)
        night(
            engine, DAY - timedelta(days=back), status, created=began, started=due,
            finished=None if took is None else due + took,
        )  # fmt: skip
    # One run over three nights that were due, of which it was in time for the last; one night nobody ever planned.
    last = DAY - timedelta(days=7)
    due = DUE - timedelta(days=7)
    night(engine, last, "done", first=last - timedelta(days=2), created=began, started=due, finished=due + in_time)
    found = read(engine)
    # Back to the night of ten days ago: the one before it fell due before nights began.
    assert found.due == {"1d": 1, "7d": 7, "30d": 11}
    assert found.in_time == {"1d": 1, "7d": 1, "30d": 2}
    # A night whose deadline is still to come is neither.
    assert read(engine, DUE + timedelta(minutes=29)).due["1d"] == 1
    assert read(engine, DUE + timedelta(minutes=29)).in_time["1d"] == 0
    assert found.missed_at == began


@pytest.mark.parametrize("minutes", [0, 7])
def test_in_development_nights_fall_due_every_so_often(engine: Engine, minutes: int) -> None:
    began = NOW - timedelta(minutes=minutes)
    night(engine, DAY, "done", created=began, started=began, finished=began)
    quick = settings(dev_night_every=timedelta(minutes=2), night_deadline_minutes=0.5)
    found = read(engine, configured=quick)
    # The next day fell due two minutes after nights began; every two minutes another.
    assert found.start_delay == max(0, minutes - 2) * 60
    assert found.due["1d"] == sum(2 * number + 0.5 <= minutes for number in range(10))
    assert found.in_time["1d"] == (minutes > 0)
    change(engine, "INSERT INTO users (name) VALUES ('a')")
    change(
        engine,
        "INSERT INTO simulations (user_id, strategy, start_day, initial_cash, params, asset_ids, weights_ppm)"
        " VALUES (1, 1, :day, 1, '{0}', '{1}', '{1}')", day=DAY,
    )  # fmt: skip
    with session_scope(engine) as session:
        assert next_night(session, now=NOW, settings=quick) == (DAY + timedelta(days=1), began + timedelta(minutes=2))
        assert next_night(session, now=DUE, settings=settings()) == (DAY + timedelta(days=1), DUE + timedelta(days=1))
        glance = read_glance(session, f"redis://{AWAY}", now=NOW, settings=quick)
        assert (glance.next_day, glance.next_due) == (DAY + timedelta(days=1), began + timedelta(minutes=2))


def test_in_development_no_close_is_too_old(engine: Engine) -> None:
    change(engine, "INSERT INTO assets (symbol) VALUES ('A')")
    change(engine, "INSERT INTO closes (day, asset_id, close, source) VALUES (:day, 1, 1, 'test')", day=DAY)
    years_later = NOW + timedelta(days=1000)
    for configured, well in ((settings(), False), (settings(dev_night_every=timedelta(minutes=2)), True)):
        found = check_health(engine, AWAY, list, now=years_later, settings=configured)
        assert {check.name: check.ok for check in found.checks}["prices"] == well
