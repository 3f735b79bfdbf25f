"""A night end to end, from the plan to the finished run, in one process."""

from __future__ import annotations

import threading
from datetime import date, timedelta
from fractions import Fraction

import pytest
from sqlalchemy import Engine

from core.database import session_scope
from core.errors import UsageError
from services.batches import Outcome
from services.digest import digest_of_day
from services.planning import plan_night
from services.tick import tick
from tests.support.nights import (
    FIRST_NIGHT,
    LAST_SAMPLE_DAY,
    NOW,
    USERS,
    Night,
    change,
    import_samples,
    rows,
    scalar,
    settings,
)

TICKS = 10**8


def _last_close(closes: dict[date, int], day: object) -> int:
    assert isinstance(day, date)
    return next(closes[day - timedelta(days=n)] for n in range(6) if day - timedelta(days=n) in closes)


def test_a_month_of_nights_is_done_and_adds_up(month: Engine) -> None:
    runs = rows(month, "SELECT day, status, quarantined FROM runs ORDER BY day")
    assert runs == [(FIRST_NIGHT + timedelta(days=n), "done", 0) for n in range(30)]
    counted = "SELECT (SELECT sum(rows) FROM runs), (SELECT sum(trades) FROM runs)"
    stored = "SELECT (SELECT count(*) FROM portfolio_days), (SELECT count(*) FROM trades)"
    assert rows(month, counted) == rows(month, stored)
    assert scalar(month, "SELECT count(*) FROM portfolio_days WHERE day = :day", day=LAST_SAMPLE_DAY) == USERS
    expected = "SELECT sum(:last - start_day + 1) FROM simulations"
    assert scalar(month, "SELECT count(*) FROM portfolio_days") == scalar(month, expected, last=LAST_SAMPLE_DAY)
    total = "SELECT sum(equity) FROM portfolio_days WHERE day = :day"
    stored_total = "SELECT total_equity FROM runs WHERE day = :day"
    assert scalar(month, total, day=LAST_SAMPLE_DAY) == scalar(month, stored_total, day=LAST_SAMPLE_DAY)


def test_the_digest_of_a_run_is_that_of_its_table(month: Engine) -> None:
    for day, digest in rows(month, "SELECT day, digest FROM runs WHERE day > :day", day=LAST_SAMPLE_DAY - timedelta(3)):
        assert isinstance(day, date)
        assert isinstance(digest, int)
        assert digest_of_day(month, day).digest == f"{digest % 2**64:016x}"


@pytest.mark.parametrize("batch_users", [137, 1000, 10_000])
def test_one_run_over_the_month_gives_the_same_bytes(month: Engine, fresh: Engine, batch_users: int) -> None:
    Night(fresh, settings(batch_users)).run(LAST_SAMPLE_DAY)
    assert scalar(fresh, "SELECT count(*) FROM runs") == 1
    for table, key in (("portfolio_days", "day, user_id, simulation_id"), ("trades", "day, simulation_id, asset_id")):
        whole = f"SELECT md5(string_agg(t::text, ',' ORDER BY {key})) FROM {table} t"
        assert scalar(fresh, whole) == scalar(month, whole)
    assert digest_of_day(fresh) == digest_of_day(month)


