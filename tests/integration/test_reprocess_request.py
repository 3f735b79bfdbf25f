"""A request from another service, which knows names only: planned once and done, or dropped, or refused with a line."""

from __future__ import annotations

import json
import re
import runpy
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest
import redis
from celery import Celery
from pydantic import ValidationError
from sqlalchemy import Engine

from services.queue_state import dropped
from services.requests import serve_request
from tasks.messages import REQUEST, RequestArguments
from tests.support.corrections import contents
from tests.support.nights import ROOT, Night, change, rows, scalar, settings
from tests.support.polling import wait_until
from tests.support.workers import quick
from workers.embedded import ServerUrls
from workers.stack import Stack

LAST = date(2022, 12, 8)
PAGE = (ROOT / "docs" / "reprocessing.md").read_text(encoding="utf-8")
ASKED: dict[str, Any] = {"users": [19], "from": "2022-12-05", "reason": "a test", "requested_by": "a service"}
STATUS = "SELECT status FROM runs WHERE request_key = :key"


def test_the_documented_example_of_a_foreign_service(
    fresh: Engine, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Night(fresh, settings(300)).run(LAST)
    before = contents(fresh)
    change(fresh, "UPDATE portfolio_days SET equity = equity + 1 WHERE user_id IN (19, 20) AND day >= '2022-12-05'")
    monkeypatch.setenv("NIGHTSHIFT_REDIS_URL", redis_url)
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    url = fresh.url.set(drivername="postgresql").render_as_string(hide_password=False)
    chosen = quick(tmp_path, 300)
    with (
        Stack(chosen, ServerUrls(url, redis_url), workers=1, beat=False, flower=False, exporter=False),
        redis.Redis.from_url(redis_url) as client,
    ):
        example = tmp_path / "foreign_service.py"
        example.write_text(code, encoding="utf-8")
        runpy.run_path(str(example))
        foreign: Celery = runpy.run_path(str(example))["app"]

        def send(**changes: Any) -> None:
            foreign.send_task(REQUEST, kwargs=ASKED | changes, queue="control")

        send(users=["19"])
        send(surprise=1)
        foreign.send_task(REQUEST, args=[1], kwargs=ASKED, queue="control")
        send(users=[999_999], key="refused")
        send(symbols=["NO\nSUCH"], key="refused too")
        send(simulations=[], strategy="luck", key="refused as well")
        send(key="the last")
        done = "SELECT count(*) FROM runs WHERE kind = 'reprocess' AND status = 'done'"
        wait_until(lambda: scalar(fresh, done) == 2, seconds=60, what="two runs that are done")
        assert dropped(client) == {"arguments": 3}
    assert contents(fresh) == before
    made = "SELECT request_key, requested_by, reason, users FROM runs WHERE kind = 'reprocess' ORDER BY id"
    assert rows(fresh, made) == [
        ("ticket-4711", "support desk", "ticket 4711", 2),
        ("the last", "a service", "a test", 1),
    ]
    log = (tmp_path / "log" / "control.log").read_text(encoding="utf-8")
    said = [json.loads(line) for line in log.splitlines() if '"request refused"' in line]
    # Two processes answer, in any order.
    errors = {line["key"]: line["error"] for line in said}
    assert len(said) == len(errors) == 3
    assert errors["refused"] == "there is no user 999999"
    assert errors["refused too"] == "--symbol is not printable: 'NO\\nSUCH'"
    assert "unknown strategy 'luck'" in errors["refused as well"]


@pytest.mark.parametrize(
    "changes",
    [
        {"users": ["1"]}, {"users": [True]}, {"users": [0]}, {"users": [2**63]}, {"users": 3}, {"users": [1] * 1001},
        {"from": 20221205}, {"from": "2022-13-01"}, {"from": "20221205"}, {"first_day": "2022-12-05"},
        {"only": "some"}, {"reason": ""}, {"reason": None}, {"requested_by": "x" * 201}, {"key": "k" * 101},
        {"quarantined": 1}, {"symbols": [""]}, {"symbols": "XOM"}, {"through": "2022-12-06"}, {"run": -1},
    ],
)  # fmt: skip
def test_what_does_not_fit_stays_outside(changes: dict[str, Any]) -> None:
    assert RequestArguments.model_validate(ASKED).request().first_day == date(2022, 12, 5)
    with pytest.raises(ValidationError):
        RequestArguments.model_validate(ASKED | changes)


def test_a_request_is_published_at_once_and_planned_once(fresh: Engine) -> None:
    night = Night(fresh, settings(300))
    night.run(LAST)
    asked = RequestArguments.model_validate(ASKED | {"key": "once"}).request()
    first, again = (
        serve_request(fresh, night.queue, asked, now=night.now + timedelta(seconds=number), settings=night.settings)
        for number in range(2)
    )
    assert first is not None
    assert again is not None
    assert (first.run, first.repeated, again.run, again.repeated) == (first.run, False, first.run, True)
    assert len(night.queue.messages) == 1
    night.drain()
    assert scalar(fresh, STATUS, key="once") == "done"
    refused = RequestArguments.model_validate(ASKED | {"key": "once", "from": "2022-12-06"}).request()
    assert serve_request(fresh, night.queue, refused, now=night.now, settings=night.settings) is None
    assert scalar(fresh, "SELECT count(*) FROM runs WHERE kind = 'reprocess'") == 1
