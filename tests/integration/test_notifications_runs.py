"""Administrators hear of runs that failed, left somebody out, recovered or were late, once each; of others nothing."""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta
from typing import Any

import pytest
from sqlalchemy import Engine

from core.database import session_scope
from services.notifications import Notifier
from services.reconciler import reconcile
from services.reprocessing import request
from services.scopes import ReprocessScope
from tests.support.mail import Hook
from tests.support.nights import FIRST_NIGHT, Night, change, rows, settings

MINUTE = timedelta(minutes=1)
DAYS = [FIRST_NIGHT + timedelta(days=number) for number in range(4)]
WORD = "SELECT payload - 'run' - 'day' FROM outbox WHERE payload ->> 'day' = :day"
NOTHING = {"status": "done", "quarantined": 0, "retries": 0, "splits": 0, "put_back": 0}


def due(number: int) -> datetime:
    """When the night of a day falls due: by its deadline it must have ended half an hour later."""
    return datetime.combine(DAYS[number] + timedelta(days=1), time(0, 1), UTC)


def planned(night: Night, number: int, now: datetime) -> None:
    """Plan and publish the night of a day at this moment."""
    night.now = now
    night.plan(DAYS[number])
    night.publish()


def told(night: Night, number: int) -> list[dict[str, Any]]:
    """What the outbox says of the night of a day."""
    return [payload for (payload,) in rows(night.engine, WORD, day=str(DAYS[number]))]


def lose_messages(night: Night) -> int:
    """Lose all, and have the reconciler find the batches; how many."""
    count = len(night.queue.messages)
    night.queue.messages.clear()
    night.now += timedelta(seconds=night.settings.overdue_seconds + 1)
    assert reconcile(night.engine, now=night.now, settings=night.settings).lost == count
    assert night.publish() == count
    return count


def lose_a_worker(night: Night) -> None:
    """A batch is running and nobody holds its lease, as a killed process leaves it."""
    batch = night.queue.messages.pop(0).batch_id
    lost = "UPDATE batches SET status = 'running', attempts = attempts + 1, started_at = :now WHERE id = :id"
    change(night.engine, lost, id=batch, now=night.now)
    night.now += timedelta(seconds=3)
    assert reconcile(night.engine, now=night.now, settings=night.settings).abandoned == 1
    assert night.publish() == 1


@pytest.fixture
def night(fresh: Engine) -> Night:
    """Three batches a night, on the first of which nights were promised."""
    night = Night(fresh, settings(400))
    planned(night, 0, due(0))
    night.drain()
    return night


def test_one_word_of_a_night_whatever_is_true_of_it(night: Night, redis_url: str) -> None:
    assert told(night, 0) == [], "of a quiet one nobody hears"
    planned(night, 1, due(1))
    assert lose_messages(night) == 3
    lose_a_worker(night)
    night.drain()
    assert told(night, 1) == [NOTHING | {"retries": 1, "put_back": 3}]

    planned(night, 2, due(2))
    night.now += 30 * MINUTE + timedelta(seconds=1)
    night.drain()
    assert told(night, 2) == [NOTHING | {"late_minutes": 1}]

    planned(night, 3, due(3) + 71 * MINUTE)
    change(night.engine, f"ALTER TABLE portfolio_days_{DAYS[3]:%Y%m%d} ADD CONSTRAINT no CHECK (user_id <> 700)")
    night.drain()
    (word,) = told(night, 3)
    assert word.pop("splits") > 1
    assert word | {"splits": 0} == NOTHING | {"quarantined": 1, "late_minutes": 41}
    with Hook() as hook:
        notifier = Notifier(night.engine, settings(notify_urls=hook.url), redis_url, lambda: night.now)
        assert notifier.deliver().sent == 3
        notifier.close()
    titles = [call.body["title"].partition(": ")[2].partition(": ")[2] for call in hook.taken]
    assert titles == ["done, recovered", "done, 1 min late", "done, 1 quarantined, recovered, 41 min late"]
    texts = [call.body["message"] for call in hook.taken]
    assert "It recovered by itself (attempts in vain: 1, batches put back: 3)." in texts[0]
    assert "It was late: it ended 41 min after its deadline" in texts[2]
    assert "user 700" in texts[2]


def test_a_night_that_failed_or_was_cancelled_says_what_else_is_true(night: Night) -> None:
    planned(night, 1, due(1) + 60 * MINUTE)
    change(night.engine, "ALTER TABLE trades_202211 RENAME TO gone")
    night.drain()
    assert told(night, 1) == [NOTHING | {"status": "failed", "late_minutes": 30}]


def test_ad_hoc_work_that_gave_way_or_came_late_is_no_news(night: Night) -> None:
    night.now = due(0) + 60 * MINUTE
    with session_scope(night.engine) as session:
        made = request(
            session, ReprocessScope(everything=True), first_day=DAYS[0], reason="test", requested_by="test",
            now=night.now, settings=night.settings,
        )  # fmt: skip
    assert made.run is not None
    night.publish()
    assert lose_messages(night) >= 1
    night.drain()
    assert rows(night.engine, "SELECT status FROM runs WHERE id = :run", run=made.run) == [("done",)]
    assert rows(night.engine, "SELECT payload FROM outbox") == []


def test_a_night_before_the_first_one_was_planned_was_not_promised(fresh: Engine) -> None:
    night = Night(fresh, settings(5000))
    planned(night, 0, due(0) + timedelta(days=3))
    night.drain()
    assert rows(fresh, "SELECT status FROM runs") == [("done",)]
    assert told(night, 0) == []
