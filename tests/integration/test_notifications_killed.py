"""Workers of notifications that are killed between the sending and the mark: nothing is lost, and doubles are known."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import psutil
import pytest
from sqlalchemy import Engine

from core.clock import utc_now
from core.queues import Queue
from schedules.beat import DELIVER
from services.notifications import Notifier
from tests.integration.test_notifications import admins, failed_run
from tests.support.mail import Hook, postbox
from tests.support.nights import rows, settings
from tests.support.polling import wait_until
from workers.app import make_app
from workers.embedded import ServerUrls
from workers.stack import Stack

STATE = "SELECT attempts, cardinality(delivered), sent_at IS NOT NULL FROM outbox"


@pytest.mark.usefixtures("_plain_logs")
def test_a_mail_and_a_webhook_arrive_once_though_a_worker_was_killed_at_each(
    database: str, engine: Engine, redis_url: str, tmp_path: Path
) -> None:
    failed_run(engine)
    with Hook() as hook, postbox() as box:
        box.stalls = 1
        hook.answers.append("stall")
        chosen = settings(
            home=tmp_path, notify_urls=f"{admins(box)},{hook.url}", soft_time_limit=3, hard_time_limit=4
        )  # fmt: skip
        stack = Stack(chosen, ServerUrls(database, redis_url), workers=1, beat=False, flower=False, exporter=False)
        stack._make_children()
        worker = stack._children["notifications"]
        with make_app(chosen, redis_url) as app:

            def arrived(count: int) -> bool:
                app.send_task(DELIVER, queue=Queue.NOTIFICATIONS.value, expires=1)
                return count > 0

            try:
                worker.start()
                wait_until(lambda: arrived(box.stalled), seconds=90, what="the mail server's first mail")
                assert worker.pid is not None
                for process in psutil.Process(worker.pid).children():
                    process.kill()
                # The group has another process by now, and that one finds the message when the first counts as dead.
                wait_until(lambda: arrived(len(hook.calls)), seconds=90, what="the webhook's first call")
                assert len(box.mails) == 1
                worker.kill()
            finally:
                worker.kill()
                stack.stop()
        assert rows(engine, STATE) == [(2, 1, False)]
        assert hook.taken == []
        # Whoever works next, when the second counts as dead too.
        notifier = Notifier(engine, chosen, redis_url, lambda: utc_now() + timedelta(seconds=chosen.hard_time_limit))
        assert notifier.deliver().sent == 1
        assert notifier.deliver().sent == 0
        notifier.close()
    assert rows(engine, STATE) == [(3, 2, True)]
    assert len(box.mails) == 1, "the channel that had it is not asked again"
    assert len(hook.taken) == 1
    assert {key for _, mail in box.mails for key in (mail["X-Idempotency-Key"],)} == set(hook.keys())
    assert len(hook.calls) == 2, "whoever keeps what he did not answer for sees the same key again"
