"""Alerts: one at a time of a key, however many raise it, and word of each beginning and end in the outbox."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import Engine
from sqlalchemy.orm import Session

from core.database import session_scope
from services.alerts import AlertView, active_alerts, clear_alert, raise_alert
from tests.support.nights import rows, scalar
from tests.support.polling import wait_until

NOW = datetime(2026, 11, 25, 0, 5, tzinfo=UTC)
LATER = NOW + timedelta(minutes=7)
WORD = "SELECT kind, key, payload FROM outbox ORDER BY id"


def raised(engine: Engine, key: str = "k", detail: str = "first", now: datetime = NOW) -> bool:
    with session_scope(engine) as session:
        return raise_alert(session, key, "closes_missing", detail, now=now)


def cleared(engine: Engine, key: str = "k", now: datetime = LATER) -> bool:
    with session_scope(engine) as session:
        return clear_alert(session, key, now=now)


def active(engine: Engine) -> list[AlertView]:
    with session_scope(engine) as session:
        return active_alerts(session)


def test_an_alert_is_raised_once_and_cleared_once_with_word_of_both(engine: Engine) -> None:
    assert raised(engine)
    assert not raised(engine, now=LATER)
    (alert,) = active(engine)
    assert (alert.key, alert.kind, alert.detail, alert.raised_at) == ("k", "closes_missing", "first", NOW)
    assert cleared(engine)
    assert not cleared(engine)
    assert active(engine) == []
    payload = {"alert": alert.id, "key": "k", "kind": "closes_missing", "detail": "first"}
    told = [(kind, key, dict(payload)) for kind, key, payload in rows(engine, WORD)]
    assert [datetime.fromisoformat(payload.pop("at")) for _, _, payload in told] == [NOW, LATER]
    assert told == [
        ("alert_raised", f"alert:{alert.id}:raised", payload),
        ("alert_cleared", f"alert:{alert.id}:cleared", payload),
    ]


def test_an_active_alert_takes_a_new_detail_without_new_word(engine: Engine) -> None:
    raised(engine)
    assert not raised(engine, detail="second", now=LATER)
    (alert,) = active(engine)
    assert (alert.detail, alert.raised_at) == ("second", NOW)
    assert scalar(engine, "SELECT count(*) FROM outbox") == 1


def test_the_same_detail_again_writes_nothing(engine: Engine) -> None:
    raised(engine)
    before = rows(engine, "SELECT ctid::text FROM alerts")
    raised(engine, now=LATER)
    assert rows(engine, "SELECT ctid::text FROM alerts") == before


def test_what_comes_back_after_it_was_cleared_is_a_new_alert(engine: Engine) -> None:
    raised(engine)
    cleared(engine)
    assert raised(engine, now=LATER)
    assert scalar(engine, "SELECT count(*) FROM alerts") == 2
    assert [kind for kind, _, _ in rows(engine, WORD)] == ["alert_raised", "alert_cleared", "alert_raised"]


def test_keys_do_not_touch_each_other(engine: Engine) -> None:
    raised(engine, "b")
    raised(engine, "a", now=LATER)
    assert [alert.key for alert in active(engine)] == ["b", "a"]
    assert cleared(engine, "b")
    assert [alert.key for alert in active(engine)] == ["a"]


def test_an_alert_and_its_word_share_the_callers_transaction(engine: Engine) -> None:
    with Session(engine) as session:
        raise_alert(session, "k", "closes_missing", "first", now=NOW)
        session.rollback()
    assert rows(engine, "SELECT (SELECT count(*) FROM alerts), (SELECT count(*) FROM outbox)") == [(0, 0)]


def test_a_password_in_a_detail_is_masked(engine: Engine) -> None:
    raised(engine, detail="no answer of postgresql://ns:hush@db/ns")
    assert "hush" not in active(engine)[0].detail
    assert scalar(engine, "SELECT count(*) FROM outbox WHERE payload::text LIKE '%hush%'") == 0


@pytest.mark.parametrize("end", ["commit", "rollback"])
def test_the_second_of_two_at_once_waits_for_the_first(engine: Engine, end: str) -> None:
    """It raises the alert only if the first did not."""
    results: list[bool] = []
    other = threading.Thread(target=lambda: results.append(raised(engine)))
    with Session(engine) as session:
        raise_alert(session, "k", "closes_missing", "first", now=NOW)
        other.start()
        waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%alerts%'"
        wait_until(lambda: scalar(engine, waiting) == 1, what="the second to wait")
        getattr(session, end)()
    other.join()
    assert results == [end == "rollback"]
    assert scalar(engine, "SELECT count(*) FROM alerts") == 1
    assert scalar(engine, "SELECT count(*) FROM outbox") == 1
