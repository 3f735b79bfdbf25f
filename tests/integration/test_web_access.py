"""Who may look and act: without a login, as a viewer, without the token of a form; and the trail of all of it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import httpx
import pytest
from sqlalchemy import Engine

from core.errors import UsageError
from core.settings import Settings
from services.login_limits import LoginLimits
from tests.support.exporter import AWAY
from tests.support.nights import change, rows, scalar, settings
from tests.support.web import NOW, PASSWORDS, Person, add_accounts, person, served

_RUNS = """
    INSERT INTO users (name) SELECT 'user ' || n FROM generate_series(1, 20) AS n;
    INSERT INTO runs (kind, first_day, day, status, scope, requested_by, batch_users, users, started_at, finished_at)
        VALUES ('nightly', '2022-12-27', '2022-12-27', 'done', '{}', 'beat', 10, 20, now(), now()),
            ('reprocess', '2022-12-27', '2022-12-27', 'running', '{}', 'ops', 10, 20, now(), NULL);
    INSERT INTO batches (run_id, seq, user_lo, user_hi, users, status)
        SELECT 2, seq, 1 + seq * 10, 11 + seq * 10, 10, 'planned' FROM generate_series(0, 1) AS seq
"""
ACTIONS = (
    "/runs/2/pause", "/runs/2/resume", "/runs/2/cancel", "/quarantine/retry", "/reprocess", "/reprocess/confirm",
)  # fmt: skip
LOOKED_AT = (
    "/", "/runs", "/runs/2", "/batches/1", "/quarantine", "/users/1", "/prices", "/find", "/audit", "/reprocess",
    "/scheduler/status",
)  # fmt: skip


class Clock:
    """The time of the test, which it moves."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> datetime:
        """What time it is."""
        return self.now


@pytest.fixture
def clock() -> Clock:
    """A clock of the test's own."""
    return Clock()


@pytest.fixture
def empty(engine: Engine, redis_url: str, clock: Clock) -> Iterator[str]:
    """The page of a database without accounts."""
    for statement in _RUNS.split(";"):
        change(engine, statement)
    with served(engine, redis_url, settings(), clock=clock) as address:
        yield address


@pytest.fixture
def site(empty: str, engine: Engine) -> str:
    """The page of a database with `ada`, who operates, and `vera`, who looks."""
    add_accounts(engine)
    return empty


@pytest.fixture
def stranger(site: str) -> Iterator[Person]:
    """Nobody known."""
    with person(site) as somebody:
        yield somebody


def trail(engine: Engine) -> list[tuple[Any, ...]]:
    """Who, what, what came of it; the oldest first."""
    return rows(engine, "SELECT who, action, result FROM audit_trail ORDER BY id")


def state(engine: Engine) -> tuple[Any, ...]:
    """What no refused action may change."""
    return rows(
        engine, "SELECT status, paused, cancel_requested, (SELECT count(*) FROM runs) FROM runs WHERE id = 2"
    )[0]  # fmt: skip


EVERYWHERE = "0.0.0.0"  # noqa: S104 - said, not bound
UNTOUCHED = ("running", False, False, 2)


def test_without_accounts_this_machine_may_look_and_nobody_act(empty: str, engine: Engine) -> None:
    with person(empty) as somebody:
        assert {path: somebody.get(path).status_code for path in LOOKED_AT if path not in {"/audit", "/reprocess"}} == {
            path: 200 for path in LOOKED_AT if path not in {"/audit", "/reprocess"}
        }
        assert somebody.get("/audit").headers["location"] == "/login?next=%2Faudit"
        # Somebody else's page whose name was resolved to this machine.
        assert somebody.get("/runs", Host="elsewhere.example").status_code == 303
        assert [somebody.post(path, form_of="/login").status_code for path in ACTIONS] == [403] * len(ACTIONS)
    assert state(engine) == UNTOUCHED


def test_bound_to_another_address_nobody_looks_without_a_login(engine: Engine, redis_url: str) -> None:
    with served(engine, redis_url, settings(host=EVERYWHERE)) as address, person(address) as somebody:
        assert somebody.get("/runs").headers["location"] == "/login?next=%2Fruns"
        assert somebody.get("/health").status_code == 200


def test_with_accounts_a_stranger_sees_nothing(stranger: Person) -> None:
    answers = {path: stranger.get(path) for path in LOOKED_AT}
    assert {path: answer.status_code for path, answer in answers.items()} == dict.fromkeys(LOOKED_AT, 303)
    assert stranger.get("/runs?before=7").headers["location"] == "/login?next=%2Fruns%3Fbefore%3D7"
    assert stranger.get("/night/live").status_code == 401
    public = ("/health", "/metrics", "/login", "/unsubscribe?token=x")
    assert [stranger.get(path).status_code for path in public] == [200] * len(public)