def test_the_ledger_closes_to_the_tick(month: Engine) -> None:
    """From trades and closes alone: every cash, quantity and equity of the month, in Fractions."""
    closes: dict[int, dict[date, int]] = {}
    for asset, day, close in rows(month, "SELECT asset_id, day, close FROM closes WHERE day >= '2022-11-01'"):
        closes.setdefault(asset, {})[day] = close
    trades: dict[tuple[object, object], list[tuple[int, int, int, int]]] = {}
    for simulation, day, *fill in rows(
        month, "SELECT simulation_id, day, asset_id, quantity, notional, fee FROM trades ORDER BY asset_id"
    ):
        trades.setdefault((simulation, day), []).append(tuple(fill))
    cash: dict[object, int] = dict(rows(month, "SELECT id, initial_cash FROM simulations"))
    held: dict[object, dict[int, int]] = {simulation: {} for simulation in cash}
    query = "SELECT simulation_id, day, cash, equity, asset_ids, quantities FROM portfolio_days ORDER BY day"
    checked = 0
    for simulation, day, stored_cash, equity, assets, quantities in rows(month, query):
        for asset, quantity, notional, fee in trades.get((simulation, day), []):
            assert notional == round(Fraction(abs(quantity) * closes[asset][day], TICKS))
            cash[simulation] -= (notional if quantity > 0 else -notional) + fee
            held[simulation][asset] = held[simulation].get(asset, 0) + quantity
        assert cash[simulation] == stored_cash
        assert {a: q for a, q in held[simulation].items() if q} == {
            a: q for a, q in zip(assets, quantities, strict=True) if q
        }
        worth = sum(
            round(Fraction(quantity * _last_close(closes[asset], day), TICKS))
            for asset, quantity in held[simulation].items()
        )
        assert cash[simulation] + worth == equity
        assert cash[simulation] >= 0
        checked += 1
    assert checked > USERS * 20


def test_seeded_users_trade_as_often_as_real_ones(month: Engine) -> None:
    per_user_night = "SELECT (SELECT count(*) FROM trades)::float / (SELECT count(*) FROM portfolio_days)"
    assert scalar(month, per_user_night) >= 0.3


def test_the_leaderboard_holds_the_best_returns(month: Engine) -> None:
    board = rows(
        month, "SELECT simulation_id FROM leaderboard_entries WHERE day = :day ORDER BY rank", day=LAST_SAMPLE_DAY
    )
    best = rows(
        month,
        "SELECT p.simulation_id FROM portfolio_days p JOIN simulations s ON s.id = p.simulation_id"
        " WHERE p.day = :day"
        " ORDER BY floor(p.equity * 1000000::numeric / s.initial_cash) DESC, p.simulation_id LIMIT 100",
        day=LAST_SAMPLE_DAY,
    )
    assert board == best


