"""A worker of notifications that is killed between the sending and the mark: nothing is lost, and doubles are known."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import Engine

from core.queues import Queue
from schedules.beat import DELIVER
from tests.integration.test_notifications import failed_run
from tests.support.mail import Hook, postbox
from tests.support.nights import scalar, settings
from tests.support.polling import wait_until
from workers.app import make_app
from workers.embedded import ServerUrls
from workers.stack import Stack


@pytest.mark.usefixtures("_plain_logs")
def test_what_a_killed_worker_had_sent_comes_again_with_the_same_key_and_the_rest_once(
    database: str, engine: Engine, redis_url: str, tmp_path: Path
) -> None:
    failed_run(engine)
    with Hook() as hook, postbox() as box:
        hook.answers.append("stall")
        mail = f"mailto://127.0.0.1:{box.port}?mode=insecure&from=ns@example.org&to=admin@example.org"
        # The webhook has the message and does not answer: there the worker is killed.
        chosen = settings(
            home=tmp_path, notify_urls=f"{mail},{hook.url.replace('rto=1', 'rto=60')}", soft_time_limit=3,
            hard_time_limit=4,
        )  # fmt: skip
        urls = ServerUrls(database, redis_url)
        stack = Stack(chosen, urls, workers=1, beat=False, flower=False, exporter=False)
        stack._make_children()
        worker = stack._children["notifications"]
        with make_app(chosen, redis_url) as app:
            try:
                worker.start()
                app.send_task(DELIVER, queue=Queue.NOTIFICATIONS.value)
                wait_until(lambda: hook.calls, what="the webhook's call")
                worker.kill()
                assert scalar(engine, "SELECT count(*) FROM outbox WHERE sent_at IS NULL") == 1
                worker.start()

                def sent() -> bool:
                    app.send_task(DELIVER, queue=Queue.NOTIFICATIONS.value, expires=1)
                    return bool(scalar(engine, "SELECT sent_at FROM outbox") is not None)

                wait_until(sent, seconds=60, what="the second worker's delivery")
            finally:
                worker.kill()
                stack.stop()
    assert len(hook.calls) == 2
    assert len(set(hook.keys())) == 1
    assert len(box.mails) == 1, "the channel that had it is not asked again"
    assert box.mails[0][1]["X-Idempotency-Key"] == hook.keys()[0]
