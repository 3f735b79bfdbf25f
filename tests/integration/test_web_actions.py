"""What operators do on the page comes to what the command line does; and the way out of mails."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator
from datetime import timedelta

import httpx
import pytest
from sqlalchemy import Engine

from core.settings import Settings
from services.notify_links import unsubscribe_token
from tests.support.nights import LAST_SAMPLE_DAY, Night, change, rows, sample_world, scalar, settings
from tests.support.web import NOW, Person, add_accounts, person, served

BATCH = settings(batch_users=20)
MAILS: Settings = settings(public_url="https://night.example.org", notify_secret="hush")  # noqa: S106 - a test's
LAST_THREE = LAST_SAMPLE_DAY - timedelta(days=2)


@pytest.fixture
def night(engine: Engine) -> Night:
    """Three nights of forty users, all of whom begin with the first."""
    sample_world(engine, 40, start=LAST_THREE, spread_days=1)
    night = Night(engine, BATCH, now=NOW)
    night.run(LAST_SAMPLE_DAY)
    return night


@pytest.fixture
def ada(night: Night, engine: Engine, redis_url: str) -> Iterator[Person]:
    """Who operates."""
    assert night.queue.messages == []
    add_accounts(engine)
    with served(engine, redis_url, BATCH) as address, person(address, "ada") as somebody:
        yield somebody


def hidden(page: str) -> dict[str, str]:
    """The hidden fields of the form that confirms."""
    form = page.split('action="/reprocess/confirm"')[1].partition("</form>")[0]
    found = re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)">', form)
    return {name: html.unescape(value) for name, value in found}


def test_work_is_done_again_after_a_look_at_the_figures(ada: Person, night: Night, engine: Engine) -> None:
    fields = {"users": "3, 4", "from": str(LAST_THREE), "reason": "a wrong <close>"}
    page = ada.post("/reprocess", form_of="/reprocess", **fields)
    assert page.status_code == 200
    assert re.search(r"<dt>Users</dt><dd>2</dd>", page.text)
    assert "a wrong &lt;close&gt;" in page.text
    assert scalar(engine, "SELECT count(*) FROM runs WHERE kind = 'reprocess'") == 0
    form = hidden(page.text)
    answers = [ada.client.post("/reprocess/confirm", data=form) for _ in range(2)]
    # Twice the same button is once the run.
    run = scalar(engine, "SELECT id FROM runs WHERE kind = 'reprocess'")
    assert [answer.headers["location"] for answer in answers] == [f"/runs/{run}?did=planned"] * 2
    assert rows(engine, "SELECT requested_by, reason, users FROM runs WHERE kind = 'reprocess'") == [
        ("ada (status page)", "a wrong <close>", 2)
    ]
    assert "first batches begin" in ada.get(f"/runs/{run}?did=planned").text
    night.publish()
    night.drain()
    assert scalar(engine, "SELECT status FROM runs WHERE kind = 'reprocess'") == "done"
    told = rows(
        engine, "SELECT action, result, detail->>'run' FROM audit_trail WHERE action LIKE 'repro%' ORDER BY id"
    )  # fmt: skip
    assert told == [
        ("reprocess: dry run", "done", None), ("reprocess", "done", str(run)), ("reprocess", "done", str(run)),
    ]  # fmt: skip


WRONG = {
    "say what to reprocess: users, simulations": {"reason": "x"},
    "the first day is missing": {"users": "3", "reason": "x"},
    "the reason must not be empty": {"users": "3", "from": "2022-12-27"},
    "'three' is no number of a user": {"users": "three", "from": "2022-12-27", "reason": "x"},
    "777": {"users": "777", "from": "2022-12-27", "reason": "x"},
    "'tomorrow' is no day": {"users": "3", "from": "tomorrow", "reason": "x"},
    "everybody is everybody": {"everything": "yes", "users": "3", "from": "2022-12-27", "reason": "x"},
    "'some' is none of": {"users": "3", "only": "some", "from": "2022-12-27", "reason": "x"},
}


def test_nights_to_come_hide_no_work_and_can_be_cancelled(ada: Person, engine: Engine) -> None:
    page = ada.post("/reprocess", form_of="/reprocess", users="3", **{"from": str(LAST_THREE)}, reason="a close")
    ada.client.post("/reprocess/confirm", data=hidden(page.text))
    adhoc = scalar(engine, "SELECT id FROM runs WHERE kind = 'reprocess'")
    change(
        engine, "INSERT INTO runs (kind, first_day, day, status, scope, requested_by, batch_users)"
        " SELECT 'nightly', :last + n, :last + n, 'planned', '{}', 'test', 20 FROM generate_series(1, 20) AS n",
        last=LAST_SAMPLE_DAY,
    )  # fmt: skip
    assert f'href="/runs/{adhoc}"' in ada.get("/").text
    last = scalar(engine, "SELECT max(id) FROM runs")
    answer = ada.post(f"/runs/{last}/cancel", form_of=f"/runs/{last}")
    assert "brought up by the next night" in ada.get(answer.headers["location"]).text
    assert scalar(engine, "SELECT cancel_requested FROM runs WHERE id = :run", run=last)


def test_what_cannot_be_meant_comes_back_with_its_form(ada: Person) -> None:
    for complaint, fields in WRONG.items():
        page = ada.post("/reprocess", form_of="/reprocess", **fields)
        alert = re.search(r'<p class="message wrong" role="alert">([^<]*)</p>', page.text)
        assert alert, complaint
        assert (page.status_code, complaint in html.unescape(alert.group(1))) == (400, True), alert.group(1)
        assert f'value="{fields.get("users", "")}"' in page.text


def test_who_is_in_quarantine_is_tried_again(ada: Person, night: Night, engine: Engine) -> None:
    change(engine, "INSERT INTO quarantine (user_id, simulation_id, day, reason, detail) SELECT user_id, id, :day,"
           " 'NO_CLOSE', 'gone' FROM simulations WHERE user_id IN (5, 6)", day=LAST_SAMPLE_DAY)  # fmt: skip
    change(engine, "DELETE FROM portfolio_days WHERE user_id IN (5, 6) AND day = :day", day=LAST_SAMPLE_DAY)
    refused = ada.post("/quarantine/retry", form_of="/quarantine", reason=" ", user="5")
    assert (refused.status_code, "the reason must not be empty" in refused.text) == (400, True)
    one = ada.post("/quarantine/retry", form_of="/quarantine", reason="prices are there", user="5")
    assert one.headers["location"] == "/runs/2?did=planned"
    rest = ada.post("/quarantine/retry", form_of="/quarantine", reason="prices are there")
    assert rest.headers["location"] == "/runs/3?did=planned"
    assert scalar(engine, "SELECT count(*) FROM quarantine WHERE cleared_at IS NULL") == 0
    told = rows(engine, "SELECT target, result, detail->>'run' FROM audit_trail WHERE action = 'retry quarantined'"
                " ORDER BY id")  # fmt: skip
    assert told == [("user 5", "failed", None), ("user 5", "done", "2"), ("everybody in quarantine", "done", "3")]
    night.publish()
    night.drain()
    assert rows(engine, "SELECT status, reason FROM runs WHERE id > 1") == [("done", "prices are there")] * 2


@pytest.fixture
def mails(engine: Engine, redis_url: str) -> Iterator[httpx.Client]:
    """The page of a system that mails, without any login."""
    add_accounts(engine)
    change(engine, "INSERT INTO users (name, email, notify)"
           " SELECT 'u', 'u@example.org', true FROM generate_series(1, 3)")  # fmt: skip
    with served(engine, redis_url, MAILS) as address, httpx.Client(base_url=address) as client:
        yield client


def wanting(engine: Engine) -> list[int]:
    """Users who want mail."""
    return [row[0] for row in rows(engine, "SELECT id FROM users WHERE notify ORDER BY id")]


def test_a_person_ends_his_mails_with_a_button(mails: httpx.Client, engine: Engine) -> None:
    page = mails.get("/unsubscribe", params={"token": unsubscribe_token(2, MAILS)})
    # Scanners of mail follow links.
    assert (page.status_code, wanting(engine)) == (200, [1, 2, 3])
    token = re.search(r'name="token" value="([^"]+)"', page.text)
    assert token
    done = mails.post("/unsubscribe", data={"token": token.group(1)})
    assert (done.status_code, "no more mails" in done.text, wanting(engine)) == (200, True, [1, 3])


def test_a_mail_program_ends_them_with_one_post(mails: httpx.Client, engine: Engine) -> None:
    token = unsubscribe_token(1, MAILS)
    answer = mails.post(f"/unsubscribe?token={token}", data={"List-Unsubscribe": "One-Click"})
    assert (answer.status_code, wanting(engine)) == (200, [2, 3])
    for wrong in (token[:-1] + ("A" if token[-1] != "A" else "B"), token.replace("1-", "2-", 1), "", "<b>"):
        assert mails.post("/unsubscribe", data={"token": wrong}).status_code == 400
    assert wanting(engine) == [2, 3]