def test_actions_without_a_login_are_refused_and_written_down(stranger: Person, engine: Engine) -> None:
    token = stranger.csrf("/login")
    assert [stranger.post(path, csrf=token).status_code for path in ACTIONS] == [403] * len(ACTIONS)
    assert state(engine) == UNTOUCHED
    expected = [(None, f"POST {path.replace('/2/', '/{run}/')}", "refused") for path in ACTIONS]
    assert trail(engine) == expected
    assert scalar(engine, "SELECT target FROM audit_trail ORDER BY id LIMIT 1") == "/runs/2/pause"


def test_a_viewer_looks_and_does_not_act(site: str, engine: Engine) -> None:
    with person(site, "vera") as vera:
        token = vera.csrf("/runs/2")
        assert "Cancel this run" not in vera.get("/runs/2").text
        assert [vera.post(path, csrf=token).status_code for path in ACTIONS] == [403] * len(ACTIONS)
        assert [vera.get(path).status_code for path in ("/audit", "/reprocess")] == [403, 403]
    assert state(engine) == UNTOUCHED
    assert trail(engine) == [
        ("vera", "login", "done"),
        *[("vera", f"POST {path.replace('/2/', '/{run}/')}", "refused") for path in ACTIONS],
    ]


def test_without_the_token_of_the_form_nothing_is_done(site: str, engine: Engine) -> None:
    with person(site, "ada") as ada, person(site, "vera") as vera:
        of_another = vera.csrf("/runs/2")
        for fields in ({}, {"csrf": ""}, {"csrf": "0" * 64}, {"csrf": of_another}):
            assert [ada.post(path, **fields).status_code for path in ACTIONS] == [403] * len(ACTIONS)
        token = ada.csrf("/runs/2")
        for headers in ({"origin": "https://elsewhere.example"}, {"origin": "null"}, {"sec-fetch-site": "cross-site"}):
            assert ada.client.post("/runs/2/cancel", data={"csrf": token}, headers=headers).status_code == 403
    assert state(engine) == UNTOUCHED
    assert scalar(engine, "SELECT count(*) FROM audit_trail WHERE who = 'ada' AND result = 'refused'") == 27


def test_an_operator_acts_and_the_trail_says_so(site: str, engine: Engine) -> None:
    with person(site, "ada") as ada:
        for order in ("pause", "resume", "cancel"):
            answer = ada.post(f"/runs/2/{order}", form_of="/runs/2")
            assert (answer.status_code, answer.headers["location"]) == (303, f"/runs/2?did={order}")
        again = ada.post("/runs/2/cancel", form_of="/runs/2")
        assert (again.status_code, "run 2 is over (cancelled)" in again.text) == (400, True)
    assert state(engine)[0] == "cancelled"
    assert trail(engine) == [
        ("ada", "login", "done"), ("ada", "pause", "done"), ("ada", "resume", "done"), ("ada", "cancel", "done"),
        ("ada", "cancel", "failed"),
    ]  # fmt: skip
    assert rows(engine, "SELECT DISTINCT address, at FROM audit_trail") == [("127.0.0.1", NOW)]


def test_a_login_gives_a_token_that_was_not_there_before(stranger: Person, engine: Engine) -> None:
    stranger.get("/login")
    before = stranger.client.cookies["nightshift"]
    answer = stranger.log_in("ada")
    after = stranger.client.cookies["nightshift"]
    assert after != before
    cookie = answer.headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=lax" in cookie
    assert "expires" not in cookie
    # Nobody can act with the token that somebody else may have put there.
    stranger.client.cookies.set("nightshift", before, domain="127.0.0.1")
    with httpx.Client(base_url=str(stranger.client.base_url), cookies={"nightshift": before}) as thief:
        assert thief.get("/runs").status_code == 303
    # The database cannot give it away.
    hashes = scalar(engine, "SELECT string_agg(token_hash, ' ') FROM web_sessions")
    assert after not in hashes


def test_a_second_login_ends_the_session_of_its_browser(site: str, engine: Engine) -> None:
    with person(site, "ada") as ada:
        first = ada.client.cookies["nightshift"]
        ada.post("/login", form_of="/runs", name="vera", password=PASSWORDS["vera"])
        assert scalar(engine, "SELECT count(*) FROM web_sessions") == 1
        with httpx.Client(base_url=site, cookies={"nightshift": first}) as old:
            assert old.get("/runs").status_code == 303


def test_a_logout_ends_the_session_on_the_server(site: str, engine: Engine) -> None:
    with person(site, "ada") as ada:
        token = ada.client.cookies["nightshift"]
        assert ada.post("/logout").status_code == 403
        assert ada.post("/logout", form_of="/runs").headers["location"] == "/login"
        with httpx.Client(base_url=site, cookies={"nightshift": token}) as thief:
            assert thief.get("/runs").status_code == 303
    assert trail(engine)[-1] == ("ada", "logout", "done")


