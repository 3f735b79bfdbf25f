"""Old days go, and nothing that is needed goes with them: what is kept is as if everything were."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import date, timedelta
from itertools import count

import pytest
from sqlalchemy import Engine, text

from core.database import make_engine, session_scope
from core.errors import UsageError
from services.digest import digest_of_day
from services.locks import PLANNING_LOCK
from services.reports import simulation_report
from services.reprocessing import Requested, request, retry_quarantined
from services.retention import Maintained, maintain
from services.retention_days import RETENTION_LOCK
from services.retention_horizon import move_horizon
from services.run_control import pause_run, resume_run
from services.scopes import Only, ReprocessScope
from services.simulation_history import days_before, simulation_history
from tests.support.corrections import close_of, correct, finish
from tests.support.database import new_database
from tests.support.nights import LAST_SAMPLE_DAY, NOW, Night, change, rows, scalar, settings
from tests.support.retention import (
    DAILY_FROM,
    KEEP,
    LATER,
    LEFT_OUT_ON,
    MONTH_ENDS,
    START,
    archived,
    assert_same_where_kept,
    build_history,
    keeping,
    kept_of,
    left_out,
    maintained,
    partitions,
)
from workers.embedded import ServerUrls

_numbers = count()
_WHOLE, _SHORTENED = "retention_whole", "retention_shortened"
Clone = Callable[[str], Engine]


@pytest.fixture(scope="module")
def histories(servers: ServerUrls) -> Iterator[tuple[str, Maintained]]:
    """Two databases with three months of nights, of one of which old days have gone; and what maintenance said."""
    url = servers.database_url
    with new_database(url, _WHOLE) as whole:
        with _engine(whole) as engine:
            build_history(engine)
        with new_database(url, _SHORTENED, template=_WHOLE) as shortened:
            with _engine(shortened) as engine:
                did = maintained(engine)
            yield url, did


@contextmanager
def _engine(url: str) -> Iterator[Engine]:
    engine = make_engine(url)
    yield engine
    engine.dispose()


@pytest.fixture
def clone(histories: tuple[str, Maintained]) -> Iterator[Clone]:
    """Makes engines on copies of a database."""
    with ExitStack() as stack:

        def make(template: str) -> Engine:
            database = new_database(histories[0], f"retention_{next(_numbers)}", template=template)
            return stack.enter_context(_engine(stack.enter_context(database)))

        yield make


@pytest.fixture(scope="module")
def whole(histories: tuple[str, Maintained]) -> Iterator[Engine]:
    """An engine on a copy of the one with all days, for tests that only look."""
    with new_database(histories[0], f"{_WHOLE}_seen", template=_WHOLE) as url, _engine(url) as engine:
        yield engine


@pytest.fixture
def both(clone: Clone) -> tuple[Engine, Engine]:
    """A history of which old days have gone, and the same with all of them."""
    return clone(_SHORTENED), clone(_WHOLE)


CHANGED = "SELECT run_id, simulation_id, last_day, old_equity, new_equity FROM portfolio_revisions"


def ask(engine: Engine, first_day: date, only: Only = Only.EVERYTHING) -> Requested:
    with session_scope(engine) as session:
        return request(
            session, ReprocessScope(everything=True), first_day=first_day, only=only, reason="a test",
            requested_by="tester", now=NOW, settings=settings(),
        )  # fmt: skip


def test_days_go_but_month_ends_and_whoever_was_left_out(
    clone: Clone, whole: Engine, histories: tuple[str, Maintained]
) -> None:
    engine, did = clone(_SHORTENED), histories[1]
    assert did.daily_from == DAILY_FROM
    assert did.stopped is None
    days = [START + timedelta(days=number) for number in range((LAST_SAMPLE_DAY - START).days + 1)]
    kept = [day for day in days if day >= DAILY_FROM or day in MONTH_ENDS]
    ahead = [NOW.date() + timedelta(days=number) for number in range(8)]
    assert partitions(engine) == [f"portfolio_days_{day:%Y%m%d}" for day in kept + ahead]
    assert len(did.dropped) == len(days) - len(kept) > 60
    assert did.dropped_bytes > len(did.dropped) * 8192
    for day in (*MONTH_ENDS, DAILY_FROM, LAST_SAMPLE_DAY):
        assert digest_of_day(engine, day) == digest_of_day(whole, day)
    (user, _), (other, simulation) = left_out(engine)
    expected = {(user, owned) for (owned,) in rows(engine, "SELECT id FROM simulations WHERE user_id = :u", u=user)}
    assert {(who, what) for who, what, _ in archived(engine)} == expected | {(other, simulation)}
    assert {day for _, _, day in archived(engine)} == {LEFT_OUT_ON - timedelta(days=1)}
    assert_same_where_kept(engine, whole)
    assert rows(engine, "SELECT count(*), count(dropped_at) FROM partition_drops") == [(len(did.dropped),) * 2]

    again = maintained(engine)
    assert (again.made, again.dropped, again.archived, again.stopped) == ([], [], 0, None)


def test_the_history_shows_whatever_is_kept_once(both: tuple[Engine, Engine], whole: Engine) -> None:
    """Also while the days that go are still there, and of a simulation of which only the archive knows."""
    engine, going = both
    assert move_horizon(going, KEEP).archived > 0
    _, (_, simulation) = left_out(whole)
    assert simulation is not None
    last = LEFT_OUT_ON - timedelta(days=1)
    history = "SELECT * FROM portfolio_history ORDER BY day, user_id, simulation_id"
    every = rows(whole, history)
    gone = {(row[0], row[3]) for row in every} - {(day, what) for _, what, day in archived(engine)}
    gone = {(day, what) for day, what in gone if day < DAILY_FROM and day not in MONTH_ENDS}
    expected = [row for row in every if (row[0], row[3]) not in gone]
    assert any(row[3] == simulation and row[0] == last for row in expected)
    for shortened in (engine, going):
        assert rows(shortened, history) == expected
        with session_scope(shortened) as session:
            seen = simulation_history(session, simulation)
            assert seen.newest is not None
            assert (seen.newest["day"], seen.line[-1][0]) == (last, last)
            assert seen.positions
            days = days_before(session, seen.settings, before=LAST_SAMPLE_DAY)
            assert [line.day for line in days] == [last, MONTH_ENDS[0]]
            assert [point.day for point in simulation_report(session, simulation).days] == [MONTH_ENDS[0], last]
    # A year later: no row of that year is left to draw a line through.
    change(engine, "UPDATE runs SET day = day + 400 WHERE day = :day", day=LAST_SAMPLE_DAY)
    with session_scope(engine) as session:
        seen = simulation_history(session, simulation)
        assert (seen.line, seen.newest and seen.newest["day"]) == ([], last)


def test_who_was_left_out_goes_on_from_his_newest_row(both: tuple[Engine, Engine]) -> None:
    for engine in both:
        night = Night(engine, settings())
        with session_scope(engine) as session:
            assert retry_quarantined(session, reason="mended", requested_by="tester", now=NOW, settings=night.settings)
        finish(night)
    shortened, untouched = both
    assert scalar(shortened, "SELECT count(*) FROM quarantine WHERE cleared_at IS NULL") == 0
    assert_same_where_kept(shortened, untouched)
    assert min(partitions(shortened)) == "portfolio_days_20220930"


def test_a_corrected_old_close_begins_at_the_last_kept_close_before_it(both: tuple[Engine, Engine]) -> None:
    """Among those who have the asset are some who were left out, and have days before the correction and after it."""
    for engine in both:
        night = Night(engine, settings())
        asset = scalar(
            engine,
            "SELECT s.asset_ids[1] FROM simulations s JOIN quarantine q ON q.simulation_id = s.id",
        )
        for day in (date(2022, 11, 10), date(2022, 10, 5), date(2022, 12, 20)):
            correct(night, asset, day, close_of(engine, asset, day) * 2)
            finish(night)
    shortened, untouched = both
    first = "SELECT first_day FROM runs WHERE kind = 'reprocess' ORDER BY id"
    assert [day for (day,) in rows(untouched, first)] == [date(2022, 11, 10), date(2022, 10, 5), date(2022, 12, 20)]
    assert [day for (day,) in rows(shortened, first)] == [date(2022, 11, 1), date(2022, 10, 1), date(2022, 12, 20)]
    assert_same_where_kept(shortened, untouched)
    ours, theirs = (set(rows(engine, CHANGED)) for engine in (shortened, untouched))
    assert len(ours) > 15
    # What changed on days that have gone alone, nobody can tell any more.
    assert ours <= theirs
    assert all(old == new for *_, old, new in theirs - ours)
    # The days in between are computed and not written: no partition of theirs has come back.
    assert min(partitions(shortened)) == "portfolio_days_20220930"
    assert "portfolio_days_20221006" not in partitions(shortened)


def test_who_begins_before_what_is_kept_and_fails_there_goes_on_when_his_price_comes(
    both: tuple[Engine, Engine],
) -> None:
    for engine in both:
        night = Night(engine, settings())
        change(engine, "INSERT INTO assets (symbol) VALUES ('RARE')")
        prices = (
            "INSERT INTO closes (day, asset_id, close, source) SELECT c.day, a.id, c.close, 'test'"
            " FROM closes c JOIN assets a ON a.symbol = 'RARE' WHERE c.asset_id = 1 AND c.day {}"
        )
        change(engine, prices.format("<= '2022-10-12'"))
        change(
            engine,
            "INSERT INTO simulations (user_id, strategy, start_day, initial_cash, params, asset_ids, weights_ppm)"
            " SELECT user_id, strategy, '2022-09-25', initial_cash, params, ARRAY[a.id], ARRAY[1000000]"
            " FROM simulations s CROSS JOIN assets a"
            " WHERE a.symbol = 'RARE' AND s.strategy = (SELECT code FROM strategies WHERE name = 'buy_and_hold')"
            " ORDER BY s.id LIMIT 1",
        )
        night.now = LATER
        night.run(LAST_SAMPLE_DAY + timedelta(days=1))
        assert scalar(engine, "SELECT reason FROM quarantine WHERE cleared_at IS NULL ORDER BY id DESC LIMIT 1") == (
            "no_close"
        )
        change(engine, prices.format("> '2022-10-12'"))
    assert_same_where_kept(*both)
    newcomer = scalar(both[0], "SELECT max(id) FROM simulations")
    (newest,) = [day for _, simulation, day in archived(both[0]) if simulation == newcomer]
    assert date(2022, 10, 12) < newest < date(2022, 10, 20)
    for engine in both:
        night = Night(engine, settings(), now=LATER)
        with session_scope(engine) as session:
            retry_quarantined(session, reason="prices came", requested_by="me", now=LATER, settings=night.settings)
        finish(night)
        assert scalar(engine, "SELECT count(*) FROM quarantine WHERE cleared_at IS NULL") == 0
    assert_same_where_kept(*both)


def test_what_begins_where_no_close_is_kept_is_refused_with_the_days_on_which_it_can(
    both: tuple[Engine, Engine],
) -> None:
    shortened, untouched = both
    day = date(2022, 10, 20)
    with pytest.raises(UsageError) as refused:
        ask(shortened, day)
    assert str(refused.value) == (
        "the close of 2022-10-19 is no longer kept: begin on 2022-10-01, after the close of the month before,"
        " or on any day from 2022-11-30 on"
    )
    assert scalar(shortened, "SELECT count(*) FROM runs WHERE kind = 'reprocess'") == 0
    for first in (DAILY_FROM + timedelta(days=1), date(2022, 10, 1), START):
        before = partitions(shortened)
        assert ask(shortened, first).first_day == first
        finish(Night(shortened, settings()))
        assert partitions(shortened) == before
        assert_same_where_kept(shortened, untouched)
    # Days that have gone are no days that anybody lacks.
    assert ask(shortened, START, Only.MISSING) == Requested(None)
    change(shortened, "DELETE FROM portfolio_days WHERE day = '2022-10-31' AND user_id = 30")
    change(shortened, "DELETE FROM trades WHERE day >= '2022-10-31' AND user_id = 30")
    change(shortened, "DELETE FROM portfolio_days WHERE day >= '2022-10-31' AND user_id = 30")
    lacking = ask(shortened, START, Only.MISSING)
    assert (lacking.users, lacking.first_day) == (1, date(2022, 10, 1))
    finish(Night(shortened, settings()))
    assert_same_where_kept(shortened, untouched)


def test_days_that_an_open_run_begins_with_stay_until_it_has_ended(clone: Clone, whole: Engine) -> None:
    engine = clone(_WHOLE)
    night = Night(engine, settings())
    run = ask(engine, date(2022, 10, 5)).run
    assert run is not None
    with session_scope(engine) as session:
        pause_run(session, run, NOW)
    # Eighty days reach back to 10 October.
    did = maintained(engine, keep_days=80)
    assert did.daily_from == date(2022, 10, 4)
    assert did.dropped[-1] == "portfolio_days_20221003"
    assert "portfolio_days_20221004" in partitions(engine)
    with session_scope(engine) as session:
        resume_run(session, run, NOW)
    finish(night)
    assert maintained(engine, keep_days=80).daily_from == date(2022, 10, 10)
    assert_same_where_kept(engine, whole)


@pytest.mark.parametrize(
    ("lock", "why"), [(RETENTION_LOCK, "days far back are being written"), (PLANNING_LOCK, "a run is being planned")]
)
def test_while_others_are_at_work_on_old_days_all_of_them_stay(clone: Clone, lock: int, why: str) -> None:
    engine = clone(_WHOLE)
    with engine.connect() as other:
        other.execute(text("SELECT pg_advisory_lock_shared(:key)"), {"key": lock})
        did = maintained(engine)
        assert (did.daily_from, did.dropped, did.stopped) == (None, [], why)
        assert archived(engine) == []


def test_the_archive_forgets_whoever_has_gone_on(clone: Clone) -> None:
    engine = clone(_SHORTENED)
    night = Night(engine, settings(), now=LATER)
    assert archived(engine) != []
    with session_scope(engine) as session:
        retry_quarantined(session, reason="mended", requested_by="me", now=LATER, settings=night.settings)
    finish(night)
    night.run(LAST_SAMPLE_DAY + timedelta(days=1))
    did = maintained(engine)
    assert did.daily_from == DAILY_FROM + timedelta(days=1)
    assert did.cleared > 0
    assert archived(engine) == []
    assert kept_of(engine).daily_from == did.daily_from


def test_days_are_counted_back_from_the_newest_night_not_from_the_clock(clone: Clone) -> None:
    engine = clone(_WHOLE)
    before = partitions(engine)
    did = maintain(engine, now=NOW + timedelta(days=5000), settings=keeping(keep_days=100))
    assert did.daily_from == LAST_SAMPLE_DAY - timedelta(days=99)
    assert did.dropped == []
    assert set(before) < set(partitions(engine))
