"""Mails to users: what they say, who gets them, and how they end."""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterator
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import trustme
from pydantic import ValidationError
from sqlalchemy import Engine

from core.database import make_engine, session_scope
from core.errors import UsageError
from core.settings import Settings
from services.notifications import Notifier, unsubscribe
from services.notify_digests import plan_digests
from tests.support.mail import PASSWORD, Postbox, postbox
from tests.support.nights import FIRST_NIGHT, NOW, Night, change, rows, sample_world, scalar, settings
from tests.support.outbox import emptied, outbox_database
from workers.embedded import ServerUrls

EVIL = '<b onclick="x()">Eve</b>'
MOST: dict[str, Any] = {
    "smtp_host": "127.0.0.1", "smtp_from": "nightshift@example.org", "smtp_tls": "none",
    "public_url": "https://nightshift.example.org/", "notify_secret": "canary-secret",
}  # fmt: skip
LAST = FIRST_NIGHT + timedelta(days=3)
DAY = "CREATE TABLE day_28 PARTITION OF portfolio_days FOR VALUES FROM ('2022-12-28') TO ('2022-12-29')"
NIGHT = "INSERT INTO runs (kind, first_day, day, status, scope, requested_by, batch_users)"


@pytest.fixture(scope="module")
def world(servers: ServerUrls) -> Iterator[Engine]:
    """One database for most tests here."""
    with outbox_database(servers.database_url, "outbox_users") as engine:
        change(
            engine, "CREATE TABLE day_28 PARTITION OF portfolio_days FOR VALUES FROM ('2022-12-28') TO ('2022-12-29')"
        )
        yield engine


@pytest.fixture
def engine(world: Engine) -> Engine:
    """It, empty."""
    return emptied(world)


@pytest.fixture
def own(database: str) -> Iterator[Engine]:
    """A database that only one test has."""
    engine = make_engine(database, application="nightshift-test")
    yield engine
    engine.dispose()


@pytest.fixture
def box() -> Iterator[Postbox]:
    """A mail server."""
    with postbox() as found:
        yield found


def of(box: Postbox, **changes: Any) -> Settings:
    """Settings with this server."""
    return settings(**MOST | {"smtp_port": box.port} | changes)


def deliver(engine: Engine, redis_url: str, chosen: Settings, *, minutes: int = 0) -> Any:
    """One pass, so many minutes later, however slow the machine is."""
    notifier = Notifier(engine, chosen, redis_url, lambda: NOW + timedelta(minutes=minutes))
    try:
        return notifier.deliver(seconds=300)
    finally:
        notifier.close()


def users(engine: Engine, count: int, *, notify: bool = True) -> None:
    """Users 1 to `count` with an address and a simulation, and a nightly run that is done."""
    change(
        engine,
        "INSERT INTO users (name, email, notify) SELECT 'User ' || n, 'user-' || n || '@example.org', :notify"
        " FROM generate_series(1, :count) AS n",
        count=count,
        notify=notify,
    )
    change(
        engine,
        "INSERT INTO simulations (user_id, strategy, start_day, initial_cash, params, asset_ids, weights_ppm)"
        " SELECT id, 0, '2022-12-01', 100, '{}', '{}', '{}' FROM users",
    )
    change(engine, NIGHT + " VALUES ('nightly', '2022-12-28', '2022-12-28', 'done', '{}', 'test', 10)")


def told_of(engine: Engine) -> None:
    """The day of which digests tell."""
    change(
        engine,
        "INSERT INTO portfolio_days SELECT '2022-12-28', 1, user_id, id, 0, 110, 110, 0, 0, 0, '{}', '{}', '{}', '{}'"
        " FROM simulations",
    )


def plan(engine: Engine, chosen: Settings, run: int | None = None) -> int:
    """Plan the digests of a run, or of the newest."""
    with session_scope(engine) as session:
        return plan_digests(session, run or scalar(engine, "SELECT max(id) FROM runs"), settings=chosen)


