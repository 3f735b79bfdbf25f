"""Celery works as configured: asked of the connections that it really makes, not of the settings that we wrote."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from celery import Celery
from celery.exceptions import QueueNotFound
from kombu.exceptions import EncodeError
from sqlalchemy import Engine, text

from core.errors import PublishError
from core.queues import Queue
from core.settings import Settings
from services.publishing import BatchMessage
from services.queue_state import queue_key, queue_lengths
from tasks.messages import MESSAGES, SIMULATE
from tests.support.cli import environment
from workers.app import make_app
from workers.door import refusal
from workers.publisher import CeleryPublisher

ROOT = Path(__file__).parents[2]
SETTINGS = Settings(visibility_timeout=777, soft_time_limit=50, hard_time_limit=70, message_max_bytes=2048)
CLOSED_PORT = "redis://:hidden-word@127.0.0.1:1/0"


@pytest.fixture
def app(redis_url: str) -> Iterator[Celery]:
    app = make_app(SETTINGS, redis_url)
    yield app
    app.close()


def test_the_table_of_the_design_is_in_force(app: Celery) -> None:
    wanted = {
        "task_acks_late": True,
        "task_reject_on_worker_lost": True,
        "task_acks_on_timeout": True,
        "task_acks_on_failure": True,
        "task_ignore_result": True,
        "worker_prefetch_multiplier": 1,
        "worker_soft_shutdown_timeout": 0,
        "worker_enable_soft_shutdown_on_idle": False,
        "worker_cancel_long_running_tasks_on_connection_loss": True,
        "broker_connection_max_retries": None,
        "broker_connection_retry_on_startup": True,
        "broker_pool_acquire_timeout": 10,
        "accept_content": ["json"],
        "task_serializer": "json",
        "task_default_queue": "control",
        "task_create_missing_queues": False,
        "task_soft_time_limit": 50,
        "task_time_limit": 70,
        "worker_send_task_events": True,
        "task_send_sent_event": True,
        "worker_hijack_root_logger": False,
        "timezone": "UTC",
        "result_backend": None,
    }
    assert {name: app.conf[name] for name in wanted} == wanted
    # KiB: far above what a pool process needs for a batch of this size, far below what a machine has.
    assert 300_000 < app.conf.worker_max_memory_per_child < 600_000
    # What a task of ours inherits decides, not the app's setting.
    for name in MESSAGES:
        task = app.tasks[name]
        assert task.acks_late, name
        assert task.reject_on_worker_lost, name
        assert task.acks_on_timeout, name
        assert task.acks_on_failure, name
        assert task.ignore_result, name
    assert set(app.amqp.queues) == set(Queue)
    # Those of the benchmark's peers belong to every app of a process that has imported them.
    ours = {name for name in app.tasks if not name.startswith(("celery.", "peers."))}
    assert ours == set(MESSAGES)


def test_the_connections_are_made_with_the_options_of_the_design(app: Celery) -> None:
    with app.connection_for_read() as connection:
        channel = connection.default_channel
        assert channel.visibility_timeout == 777
        assert (channel.unacked_restore_interval, channel.unacked_restore_throttle) == (5, 1)
        assert channel.unacked_restore_limit == 500
        assert channel.global_keyprefix == "nightshift:"
        assert channel.message_max_bytes == 2048
        channel._queue_cycle.update([Queue.SIMULATIONS, Queue.REPROCESS])
        for _ in range(3):
            assert channel._queue_cycle.consume(2) == [Queue.SIMULATIONS, Queue.REPROCESS]
            channel._queue_cycle.rotate(Queue.SIMULATIONS)
        for pool in (channel.pool, channel.async_pool):
            options = pool.connection_kwargs
            assert options["socket_timeout"] == 10
            assert options["socket_connect_timeout"] == 5
            assert options["socket_keepalive"] is True
            assert options["health_check_interval"] == 10
        assert channel.supports_batch_publish


def test_a_message_names_a_task_and_a_queue_that_exist_and_is_json(app: Celery) -> None:
    with pytest.raises(QueueNotFound):
        app.tasks[SIMULATE].apply_async(kwargs={"batch_id": 1}, queue="elsewhere")
    with pytest.raises(EncodeError):
        app.tasks[SIMULATE].apply_async(kwargs={"batch_id": object()}, retry=False)


def test_many_messages_take_few_round_trips_and_pass_the_door(app: Celery, redis_url: str) -> None:
    label = "run 3 · 2024-01-05 · users 0–4999"
    messages = [BatchMessage(number, Queue.SIMULATIONS, label) for number in range(1, 1201)]
    with redis.Redis.from_url(redis_url) as client:
        CeleryPublisher(app)(messages[:1])
        before = client.info("stats")["total_reads_processed"]
        CeleryPublisher(app)(messages[1:])
        trips = client.info("stats")["total_reads_processed"] - before
        # Each message is two commands (itself, and its event for Flower); a pipeline of 500 is read in a few pieces.
        assert trips < len(messages) / 4
        assert queue_lengths(client)[Queue.SIMULATIONS] == 1200
        oldest = client.rpop(queue_key(Queue.SIMULATIONS))
    assert isinstance(oldest, bytes)
    assert refusal(oldest, SETTINGS.message_max_bytes) is None
    assert refusal(oldest, len(oldest) - 1) is not None


def test_a_broker_that_is_away_is_an_error_of_one_line_without_the_password() -> None:
    app = make_app(SETTINGS, CLOSED_PORT)
    with pytest.raises(PublishError) as caught:
        CeleryPublisher(app)([BatchMessage(1, Queue.SIMULATIONS, "run 1")])
    assert "\n" not in str(caught.value)
    assert "hidden-word" not in str(caught.value)


def test_celery_without_servers_says_what_to_do(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "celery", "-A", "workers.app", "report"],
        cwd=ROOT,
        env={"PATH": os.environ["PATH"], "NIGHTSHIFT_HOME": str(tmp_path / "home")},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert result.returncode == 3
    assert "NIGHTSHIFT_REDIS_URL" in result.stderr
    assert len(result.stderr.splitlines()) == 1


STARTS = """
from celery import signals
from workers.app import environment_app
app = environment_app()
signals.celeryd_init.send(sender="w@h", instance=None, conf=app.conf, options={})
print(app.conf.worker_max_memory_per_child)
"""


def test_a_worker_that_starts_allows_for_the_market_that_there_is(
    engine: Engine, database: str, redis_url: str, tmp_path: Path
) -> None:
    env = {**environment(tmp_path), "NIGHTSHIFT_DATABASE_URL": database, "NIGHTSHIFT_REDIS_URL": redis_url}

    def limit(**servers: str) -> int:
        command = [sys.executable, "-c", STARTS]
        return int(subprocess.run(command, env=env | servers, capture_output=True, text=True, check=True).stdout)

    small = limit()
    with engine.begin() as connection:
        connection.execute(text("INSERT INTO assets (symbol) SELECT 'A' || n FROM generate_series(1, 20000) AS n"))
    # 24 KiB an asset at the peak, measured with 10,000 of them; the limit is twice that and a little more.
    assert 2 * 24 * 20_000 < limit() - small < 3 * 24 * 20_000
    assert limit(NIGHTSHIFT_DATABASE_URL="postgresql://127.0.0.1:1/away") == small
