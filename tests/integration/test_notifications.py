"""What lies in the outbox reaches administrators, whatever the channels do."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Engine

from core.database import session_scope
from core.errors import UsageError
from services.alerts import clear_alert, raise_alert
from services.notifications import Notifier, retry_delay
from services.notify_channels import channels
from services.notify_outbox import list_outbox, retry
from tests.support.mail import Hook, Postbox, postbox
from tests.support.nights import NOW, change, rows, scalar, settings
from tests.support.outbox import emptied, outbox_database
from workers.embedded import ServerUrls

EVIL = "<script>alert('x')</script> & \"quoted\"\r\nBcc: everybody@example.org"
SHOWN = "<script>alert('x')</script> & \"quoted\" Bcc: everybody@example.org"
ENCODED = "=?utf-8?q?hidden=0D=0ABcc:_everybody=40example.org?="
OUTBOX = "SELECT state FROM (SELECT CASE WHEN sent_at IS NOT NULL THEN 'sent' WHEN given_up_at IS NOT NULL"
STATES = OUTBOX + " THEN 'given up' ELSE 'open' END AS state, id FROM outbox) AS o ORDER BY id"
Make = Callable[..., Notifier]


@pytest.fixture(scope="module")
def world(servers: ServerUrls) -> Iterator[Engine]:
    """One database for all tests here."""
    with outbox_database(servers.database_url, "outbox_admins") as engine:
        yield engine


@pytest.fixture
def engine(world: Engine) -> Engine:
    """It, empty."""
    return emptied(world)


@pytest.fixture
def clock() -> list[Any]:
    """The moment, as its only item."""
    return [NOW]


@pytest.fixture
def make(engine: Engine, redis_url: str, clock: list[Any]) -> Iterator[Make]:
    """Makes a notifier with changes of the settings."""
    made: list[Notifier] = []

    def notifier(**changes: Any) -> Notifier:
        made.append(Notifier(engine, settings(**changes), redis_url, lambda: clock[0]))
        return made[-1]

    yield notifier
    for each in made:
        each.close()


def failed_run(engine: Engine) -> int:
    """A run that failed, with word of it in the outbox, and texts that try to be more."""
    change(
        engine,
        "INSERT INTO runs (kind, first_day, day, status, scope, reason, requested_by, batch_users, users, error)"
        " VALUES ('nightly', '2022-12-28', '2022-12-28', 'failed', '{}', :evil, 'me', 10, 10, :evil)",
        evil=EVIL,
    )
    run: int = scalar(engine, "SELECT max(id) FROM runs")
    change(
        engine,
        "INSERT INTO quarantine (user_id, simulation_id, day, reason, detail, run_id)"
        " VALUES (7, 8, '2022-12-28', 'close_missing', :evil, :run)",
        evil=EVIL,
        run=run,
    )
    change(
        engine,
        "INSERT INTO outbox (kind, key, payload) VALUES ('run_finished', 'run:' || :run, jsonb_build_object("
        " 'run', CAST(:run AS bigint), 'day', '2022-12-28', 'status', 'failed', 'quarantined', 1))",
        run=run,
    )
    return run


def admins(box: Postbox, form: str = "html") -> str:
    """The URL of a mail to administrators."""
    return f"mailto://127.0.0.1:{box.port}?mode=insecure&from=ns@example.org&to=admin@example.org&format={form}&cto=60"


def test_a_failed_night_arrives_at_each_channel_once_and_what_it_quotes_is_text(engine: Engine, make: Make) -> None:
    run = failed_run(engine)
    with Hook() as hook, postbox() as box:
        notifier = make(notify_urls=f"{hook.url}, {admins(box)}, {admins(box, 'text')}")
        assert notifier.deliver().sent == 1
        assert notifier.deliver().sent == 0
    (call,) = hook.taken
    assert call.body["title"] == f"Nightshift: run {run} of 2022-12-28: failed, 1 quarantined"
    assert "close_missing" in call.body["message"]
    assert call.body["message"].count(SHOWN) == 3, "the error, the reason, and that of the quarantine"
    assert len(box.mails) == 2
    for recipients, mail in box.mails:
        assert recipients == ["admin@example.org"]
        assert mail["X-Idempotency-Key"] == call.key
        assert "Bcc" not in mail
        assert mail["Subject"] == call.body["title"]
        text = mail.get_body(("plain",))
        assert text is not None
        assert SHOWN in text.get_content()
    html = box.mails[0][1].get_body(("html",))
    assert html is not None
    assert "<script" not in html.get_content()
    assert html.get_content().count("&lt;script&gt;") == 3
    assert rows(engine, "SELECT cardinality(delivered), attempts, error FROM outbox") == [(3, 1, None)]


def test_no_text_becomes_a_header(engine: Engine, make: Make) -> None:
    with session_scope(engine) as session:
        raise_alert(session, f"closes {EVIL}", "closes_missing", f"{EVIL} {ENCODED}", now=NOW)
    with Hook() as hook, postbox() as box:
        assert make(notify_urls=f"{hook.url},{admins(box)}").deliver().sent == 1
    ((recipients, mail),) = box.mails
    assert recipients == ["admin@example.org"]
    assert "Bcc" not in mail
    title = hook.taken[0].body["title"]
    assert mail["Subject"] == title == f"Nightshift: closes_missing: {SHOWN} {ENCODED.replace('=?', '= ?')}"
    html = mail.get_body(("html",))
    assert html is not None
    assert "<script" not in html.get_content()


def test_a_channel_that_fails_stalls_and_drops_is_tried_again_and_the_other_not_repeated(
    engine: Engine, make: Make, clock: list[Any]
) -> None:
    failed_run(engine)
    with Hook() as hook, Hook() as sound:
        hook.answers.extend(["500", "stall", "drop"])
        notifier = make(notify_urls=f"{hook.impatient_url},{sound.url}", notify_retry_seconds=60)
        for attempt in range(1, 4):
            assert notifier.deliver().failed == 1
            assert notifier.deliver().failed == 0, "not before its time"
            error, wait = rows(engine, "SELECT error, not_before FROM outbox")[0]
            assert error == f"json (channel 1): it {'answered 500' if attempt == 1 else 'did not answer, or refused'}"
            least = timedelta(seconds=60 * 2 ** (attempt - 1))
            assert least <= wait - clock[0] <= 1.2 * least
            clock[0] = wait
        assert notifier.deliver().sent == 1
        assert notifier.deliver().sent == 0
        assert len(set(hook.keys())) == 1
        assert (len(hook.calls), len(sound.calls)) == (4, 1)
        assert hook.keys()[0] == sound.keys()[0]


def test_what_nobody_takes_is_given_up_shown_and_sent_when_told_to(
    engine: Engine, make: Make, clock: list[Any]
) -> None:
    failed_run(engine)
    with Hook() as hook:
        hook.answers.extend(["500"] * 3)
        notifier = make(notify_urls=hook.url, notify_attempts=3)
        for _ in range(5):
            notifier.deliver()
            clock[0] += timedelta(hours=2)
        with session_scope(engine) as session:
            (view,) = list_outbox(session, given_up=True, limit=10)
            assert (view.state, view.attempts, view.error) == ("given up", 3, "json (channel 1): it answered 500")
            assert retry(session, None) == 1
        assert notifier.deliver().sent == 1
        assert len(hook.calls) == 4
        with session_scope(engine) as session, pytest.raises(UsageError, match=f"no unsent notification {view.id}:"):
            retry(session, [view.id])


def test_a_channel_that_is_down_is_asked_once_in_a_pass_and_nothing_counts_as_tried(
    engine: Engine, make: Make, clock: list[Any]
) -> None:
    with session_scope(engine) as session:
        for number in range(20):
            raise_alert(session, f"key-{number:02}", "closes_missing", EVIL, now=NOW)
    with Hook() as hook, Hook() as sound:
        hook.answers.append("500")
        notifier = make(notify_urls=f"{hook.url},{sound.url}", notify_attempts=1)
        assert notifier.deliver().given_up == 1
        assert (len(hook.calls), len(sound.calls)) == (1, 20)
        clock[0] += timedelta(hours=1)
        assert notifier.deliver().sent == 19
        assert (len(hook.calls), len(sound.calls)) == (20, 20)
    assert rows(engine, STATES) == [("given up",)] + [("sent",)] * 19


def test_alerts_and_missed_days_are_told(engine: Engine, make: Make) -> None:
    with session_scope(engine) as session:
        raise_alert(session, "closes", "closes_missing", EVIL, now=NOW)
        clear_alert(session, "closes", now=NOW)
    change(
        engine,
        "INSERT INTO outbox (kind, key, payload) VALUES"
        """ ('day_missed', 'd', '{"run": 1, "day": "2022-12-01", "catch_up_days": 14}'), ('strange', 's', '{}'),"""
        """ ('day_missed', 'm', '{"first_day": "2022-11-01", "day": "2022-11-08", "days": 8, "catch_up_days": 14}'),"""
        """ ('day_missed', 'broken', '{}')""",
    )
    with Hook() as hook:
        assert make(notify_urls=hook.url).deliver().sent == 4
    titles = [call.body["title"] for call in hook.calls]
    assert titles[0].startswith("Nightshift: closes_missing: <script>")
    assert titles[1].startswith("Nightshift: over: closes_missing: <script>")
    assert titles[2:] == [
        "Nightshift: the night of 2022-12-01 was missed",
        "Nightshift: 8 nights were missed, 2022-11-01 to 2022-11-08",
    ]
    assert rows(engine, "SELECT error FROM outbox WHERE key = 'broken'") == [("it cannot be made: UndefinedError",)]
    assert rows(engine, "SELECT attempts, sent_at FROM outbox WHERE kind = 'strange'") == [(0, None)]


def test_a_first_channel_does_not_get_last_months_news(engine: Engine, make: Make) -> None:
    failed_run(engine)
    change(engine, "UPDATE outbox SET created_at = now() - interval '4 days'")
    with Hook() as hook:
        assert make(notify_urls=hook.url).deliver().given_up == 1
        assert hook.calls == []


def test_the_limit_over_all_leaves_the_rest_for_later(engine: Engine, make: Make, clock: list[Any]) -> None:
    with session_scope(engine) as session:
        for number in range(5):
            raise_alert(session, f"key-{number}", "closes_missing", "none came", now=NOW)
    with Hook() as hook:
        notifier = make(notify_urls=hook.url, notify_limit="3/hour")
        first = notifier.deliver()
        assert (first.sent, first.limited) == (3, 1)
        clock[0] += timedelta(minutes=1)
        assert notifier.deliver().sent == 0
        assert len(hook.calls) == 3
    assert rows(engine, "SELECT attempts FROM outbox WHERE sent_at IS NULL") == [(0,), (0,)]


def test_no_url_is_shown_or_logged(engine: Engine, make: Make, caplog: pytest.LogCaptureFixture) -> None:
    failed_run(engine)
    caplog.set_level("DEBUG")
    with pytest.raises(UsageError, match=r"^NIGHTSHIFT_NOTIFY_URLS: number 2 is not a URL that Apprise knows$"):
        channels(settings(notify_urls="json://127.0.0.1/canary-path,nonsense://canary-path"))
    with Hook() as hook:
        hook.answers.append("500")
        notifier = make(notify_urls=hook.url.replace("json://", "json://user:canary-password@"))
        notifier.deliver()
        assert "canary" not in repr(channels(notifier._settings))
    assert caplog.text
    assert "canary" not in caplog.text
    assert "canary" not in str(rows(engine, "SELECT * FROM outbox"))


def test_waits_double_and_end_at_an_hour() -> None:
    assert [retry_delay(attempt, 30, 0).total_seconds() for attempt in (1, 2, 3, 8, 60)] == [30, 60, 120, 3600, 3600]
    assert retry_delay(1, 30, 1) == timedelta(seconds=36)
