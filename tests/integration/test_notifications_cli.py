"""`nightshift notifications`, and who serves the queue."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy import Engine

from schedules.beat import schedules
from tests.support.cli import Shell
from tests.support.mail import Hook, postbox
from tests.support.nights import change, scalar, settings
from workers.embedded import ServerUrls
from workers.stack import Stack

GIVEN_UP = "INSERT INTO outbox (kind, key, payload, attempts, error, given_up_at) VALUES"


@pytest.fixture
def shell(
    database: str, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Shell:
    """Command lines on the servers of this test."""
    monkeypatch.setenv("NIGHTSHIFT_DATABASE_URL", database)
    monkeypatch.setenv("NIGHTSHIFT_REDIS_URL", redis_url)
    monkeypatch.setenv("NIGHTSHIFT_HOME", str(tmp_path))
    return Shell(capsys)


def test_what_is_given_up_is_listed_and_tried_again(engine: Engine, shell: Shell) -> None:
    change(engine, GIVEN_UP + " ('day_missed', 'a', '{}', 12, '[red]it answered 500', now())")
    change(engine, "INSERT INTO outbox (kind, key, payload, sent_at) VALUES ('day_missed', 'b', '{}', now())")
    assert [view["state"] for view in shell("notifications", "list", "--json").json] == ["given up"]
    assert [view["key"] for view in shell("notifications", "list", "--all", "--json").json] == ["b", "a"]
    assert "[red]it answered 500" in shell("notifications", "list", "--given-up").out
    assert shell("notifications", "retry", "2").code == 2
    assert shell("notifications", "retry", "--json").json == {"retried": 1}
    assert shell("notifications", "list", "--given-up").err == "nothing to show\n"
    assert scalar(engine, "SELECT attempts FROM outbox WHERE key = 'a'") == 0


def test_channels_are_tried(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    none = shell("notifications", "test")
    assert (none.code, none.line) == (2, "there is no channel: set NIGHTSHIFT_NOTIFY_URLS, or give --mail an address")
    with Hook() as hook, postbox() as box:
        monkeypatch.setenv("NIGHTSHIFT_NOTIFY_URLS", hook.url)
        monkeypatch.setenv("NIGHTSHIFT_SMTP_HOST", "127.0.0.1")
        monkeypatch.setenv("NIGHTSHIFT_SMTP_PORT", str(box.port))
        monkeypatch.setenv("NIGHTSHIFT_SMTP_TLS", "none")
        monkeypatch.setenv("NIGHTSHIFT_SMTP_FROM", "nightshift@example.org")
        fine = shell("notifications", "test", "--mail", "me@example.org", "--json")
        assert fine.json == [{"channel": "json (channel 1)", "error": None}, {"channel": "mail", "error": None}]
        hook.answers.append("500")
        bad = shell("notifications", "test", "--json")
        assert (bad.code, bad.json) == (
            1,
            [{"channel": "json (channel 1)", "error": "json (channel 1): it answered 500"}],
        )
    assert len(box.to("me@example.org")) == 1


def test_notifications_have_workers_of_their_own_where_there_are_channels(tmp_path: Path) -> None:
    urls = ServerUrls("postgresql://127.0.0.1/x", "redis://127.0.0.1")
    for channels, alone in ((None, False), ("json://127.0.0.1", True)):
        chosen = settings(home=tmp_path, notify_urls=channels)
        stack = Stack(chosen, urls, workers=1, beat=False, flower=False, exporter=False)
        stack._make_children()
        assert ("notifications" in stack._children) == alone
        assert ("notifications" in " ".join(stack._children["control"].module_arguments)) != alone
        assert ("notifications" in {schedule.name for schedule in schedules(chosen)}) == alone
        stack.stop()