def test_sessions_end_by_themselves(site: str, clock: Clock) -> None:
    with person(site, "ada") as ada:
        for _ in range(3):
            clock.now += timedelta(minutes=50)
            assert ada.get("/runs").status_code == 200
        clock.now += timedelta(minutes=50)
        assert ada.get("/night/live").status_code == 200
        # A page that refreshes itself is nobody who is there.
        clock.now += timedelta(minutes=15)
        assert ada.get("/runs").status_code == 303
        ada.log_in("ada")
        for _ in range(14):
            clock.now += timedelta(minutes=50)
            assert ada.get("/runs").status_code == 200
        clock.now += timedelta(minutes=30)
        assert ada.get("/runs").status_code == 303


def test_failed_logins_are_limited_by_account_and_by_address(stranger: Person, engine: Engine) -> None:
    wrong = [stranger.log_in("ada", f"wrong {number}").status_code for number in range(11)]
    assert wrong == [403] * 10 + [429]
    # The right one is too late, and the address has had its share for other accounts, too.
    assert stranger.log_in("ada").status_code == 429
    assert stranger.log_in("vera").status_code == 429
    counted = rows(engine, "SELECT who, result, count(*) FROM audit_trail GROUP BY 1, 2 ORDER BY 1, 2")
    assert counted == [("ada", "failed", 10), ("ada", "refused", 2), ("vera", "refused", 1)]


def test_a_password_in_the_wrong_field_is_written_nowhere(stranger: Person, engine: Engine) -> None:
    stranger.log_in(PASSWORDS["ada"], PASSWORDS["ada"])
    stranger.log_in("ada", "guessed")
    stranger.log_in("ada")
    written = str(rows(engine, "SELECT * FROM audit_trail")) + str(rows(engine, "SELECT * FROM web_sessions"))
    assert trail(engine) == [(None, "login", "failed"), ("ada", "login", "failed"), ("ada", "login", "done")]
    for secret in (*PASSWORDS.values(), "guessed", stranger.client.cookies["nightshift"]):
        assert secret not in written
    assert scalar(engine, "SELECT password_hash FROM operators WHERE name = 'ada'").startswith("$argon2id$")


def test_a_login_leads_to_pages_of_ours_only(stranger: Person) -> None:
    def leads(onward: str) -> str:
        answer = stranger.post("/login", form_of="/login", name="ada", password=PASSWORDS["ada"], next=onward)
        return answer.headers["location"]

    assert leads("/runs?before=7") == "/runs?before=7"
    elsewhere = ("https://elsewhere.example", "//elsewhere.example", "/\\elsewhere", "", "x")
    assert [leads(bad) for bad in elsewhere] == ["/"] * 5


def test_limits_hold_while_redis_is_away() -> None:
    limits = LoginLimits(settings(login_limit="2/minute"), f"redis://{AWAY}")
    seen = []
    for _ in range(3):
        seen.append(limits.allowed("ada", "10.0.0.1"))
        limits.failed("ada", "10.0.0.1")
    assert seen == [True, True, False]
    assert [limits.allowed("ada", "10.0.0.2"), limits.allowed("vera", "10.0.0.1")] == [False, False]
    assert limits.allowed("vera", "10.0.0.2")
    with pytest.raises(UsageError, match="NIGHTSHIFT_LOGIN_LIMIT is not a limit"):
        LoginLimits(settings(login_limit="often"), "redis://127.0.0.1:1")


def test_over_https_the_cookie_is_for_this_host_alone(engine: Engine, redis_url: str) -> None:
    add_accounts(engine)
    secure: Settings = settings(public_url="https://night.example.org")
    with served(engine, redis_url, secure) as address, person(address) as somebody:
        cookie = somebody.get("/login").headers["set-cookie"]
    assert cookie.startswith("__Host-nightshift=")
    assert {"secure", "httponly", "path=/"} <= {part.strip().lower() for part in cookie.split(";")}


def test_headers_of_every_answer(stranger: Person) -> None:
    for path in ("/login", "/runs", "/nowhere", "/metrics"):
        headers = stranger.get(path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'self'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["cache-control"] == "no-store"
    page = stranger.get("/login").text
    style = page.split('rel="stylesheet" href="')[1].split('"')[0]
    kept = stranger.get(style)
    assert (kept.status_code, kept.headers["cache-control"]) == (200, "public, max-age=31536000, immutable")
    assert "style=" not in page


def test_what_is_asked_for_wrongly_is_one_line(site: str) -> None:
    with person(site, "ada") as ada:
        asked = {
            path: ada.get(path).status_code
            for path in (
                "/runs/7777", "/runs/x", "/runs/99999999999999999999999", "/users/7777", "/simulations/7",
                "/batches/77", "/runs?before=x", "/runs/2?status=odd", "/simulations/1?before=x", "/?until=x",
                "/prices?before=x",
                "/find?user=x", f"/runs/{'9' * 5000}", "/nowhere", "/runs/2/nowhere",
            )
        }  # fmt: skip
        assert asked == dict.fromkeys(asked, 404)
        assert 'href="/"' in ada.get("/nowhere").text
        too_large = ada.client.post("/reprocess", content=b"a=" + b"x" * 70_000)
        assert (too_large.status_code, too_large.text) == (400, "this form is too large\n")
