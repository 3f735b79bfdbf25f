"""Who is meant by a scope, from which day on, and what cannot be meant; what is written is that and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import Engine

from core.database import make_engine, session_scope
from core.errors import UsageError
from services.estimates import Estimate, estimate
from services.reprocessing import Requested, request
from services.scopes import Only, ReprocessScope
from tests.support.corrections import contents, finish
from tests.support.database import new_database
from tests.support.nights import FIRST_NIGHT, Night, change, rows, scalar, settings
from workers.embedded import ServerUrls

LAST = FIRST_NIGHT + timedelta(days=5)
MIDDLE = FIRST_NIGHT + timedelta(days=3)
EVERYBODY = ReprocessScope(everything=True)
CHOSEN = "SELECT user_id, simulation_id, first_day FROM run_simulations WHERE run_id = :run ORDER BY 1, 2"
EXPECTED = (
    "SELECT s.user_id, s.id, greatest(s.start_day, CAST(:day AS date)) FROM simulations s"
    " WHERE s.start_day <= :last AND {} ORDER BY 1, 2"
)
QUARANTINE = (
    "INSERT INTO quarantine (user_id, simulation_id, day, reason, detail, created_at)"
    " VALUES (:user, :simulation, :day, 'test', '', TIMESTAMPTZ '2022-12-29 00:30Z')"
)


@pytest.fixture(scope="module")
def template(servers: ServerUrls, world: str) -> Iterator[str]:
    """The name of a database after six nights in six runs of several batches."""
    with new_database(servers.database_url, "six_nights", template=world) as url:
        engine = make_engine(url)
        Night(engine, settings(300)).run(LAST, each=True)
        engine.dispose()
        yield "six_nights"


@pytest.fixture
def night(servers: ServerUrls, template: str) -> Iterator[Night]:
    """Six nights, of this test alone."""
    with new_database(servers.database_url, "six_nights_alone", template=template) as url:
        engine = make_engine(url)
        yield Night(engine, settings(300))
        engine.dispose()


@pytest.fixture(scope="module")
def shared(servers: ServerUrls, template: str) -> Iterator[Night]:
    """Six nights, of all tests that change nothing."""
    with new_database(servers.database_url, "six_nights_shared", template=template) as url:
        engine = make_engine(url)
        yield Night(engine, settings(300))
        engine.dispose()


def ask(
    night: Night, scope: ReprocessScope, day: date | None = MIDDLE, *, only: Only = Only.EVERYTHING, **more: Any
) -> Requested:
    """Request and commit."""
    values: dict[str, Any] = {"reason": "a test", "requested_by": "tester", "now": night.now}
    with session_scope(night.engine) as session:
        return request(session, scope, first_day=day, only=only, settings=night.settings, **values | more)


def foresee(
    night: Night, scope: ReprocessScope, day: date | None = MIDDLE, *, only: Only = Only.EVERYTHING
) -> Estimate:
    """The dry run."""
    with session_scope(night.engine) as session:
        return estimate(
            session, scope, first_day=day, only=only, reason="a test", now=night.now, settings=night.settings
        )


def chosen(night: Night, run: int | None) -> list[tuple[Any, ...]]:
    """Whom a run does again, and from when."""
    return rows(night.engine, CHOSEN, run=run)


def expected(night: Night, condition: str, day: date = MIDDLE, **values: object) -> list[tuple[Any, ...]]:
    """The same by a condition on simulations."""
    return rows(night.engine, EXPECTED.format(condition), day=day, last=LAST, **values)


def old(night: Night, count: int) -> list[tuple[Any, ...]]:
    """Users and their simulations that began in the first night."""
    query = "SELECT user_id, id FROM simulations WHERE start_day = :day AND user_id > 20 ORDER BY id LIMIT :count"
    return rows(night.engine, query, day=FIRST_NIGHT, count=count)


@pytest.mark.parametrize(
    ("scope", "condition"),
    [
        (EVERYBODY, "true"),
        (ReprocessScope(users=(3, 17, 400)), "user_id IN (3, 17, 400)"),
        (ReprocessScope(simulations=(5, 6)), "id IN (5, 6)"),
        (ReprocessScope(strategy="momentum"), "strategy = (SELECT code FROM strategies WHERE name = 'momentum')"),
        (ReprocessScope(users=tuple(range(1, 200)), strategy="dca"),
         "user_id < 200 AND strategy = (SELECT code FROM strategies WHERE name = 'dca')"),
    ],
)  # fmt: skip
def test_a_scope_is_whoever_fits_all_options(night: Night, scope: ReprocessScope, condition: str) -> None:
    before = contents(night.engine)
    asked = ask(night, scope)
    wanted = expected(night, condition)
    assert chosen(night, asked.run) == wanted
    assert wanted
    assert (asked.simulations, asked.users) == (len(wanted), len({user for user, *_ in wanted}))
    assert (asked.first_day, asked.through) == (min(first for *_, first in wanted), LAST)
    finish(night)
    assert contents(night.engine) == before
    told = rows(
        night.engine, "SELECT status, reason, requested_by, simulations FROM runs WHERE id = :run", run=asked.run
    )
    assert told == [("done", "a test", "tester", len(wanted))]
    stored = dict(scalar(night.engine, "SELECT scope FROM runs WHERE id = :run", run=asked.run))
    assert (stored.pop("from"), stored.pop("only")) == (str(MIDDLE), "everything")
    assert ReprocessScope.model_validate(stored) == scope


def test_symbols_are_a_union_of_all_who_have_one_of_them(night: Night) -> None:
    symbols = [symbol for (symbol,) in rows(night.engine, "SELECT symbol FROM assets WHERE id IN (1, 2) ORDER BY id")]
    asked = ask(night, ReprocessScope(symbols=tuple(symbols)))
    assert chosen(night, asked.run) == expected(night, "asset_ids && ARRAY[1, 2]")


def test_what_a_run_did_is_done_again(night: Night) -> None:
    nightly = scalar(night.engine, "SELECT id FROM runs WHERE day = :day", day=MIDDLE)
    assert chosen(night, ask(night, ReprocessScope(run=nightly)).run) == expected(
        night, "start_day <= :middle", middle=MIDDLE
    )
    finish(night)
    first = ask(night, ReprocessScope(users=tuple(range(1, 50)), strategy="dca"))
    with pytest.raises(UsageError, match="nobody is in the scope"):
        ask(night, ReprocessScope(run=first.run))
    finish(night)
    again = ask(night, ReprocessScope(run=first.run), FIRST_NIGHT)
    assert [one[:2] for one in chosen(night, again.run)] == [one[:2] for one in chosen(night, first.run)]


def test_who_was_in_a_failed_batch_is_done_again(night: Night) -> None:
    batch = (
        "SELECT id, user_lo, user_hi FROM batches JOIN runs r ON r.id = run_id WHERE day = :day ORDER BY seq LIMIT 1"
    )
    found = "UPDATE batches SET status = 'failed' WHERE id = (SELECT id FROM ({}) AS b)".format(
        batch.replace("SELECT id", "SELECT batches.id")
    )
    _, lo, hi = rows(night.engine, batch.replace("SELECT id", "SELECT batches.id"), day=MIDDLE)[0]
    change(night.engine, found, day=MIDDLE)
    with pytest.raises(UsageError, match="nobody is in the scope"):
        ask(night, ReprocessScope(failed=True), MIDDLE + timedelta(days=1))
    asked = ask(night, ReprocessScope(failed=True))
    assert chosen(night, asked.run) == expected(night, "user_id >= :lo AND user_id < :hi", lo=lo, hi=hi)


def test_only_what_is_missing_from_the_first_missing_day_on(night: Night) -> None:
    before = contents(night.engine)
    (_, one), (_, other), (user, out) = old(night, 3)
    for simulation, day in ((one, LAST), (other, MIDDLE + timedelta(days=1)), (other, LAST), (out, LAST)):
        for table in ("portfolio_days", "trades"):
            change(
                night.engine, f"DELETE FROM {table} WHERE simulation_id = :id AND day >= :day", id=simulation, day=day
            )
    change(night.engine, QUARANTINE, user=user, simulation=out, day=LAST)

    missing = ask(night, EVERYBODY, only=Only.MISSING)
    assert {one[1:] for one in chosen(night, missing.run)} == {(one, LAST), (other, MIDDLE + timedelta(days=1))}
    finish(night)
    assert ask(night, EVERYBODY, only=Only.MISSING) == Requested(None)
    both = ask(night, EVERYBODY, only=Only.MISSING_AND_FAILED)
    assert chosen(night, both.run) == [(user, out, MIDDLE)]
    finish(night)
    assert contents(night.engine) == before


def test_the_quarantined_of_a_scope_from_when_they_were_left_out_or_earlier(night: Night) -> None:
    (one, early), (other, late), (whole, _) = old(night, 3)
    change(night.engine, QUARANTINE, user=one, simulation=early, day=FIRST_NIGHT)
    change(night.engine, QUARANTINE, user=other, simulation=late, day=LAST)
    change(night.engine, QUARANTINE, user=whole, simulation=None, day=LAST)
    asked = ask(night, ReprocessScope(quarantined=True, users=(one, other)))
    assert chosen(night, asked.run) == sorted([(one, early, FIRST_NIGHT), (other, late, MIDDLE)])
    left = "SELECT user_id, simulation_id FROM quarantine WHERE cleared_at IS NULL"
    assert rows(night.engine, left) == [(whole, None)]
    # What is done again for others, a whole user in quarantine still has to have, from then on.
    finish(night)
    ask(night, ReprocessScope(users=(whole,)), MIDDLE)
    finish(night)
    healed = ask(night, ReprocessScope(quarantined=True), None)
    assert {one[0] for one in chosen(night, healed.run)} == {whole}
    assert min(one[2] for one in chosen(night, healed.run)) == MIDDLE


@pytest.mark.parametrize("scope", [EVERYBODY, ReprocessScope(users=(1, 2, 3)), ReprocessScope(strategy="dca")])
def test_a_dry_run_says_what_the_run_will_be_and_writes_nothing(night: Night, scope: ReprocessScope) -> None:
    everything = (
        "SELECT (SELECT count(*) FROM runs), (SELECT count(*) FROM batches), (SELECT count(*) FROM run_simulations)"
    )
    before = rows(night.engine, everything)
    figures = foresee(night, scope)
    assert rows(night.engine, everything) == before
    asked = ask(night, scope)
    assert (figures.users, figures.simulations, figures.batches) == (asked.users, asked.simulations, asked.batches)
    assert (figures.first_day, figures.through) == (asked.first_day, asked.through)
    assert figures.days == (LAST - MIDDLE).days + 1
    finish(night)
    written = scalar(night.engine, "SELECT rows FROM runs WHERE id = :run", run=asked.run)
    assert figures.rows_counted
    assert figures.rows_replaced == figures.user_days == written
    sample = {(one.user_id, one.simulation_id, one.first_day) for one in figures.sample}
    assert len(sample) == min(10, figures.simulations)
    assert sample <= set(chosen(night, asked.run))


def test_a_dry_run_is_refused_like_the_run_and_leaves_the_quarantine_alone(night: Night) -> None:
    [(user, simulation)] = old(night, 1)
    change(night.engine, QUARANTINE, user=user, simulation=simulation, day=MIDDLE)
    assert foresee(night, ReprocessScope(quarantined=True)).simulations == 1
    assert scalar(night.engine, "SELECT count(*) FROM quarantine WHERE cleared_at IS NULL") == 1
    with pytest.raises(UsageError, match="there is no user 999999"):
        foresee(night, ReprocessScope(users=(999_999,)))


def test_rows_that_are_too_many_to_count_are_told_by_statistics(night: Night, monkeypatch: pytest.MonkeyPatch) -> None:
    exact = foresee(night, EVERYBODY)
    change(night.engine, "ANALYZE portfolio_days")
    monkeypatch.setattr("services.estimates.MOST_COUNTED", 0)
    rough = foresee(night, EVERYBODY)
    assert (rough.rows_replaced, rough.rows_counted) == (exact.rows_replaced, False)


def test_the_speed_is_that_of_the_last_runs_that_were_large_enough(night: Night) -> None:
    assert (foresee(night, EVERYBODY).measured, foresee(night, EVERYBODY).speed) == (False, 200_000)
    change(night.engine, "UPDATE batches SET finished_at = started_at")
    measured = (
        "UPDATE runs SET rows = :rows, finished_at = started_at + :seconds * INTERVAL '1 second' WHERE day = :day"
    )
    change(night.engine, measured, rows=30_000, seconds=2, day=LAST)
    figures = foresee(night, EVERYBODY)
    assert (figures.measured, figures.speed) == (True, 15_000)
    assert figures.seconds == round(figures.user_days / 15_000, 1)
    change(night.engine, "UPDATE runs SET kind = 'reprocess' WHERE day = :day", day=LAST)
    change(night.engine, measured, rows=90_000, seconds=1, day=MIDDLE)
    assert foresee(night, EVERYBODY, FIRST_NIGHT).speed == 15_000


def test_a_run_is_not_slow_for_having_been_paused(night: Night) -> None:
    """Batches beside each other count once, and the hour in which none was in work does not count."""
    paused = "UPDATE runs SET rows = 30000, finished_at = started_at + INTERVAL '1 hour' WHERE day = :day"
    change(night.engine, paused, day=LAST)
    work = (
        "UPDATE batches b SET started_at = r.started_at + seq * INTERVAL '1 second',"
        " finished_at = r.started_at + (seq + 2) * INTERVAL '1 second' FROM runs r WHERE r.id = run_id AND day = :day"
    )
    change(night.engine, work, day=LAST)
    counted = "SELECT count(*) FROM batches JOIN runs r ON r.id = run_id WHERE day = :day"
    batches = scalar(night.engine, counted, day=LAST)
    assert foresee(night, EVERYBODY).speed == 30_000 / (batches + 1)


@pytest.mark.parametrize(
    ("scope", "day", "only", "said"),
    [
        (ReprocessScope(), MIDDLE, Only.EVERYTHING, "say what to reprocess: --user, --simulation"),
        (ReprocessScope(everything=True, users=(1,)), MIDDLE, Only.EVERYTHING, "--all is everybody, --user is not"),
        (ReprocessScope(quarantined=True), MIDDLE, Only.MISSING, "leave out --only missing"),
        (ReprocessScope(users=(1,)), None, Only.EVERYTHING, "--from is missing"),
        (ReprocessScope(quarantined=True, failed=True), None, Only.EVERYTHING, "--from is missing"),
        (ReprocessScope(users=(1, 999_999, 888_888)), MIDDLE, Only.EVERYTHING, "there is no user 999999"),
        (ReprocessScope(simulations=(999_999,)), MIDDLE, Only.EVERYTHING, "there is no simulation 999999"),
        (ReprocessScope(symbols=("NO SUCH",)), MIDDLE, Only.EVERYTHING, "unknown symbol 'NO SUCH'"),
        (ReprocessScope(symbols=("A\0",)), MIDDLE, Only.EVERYTHING, "--symbol is not printable"),
        (ReprocessScope(strategy="luck"), MIDDLE, Only.EVERYTHING, "unknown strategy 'luck': choose from"),
        (ReprocessScope(run=999), MIDDLE, Only.EVERYTHING, "there is no run 999"),
        (EVERYBODY, FIRST_NIGHT - timedelta(days=1), Only.EVERYTHING, "no simulation of the scope begins before"),
        (EVERYBODY, LAST + timedelta(days=1), Only.EVERYTHING, f"the newest is that of {LAST}"),
        (EVERYBODY, date(2022, 12, 29), Only.EVERYTHING, "the day 2022-12-29 is not over yet"),
        (EVERYBODY, date(2099, 1, 1), Only.EVERYTHING, "the day 2099-01-01 is not over yet"),
        (ReprocessScope(failed=True), MIDDLE, Only.EVERYTHING, "nobody is in the scope"),
        (ReprocessScope(users=tuple(range(1, 100_002))), MIDDLE, Only.EVERYTHING, "100,001 users are too many"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant_is_refused(
    shared: Night, scope: ReprocessScope, day: date | None, only: Only, said: str
) -> None:
    before = scalar(shared.engine, "SELECT count(*) FROM runs")
    with pytest.raises(UsageError, match=said) as error:
        ask(shared, scope, day, only=only)
    assert "\n" not in str(error.value)
    assert scalar(shared.engine, "SELECT count(*) FROM runs") == before
    assert scalar(shared.engine, "SELECT count(*) FROM run_simulations") == 0


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"reason": "  "}, "--reason must not be empty"),
        ({"reason": "two\nlines"}, "--reason must be one line"),
        ({"requested_by": "\0"}, "requested_by must be one line"),
        ({"key": "k" * 101}, "key must be one line of at most 100"),
    ],
)
def test_who_and_why_are_a_line_each(shared: Night, more: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        ask(shared, EVERYBODY, **more)


def test_days_that_are_no_longer_kept_are_not_done_again(night: Night) -> None:
    change(night.engine, f"DROP TABLE portfolio_days_{FIRST_NIGHT:%Y%m%d}")
    change(night.engine, f"TRUNCATE portfolio_days_{FIRST_NIGHT + timedelta(days=1):%Y%m%d}")
    for day in (FIRST_NIGHT + timedelta(days=1), FIRST_NIGHT + timedelta(days=2)):
        with pytest.raises(UsageError, match=f"--from {MIDDLE} is the first that can be done"):
            ask(night, EVERYBODY, day)
    assert ask(night, EVERYBODY, MIDDLE).run is not None


def test_no_night_no_reprocess(fresh: Engine) -> None:
    with pytest.raises(UsageError, match="no night has been run yet"):
        ask(Night(fresh, settings()), EVERYBODY)


def test_the_same_key_is_the_same_request(night: Night) -> None:
    first = ask(night, EVERYBODY, key="deploy 7")
    again = ask(night, EVERYBODY, key="deploy 7")
    assert (again.run, again.repeated, first.repeated) == (first.run, True, False)
    assert (again.simulations, again.batches) == (first.simulations, first.batches)
    with pytest.raises(UsageError, match=f"the key 'deploy 7' is that of run {first.run}"):
        ask(night, EVERYBODY, MIDDLE + timedelta(days=1), key="deploy 7")
    assert scalar(night.engine, "SELECT count(*) FROM runs WHERE kind = 'reprocess'") == 1


_IDS = st.lists(st.integers(1, 2**63 - 1), max_size=5).map(tuple)


@given(
    st.builds(
        ReprocessScope, users=_IDS, simulations=_IDS, symbols=st.lists(st.text(max_size=5), max_size=3).map(tuple),
        strategy=st.none() | st.text(max_size=5), quarantined=st.booleans(), run=st.none() | st.integers(1, 2**63 - 1),
        failed=st.booleans(), everything=st.booleans(),
    )
)  # fmt: skip
def test_a_scope_comes_back_from_json_as_it_was(scope: ReprocessScope) -> None:
    assert ReprocessScope.model_validate_json(scope.model_dump_json(exclude_defaults=True)) == scope