def test_two_beats_and_five_ticks_at_once_make_one_run_a_day(fresh: Engine) -> None:
    night = Night(fresh, settings(500))
    change(fresh, "UPDATE simulations SET start_day = :day", day=LAST_SAMPLE_DAY - timedelta(days=2))
    barrier = threading.Barrier(5)
    failures: list[BaseException] = []

    def one_tick() -> None:
        barrier.wait()
        try:
            tick(fresh, night.queue, now=NOW, settings=night.settings)
        except BaseException as error:  # noqa: BLE001 (reported by the assertion below)
            failures.append(error)

    threads = [threading.Thread(target=one_tick) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert rows(fresh, "SELECT kind, day FROM runs") == [("nightly", LAST_SAMPLE_DAY)]
    assert len(night.queue.messages) == scalar(fresh, "SELECT count(*) FROM batches") == 3
    night.drain()
    assert scalar(fresh, "SELECT count(*) FROM portfolio_days") == 3 * USERS
    assert tick(fresh, night.queue, now=NOW, settings=night.settings).summary() == "nothing to do"


def test_days_that_beat_missed_are_caught_up_in_order(fresh: Engine) -> None:
    night = Night(fresh, settings(2000, catch_up_days=3))
    night.run(LAST_SAMPLE_DAY - timedelta(days=6))
    result = tick(fresh, night.queue, now=NOW, settings=night.settings)
    assert (result.planned, result.published) == (3, 1)
    night.drain()
    newest = rows(fresh, "SELECT day, status FROM runs ORDER BY day DESC LIMIT 6")
    expected = ["done", "done", "done", "missed", "missed", "missed"]
    assert newest == [(LAST_SAMPLE_DAY - timedelta(days=n), status) for n, status in enumerate(expected)]
    finished = rows(fresh, "SELECT day FROM runs WHERE status = 'done' ORDER BY finished_at, id")
    assert finished == sorted(finished, key=str)


def test_a_done_night_is_not_planned_again(fresh: Engine) -> None:
    night = Night(fresh, settings())
    night.run(LAST_SAMPLE_DAY)
    before = digest_of_day(fresh)
    assert night.plan(LAST_SAMPLE_DAY) == []
    with session_scope(fresh) as session:
        again = plan_night(session, day=LAST_SAMPLE_DAY, now=NOW, settings=night.settings, requested_by="test")
    assert again == []
    assert digest_of_day(fresh) == before


def test_nights_are_planned_in_order_and_not_ahead_of_time(fresh: Engine) -> None:
    night = Night(fresh, settings())
    night.run(FIRST_NIGHT + timedelta(days=2))
    with session_scope(fresh) as session, pytest.raises(UsageError, match="come before"):
        plan_night(session, day=LAST_SAMPLE_DAY, now=NOW, settings=night.settings, requested_by="test")
    with pytest.raises(UsageError, match="is not over yet"):
        night.plan(NOW.date())


def test_new_backdated_and_left_out_simulations_catch_up(month: Engine, fresh: Engine) -> None:
    """Some users come late, backdated; others were left out in the middle: in the end all are as if always there."""
    night = Night(fresh, settings(700))
    columns = "id, user_id, strategy, start_day, initial_cash, params, asset_ids, weights_ppm"
    change(fresh, f"CREATE TABLE late AS SELECT {columns} FROM simulations WHERE id % 3 = 0")
    change(fresh, "DELETE FROM simulations WHERE id % 3 = 0")
    night.run(LAST_SAMPLE_DAY - timedelta(days=10))
    change(fresh, "DELETE FROM portfolio_days WHERE simulation_id % 7 = 0 AND day > '2022-12-12'")
    change(fresh, "DELETE FROM trades WHERE simulation_id % 7 = 0 AND day > '2022-12-12'")
    change(fresh, f"INSERT INTO simulations ({columns}) OVERRIDING SYSTEM VALUE SELECT * FROM late")
    night.run(LAST_SAMPLE_DAY, each=True)
    whole = "SELECT md5(string_agg(t::text, ',' ORDER BY day, simulation_id)) FROM portfolio_days t"
    assert scalar(fresh, whole) == scalar(month, whole)
    assert scalar(fresh, "SELECT count(*) FROM trades") == scalar(month, "SELECT count(*) FROM trades")


def test_whoever_begins_long_ago_is_not_blamed_for_the_time_that_partitions_take(fresh: Engine) -> None:
    """Those of years take minutes. Without any time, each attempt makes one, and none of them counts."""
    night = Night(fresh, settings(700))
    night.run(FIRST_NIGHT)
    newest = scalar(fresh, "SELECT max(id) FROM simulations WHERE start_day > :day", day=FIRST_NIGHT)
    begins = FIRST_NIGHT - timedelta(days=9)
    change(fresh, f"UPDATE simulations SET start_day = '{begins}' WHERE id = {newest}")

    hurried = Night(fresh, night.settings.model_copy(update={"soft_time_limit": 0}))
    hurried.plan(FIRST_NIGHT + timedelta(days=1))
    outcomes = []
    while hurried.publish():
        outcomes += [outcome.outcome for outcome in hurried.drain()]
    assert (outcomes.count(Outcome.RETRIED), outcomes.count(Outcome.DONE), len(outcomes)) == (8, 2, 10)
    assert rows(fresh, "SELECT DISTINCT status, attempts, publications FROM batches") == [("done", 1, 1)]
    days = "SELECT min(day), count(*) FROM portfolio_days WHERE simulation_id = :id"
    assert rows(fresh, days, id=newest) == [(begins, 11)]
    assert scalar(fresh, "SELECT count(*) FROM quarantine") == 0


def test_a_night_without_users_or_prices(engine: Engine) -> None:
    night = Night(engine, settings())
    with pytest.raises(UsageError, match="there are no simulations"):
        night.plan(LAST_SAMPLE_DAY)
    assert tick(engine, night.queue, now=NOW, settings=night.settings).summary() == "nothing to do"
    import_samples(engine)
    assert scalar(engine, "SELECT count(*) FROM runs") == 0
