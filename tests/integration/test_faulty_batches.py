"""What goes wrong with a batch: duplicates, lost claims, poison, bad data, lost messages; and what becomes of it."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from sqlalchemy import Engine, text

from core.database import session_scope
from engine.market import Market
from services.batches import Outcome
from services.completion import finish_runs
from services.digest import digest_of_day
from services.market_data import MarketCache
from services.runs import cancel_run
from services.tick import tick
from tests.support.database import execute
from tests.support.nights import (
    FIRST_NIGHT,
    LAST_SAMPLE_DAY,
    NOW,
    USERS,
    Night,
    change,
    rows,
    scalar,
    settings,
)


def _url(engine: Engine) -> str:
    return engine.url.set(drivername="postgresql").render_as_string(hide_password=False)


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


def test_a_claim_that_postgresql_forgot_when_it_died_is_taken_back_by_its_worker(month: Engine, fresh: Engine) -> None:
    """The claim's commit does not wait for the disk, so a PostgreSQL that dies may come back without it."""
    night = Night(fresh, settings())
    night.plan(LAST_SAMPLE_DAY)
    night.publish()

    class DiesOnce(MarketCache):
        died = False

        def get(self, *args: Any) -> Market:
            if not self.died:
                self.died = True
                change(fresh, "UPDATE batches SET status = 'queued', attempts = attempts - 1, worker = NULL")
                change(fresh, "SELECT pg_terminate_backend(:pid)", pid=args[0].info.backend_pid)
            return super().get(*args)

    night.worker.markets = DiesOnce(5)
    assert [outcome.outcome for outcome in night.drain()] == [Outcome.RETRIED]
    assert rows(fresh, "SELECT status, attempts FROM batches") == [("planned", 0)]
    night.now += timedelta(minutes=3)
    assert tick(fresh, night.queue, now=night.now, settings=night.settings).published == 1
    assert [outcome.outcome for outcome in night.drain()] == [Outcome.DONE]
    assert scalar(fresh, "SELECT max(attempts) FROM batches") == 1
    assert digest_of_day(fresh) == digest_of_day(month)


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


def test_abandoned_and_lost_batches_are_put_back(month: Engine, fresh: Engine) -> None:
    night = Night(fresh, settings(300, overdue_seconds=20))
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
