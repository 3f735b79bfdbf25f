"""The queues as workers see them: garbage is dropped and counted, nightly work goes first, and valid work is done."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import redis
from sqlalchemy import Engine, text

from core.queues import Queue
from core.settings import Settings
from schedules.beat import TICK
from services.publishing import BatchMessage
from services.queue_state import dropped, queue_key, queue_lengths, unacked
from tasks.messages import SIMULATE
from tests.support.polling import wait_until
from workers.app import make_app
from workers.door import Refusal, refusal
from workers.embedded import ServerUrls
from workers.publisher import CeleryPublisher
from workers.stack import Stack

MAX_BYTES = 4096


def changed(valid: bytes, *path: str, to: Any) -> bytes:
    """The message `valid` with one field of its envelope changed."""
    message = json.loads(valid)
    part = message
    for name in path[:-1]:
        part = part[name]
    part[path[-1]] = to
    return json.dumps(message).encode()


def with_body(valid: bytes, body: object) -> bytes:
    """The message `valid` with another body."""
    return changed(valid, "body", to=base64.b64encode(json.dumps(body).encode()).decode())


def bad_messages(valid: bytes) -> list[tuple[Refusal, bytes]]:
    """Everything that must not hurt, made from a valid message of SIMULATE."""
    embedded: dict[str, None] = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}
    arguments: list[Any] = [
        {}, {"batch_id": 0}, {"batch_id": -1}, {"batch_id": "1"}, {"batch_id": 1.0}, {"batch_id": True},
        {"batch_id": None}, {"batch_id": 2**63}, {"batch_id": [1]}, {"batch_id": 1, "more": 1},
    ]  # fmt: skip
    return [
        (Refusal.NOT_JSON, b""),
        (Refusal.NOT_JSON, b"hello"),
        (Refusal.NOT_JSON, b"\xff\x00\xfe"),
        (Refusal.NOT_JSON, b"[" * 4000),
        (Refusal.OVERSIZED, b" " * MAX_BYTES + valid),
        *((Refusal.MALFORMED, raw) for raw in (b"null", b"7", b"[]", b"{}", b'"text"', b'{"body": "x"}')),
        (Refusal.MALFORMED, changed(valid, "properties", to={})),
        (Refusal.MALFORMED, changed(valid, "properties", "body_encoding", to="rot13")),
        (Refusal.MALFORMED, changed(valid, "headers", to=None)),
        (Refusal.MALFORMED, changed(valid, "headers", "id", to=None)),
        (Refusal.MALFORMED, changed(valid, "headers", "task", to=["x"])),
        (Refusal.MALFORMED, changed(valid, "headers", "eta", to="2999-01-01T00:00:00+00:00")),
        (Refusal.MALFORMED, changed(valid, "headers", "expires", to="tomorrow")),
        (Refusal.MALFORMED, changed(valid, "headers", "timelimit", to=["x", {}])),
        (Refusal.MALFORMED, changed(valid, "headers", "compression", to="zip")),
        (Refusal.MALFORMED, changed(valid, "body", to="*** no base64 ***")),
        (Refusal.MALFORMED, with_body(valid, {"batch_id": 1})),
        (Refusal.MALFORMED, with_body(valid, [[], {"batch_id": 1}, {**embedded, "callbacks": [{"task": "x"}]}])),
        (Refusal.CONTENT_TYPE, changed(valid, "content-type", to="application/x-python-serialize")),
        (Refusal.CONTENT_TYPE, changed(valid, "content-encoding", to="binary")),
        (Refusal.UNKNOWN_TASK, changed(valid, "headers", "task", to="simulations.drop_everything")),
        (Refusal.UNKNOWN_TASK, changed(valid, "headers", "task", to="celery.backend_cleanup")),
        (Refusal.ARGUMENTS, with_body(valid, [[1], {}, embedded])),
        *((Refusal.ARGUMENTS, with_body(valid, [[], keywords, embedded])) for keywords in arguments),
    ]


def test_workers_live_through_garbage_and_do_what_is_valid_nightly_first(
    database: str, engine: Engine, redis_url: str, tmp_path: Path
) -> None:
    settings = Settings(home=tmp_path, message_max_bytes=MAX_BYTES)
    app = make_app(settings, redis_url)
    with redis.Redis.from_url(redis_url) as client:
        CeleryPublisher(app)([BatchMessage(1, Queue.SIMULATIONS, "a valid one")])
        valid = client.rpop(queue_key(Queue.SIMULATIONS))
        assert isinstance(valid, bytes)
        bad = bad_messages(valid)
        for reason, message in bad:
            refused = refusal(message, MAX_BYTES)
            assert refused is not None, message
            assert refused.reason == reason, (message, refused)

        reprocess, nightly = list(range(1, 6)), list(range(101, 106))
        client.lpush(queue_key(Queue.SIMULATIONS), *(message for _, message in bad))
        client.lpush(queue_key(Queue.CONTROL), b"garbage")
        client.lpush(queue_key(Queue.SIMULATIONS, priority=9), b"garbage of low priority")
        CeleryPublisher(app)([BatchMessage(number, Queue.REPROCESS, f"batch {number}") for number in reprocess])
        CeleryPublisher(app)([BatchMessage(number, Queue.SIMULATIONS, f"batch {number}") for number in nightly])
        app.tasks[TICK].apply_async(queue=Queue.CONTROL.value)

        with Stack(
            settings, ServerUrls(database, redis_url), workers=1, beat=False, flower=False, exporter=False
        ) as stack:
            pids = stack.processes
            # A broadcast that is none, too.
            client.publish("nightshift:/0.celery.pidbox", b'{"no": "message"}')
            wait_until(
                lambda: not any(queue_lengths(client).values()) and not any(unacked(client).values()),
                what="the queues being empty and everything acknowledged",
            )
            with engine.connect() as connection:
                ticks = connection.execute(text("SELECT runs FROM beat_ticks WHERE name = 'tick'")).scalar_one()
            assert ticks == 1
            totals = app.control.inspect(timeout=2).stats()
            assert sum(stats["total"].get(SIMULATE, 0) for stats in totals.values()) == len(nightly)
            assert stack.processes == pids
        expected: dict[str, int] = {}
        for reason, _ in [*bad, (Refusal.NOT_JSON, b""), (Refusal.NOT_JSON, b"")]:
            expected[reason] = expected.get(reason, 0) + 1
        assert dropped(client) == expected
    app.close()
    assert batches_of(tmp_path / "log" / "simulations.log") == nightly + reprocess


def batches_of(log: Path) -> list[int]:
    """The batches that the lines of a worker's log name, in order."""
    lines = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines() if line.startswith("{")]
    return [line["batch"] for line in lines if "batch" in line]
