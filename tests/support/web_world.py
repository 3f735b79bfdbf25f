"""A database of which the status page has something to say: nights, one of them at work, failures, quarantine, prices.

Texts that people or errors bring are HTML that would do harm if a page took it for such.
"""

from __future__ import annotations

from datetime import timedelta

import redis
from sqlalchemy import Engine, text

from core.database import session_scope
from core.queues import Queue
from services.queue_state import queue_key
from services.reprocessing import request
from services.scopes import ReprocessScope
from services.tick import record_run
from services.worker_registry import Answer, clock_of, write_answers
from tests.support.nights import FIRST_NIGHT, LAST_SAMPLE_DAY, Night, sample_world, settings
from tests.support.web import NOW

LAST_DAY = LAST_SAMPLE_DAY
HARM = "<script>document.title='harm'</script><img src=x onerror=\"document.title='harm'\">"
USERS = 90
BATCH_USERS = 30


def fill(engine: Engine, redis_url: str) -> None:
    """Thirty nights, of which the newest is at work; a reprocess that is planned; prices, alerts, workers."""
    plain = settings(batch_users=BATCH_USERS)
    sample_world(engine, USERS, start=FIRST_NIGHT - timedelta(days=5))
    night = Night(engine, plain, now=NOW - timedelta(seconds=3), name="simulations@here")
    night.run(LAST_SAMPLE_DAY - timedelta(days=9))
    night.run(LAST_SAMPLE_DAY - timedelta(days=1), each=True)
    night.plan(LAST_SAMPLE_DAY)
    night.publish()
    night.worker.advance(night.queue.messages.pop(0).batch_id)
    _spread_out(engine)
    with session_scope(engine) as session:
        request(
            session, ReprocessScope(users=(3, 4)), first_day=LAST_SAMPLE_DAY - timedelta(days=3),
            reason=f"a wrong close {HARM}", requested_by=f"ops {HARM}", now=NOW, settings=plain,
        )  # fmt: skip
    _add_trouble(engine)
    record_run(engine, "tick", now=NOW - timedelta(seconds=4), result="nothing to do")
    with redis.Redis.from_url(redis_url) as client:
        client.lpush(queue_key(Queue.SIMULATIONS), "a", "b")
        asked = clock_of(client)
        groups = {
            "simulations@here": Answer(("simulations", "reprocess"), 2),
            "control@here": Answer(("control", "maintenance"), 1),
        }
        write_answers(client, asked, groups)


def fail(engine: Engine) -> None:
    """Let the night that is at work fail."""
    _execute(
        engine,
        """
        UPDATE batches SET status = 'failed', error = :harm, attempts = 3, finished_at = :now, started_at = :before
            WHERE status IN ('queued', 'running')
                AND run_id = (SELECT id FROM runs WHERE kind = 'nightly' AND day = :last);
        UPDATE runs SET status = 'failed', error = :harm, finished_at = :now
            WHERE id = (SELECT id FROM runs WHERE kind = 'nightly' AND day = :last)
        """,
    )


def _spread_out(engine: Engine) -> None:
    """The nights of a test are over in a moment: here they begin when they would."""
    _execute(
        engine,
        """
        UPDATE runs SET created_at = day + interval '1 day 1 minute', started_at = day + interval '1 day 1 minute',
            finished_at = day + interval '1 day 1 minute 4.2 seconds' WHERE status = 'done';
        UPDATE batches b SET queued_at = r.started_at, started_at = r.started_at + seq * interval '1.1 seconds',
            finished_at = r.started_at + seq * interval '1.1 seconds' + interval '0.9 seconds',
            worker = 'simulations@machine-' || seq % 2
            FROM runs r WHERE r.id = b.run_id AND r.status = 'done'
        """,
    )


def _add_trouble(engine: Engine) -> None:
    _execute(
        engine,
        """
        UPDATE users SET name = :harm WHERE id = 3;
        UPDATE runs SET status = 'failed', error = :harm WHERE kind = 'nightly' AND day = :last - 4;
        UPDATE runs SET status = 'cancelled' WHERE kind = 'nightly' AND day = :last - 6;
        UPDATE runs SET quarantined = 2 WHERE kind = 'nightly' AND day = :last - 2;
        INSERT INTO runs (kind, first_day, day, status, scope, requested_by, batch_users)
            VALUES ('nightly', :last - 60, :last - 60, 'missed', '{}', 'beat', 1);
        INSERT INTO quarantine (user_id, simulation_id, day, reason, detail, run_id, batch_id, created_at)
            SELECT user_id, id, :last - 2, 'NO_CLOSE', :harm, 2, 5, :before FROM simulations WHERE user_id IN (3, 7);
        INSERT INTO alerts (key, kind, detail, raised_at) VALUES ('closes:x', 'closes_missing', :harm, :before);
        INSERT INTO price_windows (source, starts_at, status, finished_at, ticks, held, counts, error)
            SELECT 'binance', CAST(:now AS timestamptz) - n * interval '5 minutes',
                CASE WHEN n IN (4, 5) THEN 'failed' ELSE 'done' END, :now, 400, 1, '{"stale": 3}',
                CASE WHEN n IN (4, 5) THEN :harm END
            FROM generate_series(0, 40) AS n;
        INSERT INTO held_prices (asset_id, source, kind, ts, price, reference, jump_ppm, band_ppm)
            SELECT 1, 'binance', 'tick', CAST(:now AS timestamptz) - n * interval '5 minutes', 30012500000, 10000000000,
                2001250, 150000 FROM generate_series(1, 3) AS n
        """,
    )


def _execute(engine: Engine, statements: str) -> None:
    values = {"harm": HARM, "now": NOW, "before": NOW - timedelta(minutes=3), "last": LAST_SAMPLE_DAY}
    with engine.begin() as connection:
        for statement in statements.split(";"):
            connection.execute(text(statement), values)