def test_a_digest_says_what_the_tables_say_and_ends_by_its_link(
    own: Engine, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = own
    sample_world(engine, 30)
    Night(engine, settings()).run(LAST, each=True)
    user = scalar(engine, "SELECT user_id FROM simulations WHERE start_day < :day GROUP BY 1 LIMIT 1", day=LAST)
    change(
        engine, "UPDATE users SET notify = true, name = :name, email = 'eve@example.org' WHERE id = :id",
        name=EVIL, id=user,
    )  # fmt: skip
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    with postbox(context) as box:
        chosen = of(box, smtp_tls="starttls", smtp_user="nightshift", smtp_password=PASSWORD)
        early = scalar(engine, "SELECT id FROM runs WHERE day = :day", day=FIRST_NIGHT)
        assert plan(engine, chosen, early) == 0, "of nights that are caught up with, the last one is told"
        assert plan(engine, chosen) == 1
        assert plan(engine, chosen) == 0
        assert deliver(engine, redis_url, chosen).sent == 1
        assert deliver(engine, redis_url, chosen).sent == 0
    (mail,) = box.to("eve@example.org")
    body, html = mail.get_body(("plain",)), mail.get_body(("html",))
    assert body is not None
    assert html is not None
    equity = "SELECT sum(equity) * 0.00000001 FROM portfolio_days WHERE user_id = :user AND day = :day"
    today: Decimal = scalar(engine, equity, user=user, day=LAST)
    before: Decimal = scalar(engine, equity, user=user, day=LAST - timedelta(days=1))
    for part in (body.get_content(), html.get_content()):
        assert f"{today:,.2f}" in part
        assert f"{today - before:+,.2f} ({(today - before) / before:+.2%})" in part
    assert EVIL in body.get_content()
    assert "<b onclick" not in html.get_content()
    assert "&lt;b onclick=" in html.get_content()
    (picture,) = [part for part in mail.walk() if part.get_content_type() == "image/png"]
    assert picture["Content-ID"] == "<picture>"
    assert picture.get_content().startswith(b"\x89PNG")
    assert mail["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"
    link = re.fullmatch(r"<https://nightshift\.example\.org/unsubscribe\?token=(.+)>", mail["List-Unsubscribe"])
    assert link
    with session_scope(engine) as session:
        for damaged in (link[1] + "A", f"{user + 1}{link[1][link[1].index('-') :]}", "", "1-é"):
            with pytest.raises(UsageError, match="damaged, or not ours"):
                unsubscribe(session, damaged, settings=chosen)
    assert scalar(engine, "SELECT notify FROM users WHERE id = :id", id=user)
    with session_scope(engine) as session:
        assert unsubscribe(session, link[1], settings=chosen) == user
    assert not scalar(engine, "SELECT notify FROM users WHERE id = :id", id=user)


def test_a_wrong_certificate_and_a_wrong_password_get_nothing_through(
    engine: Engine, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    welcome(engine, "user@example.org")
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    with postbox(context) as box:
        chosen = of(box, smtp_tls="starttls", smtp_user="nightshift", smtp_password="canary-wrong")  # noqa: S106
        assert deliver(engine, redis_url, chosen).failed == 1
        assert "CERTIFICATE_VERIFY_FAILED" in scalar(engine, "SELECT error FROM outbox")
        authority.cert_pem.write_to_path(tmp_path / "ca.pem")
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
        assert deliver(engine, redis_url, chosen, minutes=5).failed == 1
        assert scalar(engine, "SELECT error FROM outbox") == "the mail server refused the login (535)"
    assert box.mails == []


def welcome(engine: Engine, address: str, name: str = EVIL) -> None:
    """A user with this address, to be welcomed."""
    change(engine, "INSERT INTO users (name, email) VALUES (:name, :email)", name=name, email=address)
    change(
        engine,
        "INSERT INTO outbox (kind, key, payload)"
        " SELECT 'welcome', 'welcome:' || max(id), jsonb_build_object('user', max(id)) FROM users",
    )


def test_an_address_that_is_refused_or_malformed_is_given_up_at_once(
    engine: Engine, redis_url: str, box: Postbox
) -> None:
    box.refuse = {"gone@example.org": "550 gone@example.org is unknown", "full@example.org": "452 mailbox full"}
    for address in ("gone@example.org", "full@example.org", "a@example.org, b@example.org", "fine@example.org"):
        welcome(engine, address)
    result = deliver(engine, redis_url, of(box))
    assert (result.sent, result.failed, result.given_up) == (1, 1, 2)
    assert [recipients for recipients, _ in box.mails] == [["fine@example.org"]]
    assert [row[0] for row in rows(engine, "SELECT error FROM outbox WHERE error IS NOT NULL ORDER BY id")] == [
        "the mail server answered 550 … is unknown",
        "the mail server answered 452 mailbox full",
        "the user's address is malformed",
    ]
    box.refuse = {}
    assert deliver(engine, redis_url, of(box), minutes=5).sent == 1


def test_a_welcome_is_text_whatever_the_name_is(engine: Engine, redis_url: str, box: Postbox) -> None:
    welcome(engine, "eve@example.org", f"{EVIL}\r\nBcc: everybody@example.org\r\n\r\n{{{{ 7 * 7 }}}}")
    assert deliver(engine, redis_url, of(box)).sent == 1
    ((recipients, mail),) = box.mails
    assert recipients == ["eve@example.org"]
    assert "Bcc" not in mail
    html = mail.get_body(("html",))
    assert html is not None
    assert "&lt;b onclick=&#34;x()&#34;&gt;Eve&lt;/b&gt; Bcc:" in html.get_content()
    assert "{{ 7 * 7 }}" in html.get_content()


def test_ten_thousand_digests_are_planned_once_and_sent_by_one_connection_in_a_hundred(
    engine: Engine, redis_url: str, box: Postbox
) -> None:
    users(engine, 10_000)
    change(engine, "UPDATE users SET notify = id <> 1, email = CASE WHEN id <> 2 THEN email END WHERE id < 3")
    assert plan(engine, settings()) == 0, "nobody could end them"
    assert plan(engine, of(box)) == 9_998
    assert plan(engine, of(box)) == 0
    change(engine, "DELETE FROM outbox WHERE id > (SELECT min(id) FROM outbox) + 119")
    # A welcome goes before them, though it came later. Their figures are looked up when they are sent.
    welcome(engine, "first@example.org")
    told_of(engine)
    assert deliver(engine, redis_url, of(box)).sent == 121
    assert box.mails[0][0] == ["first@example.org"]
    assert len({recipients[0] for recipients, _ in box.mails}) == 121
    assert box.connections == 2
    assert len({mail["Message-ID"] for _, mail in box.mails}) == 121


@pytest.mark.parametrize(
    ("status", "minutes", "waits"),
    [("running", 0, True), ("running", 14, True), ("running", 16, False), ("planned", 0, False), ("done", 0, False)],
)
def test_digests_wait_while_a_night_runs_unless_it_takes_very_long(
    engine: Engine, redis_url: str, box: Postbox, status: str, minutes: int, waits: bool
) -> None:
    users(engine, 3)
    assert plan(engine, of(box)) == 3
    told_of(engine)
    welcome(engine, "first@example.org")
    change(engine, NIGHT + " SELECT 'nightly', day + 1, day + 1, :status, '{}', 'test', 10 FROM runs", status=status)
    change(engine, "UPDATE runs SET started_at = :now", now=NOW)
    result = deliver(engine, redis_url, of(box), minutes=minutes)
    assert result.summary() == ("1 sent, digests wait for a night" if waits else "4 sent")
    assert box.mails[0][0] == ["first@example.org"]
    assert scalar(engine, "SELECT max(attempts) FROM outbox WHERE kind = 'digest'") == (0 if waits else 1)
    change(engine, "UPDATE runs SET status = 'done'")
    assert deliver(engine, redis_url, of(box), minutes=minutes).sent == (3 if waits else 0)


def test_a_user_gets_so_many_mails_and_no_more(engine: Engine, redis_url: str, box: Postbox) -> None:
    welcome(engine, "user@example.org")
    change(engine, "INSERT INTO outbox (kind, key, payload) SELECT kind, 'again', payload FROM outbox")
    chosen = of(box, notify_user_limit="1/day")
    result = deliver(engine, redis_url, chosen)
    assert (result.sent, result.limited) == (1, 1)
    assert deliver(engine, redis_url, chosen).limited == 0, "it has a time of its own"
    assert len(box.mails) == 1
    assert scalar(engine, "SELECT attempts FROM outbox WHERE sent_at IS NULL") == 0


def test_who_has_ended_the_mails_gets_none_that_was_planned_before(
    engine: Engine, redis_url: str, box: Postbox
) -> None:
    users(engine, 1)
    assert plan(engine, of(box)) == 1
    change(engine, "UPDATE users SET notify = false")
    assert deliver(engine, redis_url, of(box)).given_up == 1
    assert box.mails == []


def test_a_server_that_is_away_is_asked_once_in_a_pass(engine: Engine, redis_url: str, box: Postbox) -> None:
    for number in range(5):
        welcome(engine, f"user-{number}@example.org")
    away = deliver(engine, redis_url, of(box, smtp_port=1))
    assert (away.sent, away.failed) == (0, 1)
    assert deliver(engine, redis_url, of(box), minutes=5).sent == 5


def test_a_password_does_not_go_in_the_clear() -> None:
    with pytest.raises(ValidationError, match="smtp_password would be readable"):
        settings(**MOST | {"smtp_host": "mail.example.org", "smtp_password": "canary"})
    with pytest.raises(ValidationError, match="smtp_from must be set"):
        settings(smtp_host="mail.example.org")
