"""Errors reported to Sentry, as its server receives them from a real worker: what is there, and what never is."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import redis

from core.errors import UsageError
from tests.support.nights import ROOT, settings
from tests.support.polling import wait_until
from tests.support.receiver import Receiver, receiver
from tests.support.troubled import BATCH_USERS, CANARY, settled, troubled_world
from tests.support.workers import System, gone, quick
from workers import extras
from workers.embedded import ServerUrls
from workers.extras import require_extras

PROJECT = "/api/7/envelope/"


def events(received: Receiver) -> list[dict[str, Any]]:
    """The events of all envelopes: a header, and then for each item a header and a body, a line each."""
    found = []
    for body in received.bodies(PROJECT):
        parts = body.splitlines()[1:]
        found += [json.loads(parts[at + 1]) for at in range(0, len(parts) - 1, 2) if b'"event"' in parts[at]]
    return found


@pytest.fixture(scope="module")
def reported(servers: ServerUrls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Receiver]:
    """What came in of a night with trouble, and of a task that broke; its worker has ended."""
    with redis.Redis.from_url(servers.redis_url) as client:
        client.flushdb()
    with receiver() as received, troubled_world(servers, "sentry_world") as (engine, url):
        dsn = received.url.replace("http://", "http://public:hidden@") + "/7"
        chosen = quick(tmp_path_factory.mktemp("home"), BATCH_USERS, overdue_seconds=60, sentry_dsn=dsn)
        system = System(engine, ServerUrls(url, servers.redis_url), chosen)
        with system.worker() as worker:
            system.plan()
            wait_until(lambda: system.tick() and "no space left" in worker.log.read_text("utf-8"), seconds=60)
            wait_until(lambda: system.tick() and worker.log.read_text("utf-8").count('"batch done"') == 2, seconds=60)
            settled(engine)
            worker.terminate()
            gone(worker, 30)
        yield received


def test_each_error_is_reported_once_with_its_batch(reported: Receiver) -> None:
    found = {event["exception"]["values"][-1]["type"]: event for event in events(reported)}
    assert len(events(reported)) == 2
    assert set(found) == {"InsufficientPrivilege", "DiskFull"}
    failed = found["InsufficientPrivilege"]
    assert failed["message"] == "batch attempt failed"
    assert failed["level"] == "error"
    assert {"run", "batch", "attempt", "worker", "logger", "task"} <= set(failed["tags"])
    assert failed["tags"]["task"] == "simulations.advance_batch"
    assert failed["exception"]["values"][-1]["stacktrace"]["frames"]


def test_no_secret_no_user_and_no_variable_leaves(reported: Receiver) -> None:
    everything = b"\n".join(body for _, body in reported.posts).decode()
    assert "permission denied for postgresql://nightshift:********@db/n" in everything
    for canary in (CANARY, "Mustermann", "4711", "hidden", '"vars"', '"user"', '"request"', '"breadcrumbs"', "kwargs"):
        assert canary not in everything


def test_without_a_dsn_the_library_is_not_imported() -> None:
    code = "import sys, workers.app, workers.process; print('sentry_sdk' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert result.stdout == "False\n"


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"sentry_dsn": "http://public@127.0.0.1:1/7"}, r"SENTRY_DSN is set.*pip install 'nightshift\[sentry\]'"),
        ({"otlp_endpoint": "http://127.0.0.1:1"}, r"OTLP_ENDPOINT is set.*pip install 'nightshift\[tracing\]'"),
    ],
)
def test_a_missing_library_is_one_line_at_the_start(
    changes: dict[str, object], line: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    require_extras(settings(**changes))  # type: ignore[arg-type]
    monkeypatch.setattr(extras, "find_spec", lambda _module: None)
    require_extras(settings())
    with pytest.raises(UsageError, match=line) as caught:
        require_extras(settings(**changes))  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
