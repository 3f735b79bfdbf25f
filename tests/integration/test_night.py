"""A night end to end, from the plan to the finished run, in one process."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import date, timedelta
from fractions import Fraction
from typing import Any

import pytest
from sqlalchemy import Engine, text

from core.database import make_engine, session_scope
from core.errors import UsageError
from engine.market import Market
from services.batches import Outcome
from services.completion import finish_runs
from services.digest import digest_of_day
from services.market_data import MarketCache
from services.planning import plan_night
from services.runs import cancel_run
from services.tick import tick
from tests.support.database import execute, new_database
from tests.support.nights import (
    FIRST_NIGHT,
    LAST_SAMPLE_DAY,
    NOW,
    Night,
    change,
    import_samples,
    rows,
    sample_world,
    scalar,
    settings,
)
from workers.embedded import ServerUrls

USERS = 1200
TICKS = 10**8


@pytest.fixture(scope="module")
def world(servers: ServerUrls) -> Iterator[str]:
    """The name of a database with prices and users but no night; a template for the tests of this file."""
    with new_database(servers.database_url, "night_world") as url:
        engine = make_engine(url)
        sample_world(engine, USERS)
        engine.dispose()
        yield "night_world"


@pytest.fixture
def fresh(servers: ServerUrls, world: str, request: pytest.FixtureRequest) -> Iterator[Engine]:
    """An engine on a clone of `world`."""
    name = "night_" + str(abs(hash(request.node.nodeid)) % 10**9)
    with new_database(servers.database_url, name, template=world) as url:
        engine = make_engine(url)
        yield engine
        engine.dispose()


@pytest.fixture(scope="module")
def month(servers: ServerUrls, world: str) -> Iterator[Engine]:
    """`world` after thirty nights of one run each, for tests that only look."""
    with new_database(servers.database_url, "night_month", template=world) as url:
        engine = make_engine(url)
        Night(engine, settings(500)).run(LAST_SAMPLE_DAY, each=True)
        yield engine
        engine.dispose()


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


def _last_close(closes: dict[date, int], day: object) -> int:
    assert isinstance(day, date)
    return next(closes[day - timedelta(days=n)] for n in range(6) if day - timedelta(days=n) in closes)


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


def test_a_message_delivered_three_times_has_one_effect(month: Engine, fresh: Engine) -> None:
    night = Night(fresh, settings(300))
    night.plan(LAST_SAMPLE_DAY)
    night.publish()
    night.queue.messages *= 3
    outcomes = [outcome.outcome for outcome in night.drain()]
    assert outcomes == [Outcome.DONE] * 4 + [Outcome.NOT_DUE] * 8
    assert digest_of_day(fresh) == digest_of_day(month)
    assert scalar(fresh, "SELECT max(attempts) FROM batches") == 1


def test_who_lost_the_claim_meanwhile_commits_nothing(fresh: Engine) -> None:
    night = Night(fresh, settings())
    night.plan(LAST_SAMPLE_DAY)
    night.publish()

    class ClaimedAgain(MarketCache):
        def get(self, *args: Any) -> Market:
            change(fresh, "UPDATE batches SET attempts = attempts + 1")
            return super().get(*args)

    night.worker.markets = ClaimedAgain(5)
    assert [outcome.outcome for outcome in night.drain()] == [Outcome.NOT_DUE]
    assert scalar(fresh, "SELECT count(*) FROM portfolio_days") == 0
    assert scalar(fresh, "SELECT count(*) FROM trades") == 0


def test_the_user_who_breaks_a_batch_is_found_and_everybody_else_is_done(fresh: Engine) -> None:
    night = Night(fresh, settings(500))
    night.plan(LAST_SAMPLE_DAY)
    night.publish()
    execute(_url(fresh), "ALTER TABLE portfolio_days_20221228 ADD CONSTRAINT no CHECK (user_id <> 700)")
    night.drain()
    found = rows(fresh, "SELECT user_id, simulation_id, reason FROM quarantine WHERE detail LIKE '%CheckViolation%'")
    assert found == [(700, None, "error")]
    assert scalar(fresh, "SELECT count(*) FROM portfolio_days WHERE day = :day", day=LAST_SAMPLE_DAY) == USERS - 1
    assert scalar(fresh, "SELECT status FROM runs") == "done"
    assert scalar(fresh, "SELECT count(*) FROM outbox WHERE kind = 'run_finished'") == 1
    night.run(LAST_SAMPLE_DAY)
    assert scalar(fresh, "SELECT count(*) FROM batches WHERE status NOT IN ('done', 'split')") == 0


def test_a_fault_of_the_system_blames_nobody(fresh: Engine) -> None:
    night = Night(fresh, settings(500))
    night.plan(LAST_SAMPLE_DAY)
    night.publish()
    execute(_url(fresh), "ALTER TABLE trades_202212 RENAME TO gone")
    outcomes = [outcome.outcome for outcome in night.drain()]
    assert outcomes == [Outcome.FAILED] * 3
    assert scalar(fresh, "SELECT count(*) FROM quarantine") == 0
    assert scalar(fresh, "SELECT count(*) FROM portfolio_days") == 0
    assert scalar(fresh, "SELECT status FROM runs") == "failed"
    assert "UndefinedTable" in str(scalar(fresh, "SELECT min(error) FROM batches"))


def test_a_run_in_which_everybody_is_poison_fails_instead_of_blaming_everybody(fresh: Engine) -> None:
    night = Night(fresh, settings(50, max_poison_users=3))
    change(fresh, "DELETE FROM simulations WHERE user_id > 40")
    night.plan(LAST_SAMPLE_DAY)
    night.publish()
    execute(_url(fresh), "ALTER TABLE portfolio_days_20221228 ADD CONSTRAINT no CHECK (false)")
    night.drain()
    assert scalar(fresh, "SELECT count(*) FROM quarantine") == 3
    assert scalar(fresh, "SELECT status FROM runs") == "failed"


def test_a_batch_on_which_workers_keep_dying_is_divided(fresh: Engine) -> None:
    """Each death leaves the batch running without a lease, as a killed process does."""
    night = Night(fresh, settings(500))
    change(fresh, "DELETE FROM simulations WHERE user_id > 8")
    night.plan(LAST_SAMPLE_DAY)
    night.publish()
    poisonous = 3
    deaths = 0
    while night.queue.messages:
        batch = night.queue.messages.pop(0).batch_id
        inside = "SELECT count(*) FROM batches WHERE id = :id AND user_lo <= :user AND user_hi > :user"
        exhausted = (
            "SELECT attempts >= CASE WHEN parent_id IS NULL OR users = 1 THEN 2 ELSE 1 END FROM batches WHERE id = :id"
        )
        if scalar(fresh, inside, id=batch, user=poisonous) and not scalar(fresh, exhausted, id=batch):
            change(fresh, "UPDATE batches SET status = 'running', attempts = attempts + 1 WHERE id = :id", id=batch)
            change(fresh, "UPDATE batches SET started_at = :now WHERE id = :id", id=batch, now=night.now)
            deaths += 1
            night.now += timedelta(seconds=30)
            tick(fresh, night.queue, now=night.now, settings=night.settings)
        else:
            night.worker.advance(batch)
    assert rows(fresh, "SELECT user_id, simulation_id, reason FROM quarantine") == [(poisonous, None, "worker_lost")]
    assert deaths == 2 + 1 + 1 + 2
    assert scalar(fresh, "SELECT count(DISTINCT user_id) FROM portfolio_days") == 7
    assert scalar(fresh, "SELECT status FROM runs WHERE day = :day", day=LAST_SAMPLE_DAY) == "done"


def test_a_cancelled_run_leaves_whole_batches(fresh: Engine) -> None:
    night = Night(fresh, settings(500))
    (run,) = night.plan(LAST_SAMPLE_DAY)
    night.publish()
    night.worker.advance(night.queue.messages.pop(0).batch_id)
    with session_scope(fresh) as session:
        cancel_run(session, run, NOW)
    night.drain()
    assert finish_runs(fresh, now=NOW) == [run]
    assert rows(fresh, "SELECT status FROM batches ORDER BY seq") == [("done",), ("cancelled",), ("cancelled",)]
    assert scalar(fresh, "SELECT status FROM runs") == "cancelled"
    assert scalar(fresh, "SELECT max(user_id) FROM portfolio_days") == 500


def test_new_backdated_and_left_out_simulations_catch_up(month: Engine, fresh: Engine) -> None:
    """Some users come late, backdated; others were left out in the middle: in the end all are as if always there."""
    night = Night(fresh, settings(700))
    change(fresh, "CREATE TABLE late AS SELECT * FROM simulations WHERE id % 3 = 0")
    change(fresh, "DELETE FROM simulations WHERE id % 3 = 0")
    night.run(LAST_SAMPLE_DAY - timedelta(days=10))
    change(fresh, "DELETE FROM portfolio_days WHERE simulation_id % 7 = 0 AND day > '2022-12-12'")
    change(fresh, "DELETE FROM trades WHERE simulation_id % 7 = 0 AND day > '2022-12-12'")
    change(fresh, "INSERT INTO simulations OVERRIDING SYSTEM VALUE SELECT * FROM late")
    night.run(LAST_SAMPLE_DAY, each=True)
    whole = "SELECT md5(string_agg(t::text, ',' ORDER BY day, simulation_id)) FROM portfolio_days t"
    assert scalar(fresh, whole) == scalar(month, whole)
    assert scalar(fresh, "SELECT count(*) FROM trades") == scalar(month, "SELECT count(*) FROM trades")


def test_what_cannot_be_advanced_is_quarantined_with_its_reason(fresh: Engine) -> None:
    change(fresh, "UPDATE simulations SET params = '{1}' WHERE id = 10")
    change(fresh, "UPDATE simulations SET strategy = 999 WHERE id = 20")
    change(fresh, "UPDATE simulations SET asset_ids[1] = 4711 WHERE id = 30")
    change(fresh, "INSERT INTO assets (symbol) VALUES ('NEVER')")
    change(fresh, "UPDATE simulations SET asset_ids[1] = (SELECT id FROM assets WHERE symbol = 'NEVER') WHERE id = 40")
    change(
        fresh,
        "UPDATE simulations SET strategy = 1, params = '{0,0,0,0,0}', initial_cash = 9223372036854775807 WHERE id = 50",
    )
    change(fresh, "UPDATE closes SET close = 1 WHERE asset_id = (SELECT asset_ids[1] FROM simulations WHERE id = 50)")
    night = Night(fresh, settings(400))
    night.run(FIRST_NIGHT + timedelta(days=25))
    night.run(FIRST_NIGHT + timedelta(days=26))
    found = dict(
        rows(fresh, "SELECT simulation_id, reason FROM quarantine WHERE simulation_id IN (10, 20, 30, 40, 50)")
    )
    assert found == {10: "malformed", 20: "malformed", 30: "unknown_asset", 40: "no_close", 50: "overflow"}
    assert "NEVER: " in str(scalar(fresh, "SELECT detail FROM quarantine WHERE simulation_id = 40"))
    assert scalar(fresh, "SELECT count(*) FROM portfolio_days WHERE simulation_id IN (10, 20, 30, 40, 50)") == 0
    last_day = "SELECT count(*) FROM portfolio_days WHERE day = :day"
    healthy = USERS - scalar(fresh, "SELECT count(*) FROM quarantine")
    assert scalar(fresh, last_day, day=FIRST_NIGHT + timedelta(days=26)) == healthy
    assert scalar(fresh, "SELECT status FROM runs LIMIT 1") == "done"


def test_an_asset_without_closes_for_too_long_stops_its_simulations_only(fresh: Engine) -> None:
    delisted = LAST_SAMPLE_DAY - timedelta(days=8)
    change(fresh, "DELETE FROM closes WHERE asset_id = 1 AND day > :day", day=delisted)
    night = Night(fresh, settings())
    night.run(LAST_SAMPLE_DAY)
    owners = "SELECT count(*) FROM simulations WHERE 1 = ANY(asset_ids)"
    assert scalar(fresh, "SELECT count(*) FROM quarantine WHERE reason = 'no_close'") == scalar(fresh, owners)
    last = "SELECT max(day) FROM portfolio_days p JOIN simulations s ON s.id = simulation_id WHERE 1 = ANY(s.asset_ids)"
    assert scalar(fresh, last) == delisted + timedelta(days=5)
    others = "SELECT count(*) FROM portfolio_days p WHERE day = :day"
    assert scalar(fresh, others, day=LAST_SAMPLE_DAY) == USERS - scalar(fresh, owners)


def test_a_night_without_users_or_prices(engine: Engine) -> None:
    night = Night(engine, settings())
    with pytest.raises(UsageError, match="there are no simulations"):
        night.plan(LAST_SAMPLE_DAY)
    assert tick(engine, night.queue, now=NOW, settings=night.settings).summary() == "nothing to do"
    import_samples(engine)
    assert scalar(engine, "SELECT count(*) FROM runs") == 0


def test_abandoned_and_lost_batches_are_put_back(month: Engine, fresh: Engine) -> None:
    night = Night(fresh, settings(300))
    night.plan(LAST_SAMPLE_DAY)
    night.publish()
    night.queue.messages.clear()  # every message is lost, and one worker died after its claim
    change(fresh, "UPDATE batches SET status = 'running', attempts = 1, started_at = :now WHERE seq = 0", now=NOW)
    night.now += timedelta(seconds=10)
    first = tick(fresh, night.queue, now=night.now, settings=night.settings)
    assert (first.abandoned, first.lost, first.published) == (1, 0, 1)
    night.now += timedelta(seconds=30)
    second = tick(fresh, night.queue, now=night.now, settings=night.settings)
    assert (second.abandoned, second.lost, second.published) == (0, 3, 3)  # the fourth was published just now
    night.drain()
    assert digest_of_day(fresh) == digest_of_day(month)


def test_a_batch_whose_lease_is_held_is_not_put_back(fresh: Engine) -> None:
    night = Night(fresh, settings())
    night.plan(LAST_SAMPLE_DAY)
    night.publish()
    batch = night.queue.messages[0].batch_id
    with fresh.connect() as holder:
        holder.execute(text("SELECT pg_advisory_lock((1::bigint << 56) | :batch)"), {"batch": batch})
        change(fresh, "UPDATE batches SET status = 'running', attempts = 1, started_at = :now", now=NOW)
        assert [outcome.outcome for outcome in night.drain()] == [Outcome.TAKEN]
        result = tick(fresh, night.queue, now=NOW + timedelta(hours=1), settings=night.settings)
        assert (result.abandoned, result.lost) == (0, 0)


def _url(engine: Engine) -> str:
    return engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
