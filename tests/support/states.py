"""States in which somebody needs a page of docs/runbooks, made cheaply; each a generator that mends it in the end."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace

import psycopg
import pytest
import redis

from core.queues import Queue
from models.ticks import from_ticks
from services.queue_state import KEY_PREFIX, queue_key
from services.worker_registry import Answer, clock_of, write_answers
from tests.support.backups import flip
from tests.support.nights import rows, settings
from tests.support.polling import wait_until
from tests.support.scene import DAY, LAST, Scene, plan_last
from tests.support.workers import now
from workers.app import make_app
from workers.server_process import free_port

HOUR = timedelta(hours=1)
SWEEP = f"{KEY_PREFIX}unacked_mutex"


def redis_away(scene: Scene) -> Iterator[None]:
    scene.set(redis_url=f"redis://127.0.0.1:{free_port(None)}/0")
    yield
    scene.set(redis_url=scene.redis_url)


def redis_full(scene: Scene) -> Iterator[None]:
    with redis.Redis.from_url(scene.redis_url) as client:
        used = int(client.info()["used_memory"])
        client.config_set("maxmemory", int(used / 0.85))
        try:
            yield
        finally:
            client.config_set("maxmemory", 0)


def slow_statement(scene: Scene) -> Iterator[None]:
    with ExitStack() as stack:
        process = psycopg.connect(scene.database_url, autocommit=True)
        stack.callback(process.close)
        # The statement is on its way, and nobody waits for its answer.
        process.pgconn.send_query(b"SELECT pg_sleep(600)")
        slow = "SELECT 1 FROM pg_stat_activity WHERE query LIKE '%pg_sleep(600)' AND state = 'active' AND"
        slow += " datname = current_database() AND clock_timestamp() - query_start > interval '5 s'"
        wait_until(lambda: rows(scene.engine, slow), what="five seconds")
        yield


def connections(scene: Scene) -> Iterator[None]:
    scene.words["NAME"] = "a leak"
    with ExitStack() as stack:
        while scene.scalar("SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'") < 84:
            stack.enter_context(psycopg.connect(scene.database_url, application_name="a leak", autocommit=True))
        yield


def disk_full(scene: Scene) -> Iterator[None]:
    (scene.home / "log").mkdir()
    with scene.patch.context() as patch:
        make_disk(patch, free=10)
        yield


def make_disk(patch: pytest.MonkeyPatch, *, free: int) -> None:
    """A disk of which so many percent are free. Only this is made up: a test must neither fill one nor need room."""
    usage = SimpleNamespace(total=100, used=100 - free, free=free)
    patch.setattr("services.observed.shutil.disk_usage", lambda _: usage)


def not_started(scene: Scene) -> Iterator[None]:
    with scene.worker():
        yield


def waits_for_closes(scene: Scene) -> Iterator[None]:
    scene.night().run(LAST - DAY)
    closes = rows(
        scene.engine,
        "SELECT symbol, close FROM closes JOIN assets ON id = asset_id WHERE day = :day ORDER BY symbol", day=LAST,
    )  # fmt: skip
    lines = [f"{symbol},{LAST},{from_ticks(close)}" for symbol, close in closes]
    scene.words["FILE"] = "closes.csv"
    Path("closes.csv").write_text("\n".join(["symbol,day,close", *lines, ""]))
    scene.change("DELETE FROM closes WHERE day = :day", day=LAST)
    scene.set(price_deadline_minutes=1000)
    scene.tick(price_deadline_minutes=1000)
    yield
    scene.tick(price_deadline_minutes=1000)


def stalled(scene: Scene) -> Iterator[None]:
    run = plan_last(scene)
    scene.words["RUN"] = str(run)
    scene.change("UPDATE runs SET status = 'running', started_at = :at WHERE id = :run", run=run, at=now() - 2 * HOUR)
    with scene.worker():
        yield


def failures(scene: Scene) -> Iterator[None]:
    scene.words["DAY"] = str(LAST - DAY)
    scene.change(
        "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN RAISE EXCEPTION 'no' USING ERRCODE = '42501'; END $$"
    )
    scene.change(
        "CREATE TRIGGER refuse BEFORE INSERT ON portfolio_days FOR EACH ROW WHEN (NEW.user_id < 20)"
        " EXECUTE FUNCTION refuse()"
    )
    scene.night().run(LAST - DAY)
    scene.change("DROP FUNCTION refuse() CASCADE")
    scene.words["RUN"] = str(scene.scalar("SELECT max(id) FROM runs"))
    with scene.worker():
        yield
        assert scene.scalar("SELECT count(DISTINCT user_id) FROM portfolio_days WHERE day = :day", day=LAST - DAY) > 50
        assert scene.shell.ok("run", "--day", LAST, "--wait").code == 0


def quarantined(scene: Scene) -> Iterator[None]:
    scene.change(
        "INSERT INTO quarantine (user_id, simulation_id, day, reason, detail)"
        " SELECT user_id, id, :day, 'no_close', 'of a test' FROM simulations WHERE user_id = 7",
        day=LAST - 2 * DAY,
    )
    scene.change("DELETE FROM portfolio_days WHERE user_id = 7 AND day = :day", day=LAST - 2 * DAY)
    with scene.worker():
        yield


def missed(scene: Scene) -> Iterator[None]:
    scene.words["DAY"] = str(LAST - DAY)
    scene.change(
        "INSERT INTO runs (kind, first_day, day, status, scope, requested_by, batch_users, created_at)"
        " VALUES ('nightly', :day, :day, 'missed', '{}', 'beat', 10, :now)",
        day=LAST - DAY, now=now() - HOUR,
    )  # fmt: skip
    scene.night().run(LAST)
    yield
    scene.change("UPDATE runs SET created_at = :before WHERE status = 'missed'", before=now() - DAY)


def late_nights(scene: Scene) -> Iterator[None]:
    scene.night().run(LAST)
    before = "UPDATE runs SET created_at = :at"
    scene.change(before, at=now() - 9 * DAY)
    yield
    # Nights began after them all: then none was promised.
    scene.change(before, at=now())


def worker_lost(scene: Scene) -> Iterator[None]:
    with redis.Redis.from_url(scene.redis_url) as client:
        write_answers(client, clock_of(client) - 40, {"simulations@gone": Answer(("simulations",), 2)})
        write_answers(client, clock_of(client), {})
        yield
        client.hdel(f"{KEY_PREFIX}workers", "simulations@gone")


def backup_old(scene: Scene) -> Iterator[None]:
    scene.set(backup_to=scene.home / "store")
    scene.shell.ok("backup", "create")
    scene.change("UPDATE backups SET started_at = started_at - interval '7 hours 1 minute'")
    yield


def backup_damaged(scene: Scene) -> Iterator[None]:
    store = scene.home / "store"
    scene.set(backup_to=store)
    made = scene.shell.ok("backup", "create", "--json").json
    scene.words["BACKUP"] = made["name"]
    flip(max((store / made["name"] / "files").iterdir(), key=lambda file: file.stat().st_size))
    assert scene.shell("backup", "verify").code == 1
    yield
    assert scene.shell.ok("backup", "list", "--json").json[-1]["verified_at"]


def put_back(scene: Scene) -> Iterator[None]:
    scene.change("INSERT INTO beat_ticks (name, last_run_at, runs) VALUES ('put_back:lost', :at, 2)", at=now())
    yield
    scene.change("UPDATE beat_ticks SET last_run_at = :at", at=now() - HOUR)


def stand_still(scene: Scene) -> None:
    """Nobody works, for long: a tick, a message in a worker's hands, a notification, the last prices are old."""
    scene.night().run(LAST)
    scene.change("INSERT INTO beat_ticks (name, last_run_at) VALUES ('tick', :at)", at=now() - HOUR)
    scene.change(
        "INSERT INTO outbox (kind, key, payload, created_at)"
        " VALUES ('alert_cleared', 'a', :payload, now() - interval '1 hour')",
        payload=json.dumps({"alert": 1, "key": "a", "kind": "prices_failed", "detail": "of a test", "at": str(now())}),
    )
    scene.change("INSERT INTO asset_sources (source, asset_id, code) SELECT 'binance', min(id), 'CODE' FROM assets")
    scene.change(
        "INSERT INTO price_windows (source, starts_at, status) VALUES ('binance', :at, 'done')", at=now() - HOUR
    )
    scene.change(
        "INSERT INTO alerts (key, kind, detail, raised_at) VALUES ('prices:binance', 'prices_failed', 'away', :at)",
        at=now() - HOUR,
    )
    taken_long_ago(scene)


def taken_long_ago(scene: Scene) -> None:
    """A message that a worker took half an hour ago, and a sweeper that died in the middle: its lock is still there."""
    with make_app(settings(), scene.redis_url) as app:
        app.send_task("maintenance.ensure_partitions")
    with redis.Redis.from_url(scene.redis_url) as client:
        message = json.loads(client.rpop(queue_key(Queue.MAINTENANCE)))
        tag = message["properties"]["delivery_tag"]
        client.hset(f"{KEY_PREFIX}unacked", tag, json.dumps([message, "", "maintenance"]))
        client.zadd(f"{KEY_PREFIX}unacked_index", {tag: clock_of(client) - 1800})
        client.set(SWEEP, "of a process that died", ex=300)
