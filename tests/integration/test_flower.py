"""Flower as an operator sees it, in a real browser: a night with trouble, found by its states, also after restarts.

And what it refuses: whoever has no login, and whatever would change something, unless a setting allows it.
"""

from __future__ import annotations

import dbm
import os
import re
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import httpx
import pytest
import redis
from pydantic import ValidationError
from sqlalchemy import text

from core.errors import UsageError
from core.settings import Settings
from schedules.beat import TICK
from services.locks import TICK_LOCK
from tasks.messages import SIMULATE
from tests.support.browser import Browser, browser
from tests.support.cli import environment
from tests.support.nights import settings
from tests.support.polling import wait_until
from tests.support.troubled import BATCH_USERS, CANARY, settled, troubled_world
from tests.support.workers import quick
from workers.embedded import ServerUrls
from workers.flower import flower_options
from workers.ports import choose_port
from workers.stack import Stack

HOST = socket.gethostname()
LOGIN = ("operator", "kept & secret")
CLOSED = "postgresql://127.0.0.1:1/nobody"
CONTROL = {
    f"/api/worker/shutdown/control@{HOST}": {},
    f"/api/worker/pool/restart/control@{HOST}": {},
    f"/api/worker/pool/grow/control@{HOST}": {"n": "1"},
    f"/api/worker/pool/shrink/control@{HOST}": {"n": "1"},
    f"/api/worker/pool/autoscale/control@{HOST}": {"min": "1", "max": "2"},
    f"/api/worker/queue/add-consumer/control@{HOST}": {"queue": "simulations"},
    f"/api/worker/queue/cancel-consumer/control@{HOST}": {"queue": "control"},
    f"/api/task/rate-limit/{SIMULATE}": {"workername": f"simulations@{HOST}", "ratelimit": "1/m"},
    f"/api/task/timeout/{SIMULATE}": {"workername": f"simulations@{HOST}", "hard": "1"},
    "/api/task/revoke/some-task": {"terminate": "true"},
    "/api/task/abort/some-task": {},
    f"/api/task/apply/{SIMULATE}": {},
    f"/api/task/async-apply/{SIMULATE}": {},
    f"/api/task/send-task/{SIMULATE}": {},
}


@dataclass(frozen=True, slots=True)
class Site:
    """A stack with Flower after a night with trouble. `labels`: of the batches done, failed and retried."""

    stack: Stack
    settings: Settings
    labels: dict[int, str]

    @property
    def flower(self) -> str:
        """Its address."""
        return self.stack.addresses["flower"]

    def saved(self) -> int:
        """When Flower last saved what it has seen, in ns; 0: never. What the file is called depends on the dbm."""
        files = [path for path in (self.settings.home / "flower").glob("state*") if ".tmp" not in path.name]
        return max((path.stat().st_mtime_ns for path in files), default=0)

    def restarted(self, signal_number: int) -> None:
        """End Flower by a signal, and wait until the stack has started it again."""
        old = self.stack.processes["flower"]
        os.kill(old, signal_number)
        wait_until(lambda: self.stack.processes.get("flower", old) != old, what="another Flower")
        wait_until(lambda: answers(self.flower), what="Flower's answer")


def answers(address: str) -> bool:
    try:
        return httpx.get(f"{address}/healthcheck").is_success
    except httpx.HTTPError:
        return False


def tasks(address: str, state: str, name: str = SIMULATE) -> list[dict[str, str]]:
    found = httpx.get(f"{address}/api/tasks", params={"state": state, "taskname": name}, auth=LOGIN).json()
    return list(found.values())


@pytest.fixture(scope="module")
def site(servers: ServerUrls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with redis.Redis.from_url(servers.redis_url) as client:
        client.flushdb()
    with pytest.MonkeyPatch.context() as patch, troubled_world(servers, "flower_world") as (engine, url):
        patch.setenv("FLOWER_STATE_SAVE_INTERVAL", "1000")
        chosen = quick(tmp_path_factory.mktemp("home"), BATCH_USERS, flower_port=0, flower_password=LOGIN[1])
        with engine.connect() as holder:
            # What happens before Flower listens it never hears of: until then, no tick does anything.
            holder.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": TICK_LOCK})
            with Stack(chosen, ServerUrls(url, servers.redis_url), workers=1, exporter=False) as stack:
                wait_until(lambda: tasks(stack.addresses["flower"], "SUCCESS", TICK), what="a tick in Flower")
                holder.close()
                yield Site(stack, chosen, settled(engine))


@pytest.fixture(scope="module")
def window() -> Iterator[Browser]:
    with browser() as opened:
        opened.set_window(1600, 900)
        yield opened


def unwrapped(text: str) -> str:
    """A worker's name, which the page shows in two parts so that it can be shortened in the middle."""
    return text.replace("\n", "")


def table(window: Browser, state: str) -> list[list[str]]:
    """The batches of a state as the page lists them: name, state, arguments, result, exception."""
    window.click(f'[data-task-state="{state}"]')
    window.find(f'[data-task-state="{state}"][aria-pressed="true"]')
    # Or ticks would fill the page.
    window.fill("#tasks-table_filter input", f'state:{state} name:{SIMULATE} args:"run 1 ·"')

    def listed() -> list[list[str]] | None:
        rows = [row.split("\t")[:5] for row in window.texts("#tasks-table tbody tr")]
        return rows if {tuple(row[:2]) for row in rows} == {(SIMULATE, state)} else None

    return wait_until(listed, what=f"batches of state {state}")


def look(site: Site, window: Browser, name: str) -> None:
    """Log in, and find workers and batches."""
    window.open(site.flower.replace("://", f"://{LOGIN[0]}:{quote(LOGIN[1])}@"))
    wanted = {f"{group}@{HOST}" for group in site.stack._worker_groups()}
    assert {f"simulations@{HOST}", f"control@{HOST}"} <= wanted
    # The page asks for news by itself; a Flower that was just started waits for the next heartbeat.
    wait_until(lambda: set(map(unwrapped, window.texts("#workers-table tbody td:first-child"))) == wanted)
    wait_until(lambda: window.texts("#workers-table .badge") == ["Online"] * len(wanted), what="workers online")
    window.screenshot(f"flower-workers-{name}")
    window.open(f"{site.flower}/tasks")
    done, failed, retried = site.labels[0], site.labels[1], site.labels[2]
    counts = r"20 users · \d+ rows · \d+ trades"
    successes = {row[2]: row[3] for row in table(window, "SUCCESS")}
    assert set(successes) == {done, retried}
    assert all(re.fullmatch(counts, result) for result in successes.values())
    window.screenshot(f"flower-succeeded-{name}")
    ((*_, arguments, _, error),) = table(window, "FAILURE")
    assert arguments == failed
    assert error.startswith(
        "BatchFailedError('InsufficientPrivilege: permission denied for postgresql://nightshift:****"
    )
    window.screenshot(f"flower-failed-{name}")
    ((*_, arguments, _, error),) = table(window, "RETRY")
    assert (arguments, error) == (retried, "BatchRetriedError('DiskFull: no space left on device')")
    window.screenshot(f"flower-retried-{name}")


def test_an_operator_finds_workers_and_batches_by_state(site: Site, window: Browser) -> None:
    look(site, window, "before")
    (failed,) = tasks(site.flower, "FAILURE")
    window.open(f"{site.flower}/task/{failed['uuid']}")
    page = window.text("#task-page")
    assert site.labels[1] in page
    assert "batch_id" in page
    assert CANARY not in page
    window.screenshot("flower-task-failed")


def test_nothing_is_lost_by_a_kill_or_a_restart(site: Site, window: Browser) -> None:
    seen = site.saved()
    # The second save from here on began after this.
    for _ in range(2):
        seen = wait_until(lambda seen=seen: site.saved() if site.saved() > seen else None)  # type: ignore[misc]
    site.restarted(signal.SIGKILL)
    look(site, window, "killed")
    site.restarted(signal.SIGTERM)
    look(site, window, "restarted")


def test_nobody_gets_in_without_the_login(site: Site) -> None:
    for path in ("/", "/tasks", "/broker", f"/worker/control@{HOST}", "/api/workers", "/api/tasks"):
        assert httpx.get(site.flower + path).status_code == 401
        assert httpx.get(site.flower + path, auth=(LOGIN[0], "wrong")).status_code == 401


def test_nothing_can_be_changed_by_default(site: Site, window: Browser) -> None:
    before = site.stack.processes
    answers = {path: httpx.post(site.flower + path, data=data, auth=LOGIN) for path, data in CONTROL.items()}
    assert {path: answer.status_code for path, answer in answers.items()} == dict.fromkeys(CONTROL, 403)
    assert site.stack.processes == before
    window.open(f"{site.flower}/worker/control@{HOST}")
    assert f"control@{HOST}" in window.text()
    assert window.texts("#worker-shutdown, #worker-pool-restart, #worker-pool-grow") == []


def test_with_the_setting_workers_can_be_controlled(site: Site) -> None:
    with another(site, flower_control=True) as address:
        wait_until(lambda: httpx.get(f"{address}/api/workers", auth=LOGIN).json().get(f"control@{HOST}"))
        for path in (
            f"/api/worker/pool/grow/control@{HOST}",
            f"/api/worker/pool/shrink/control@{HOST}",
            "/api/task/revoke/some-task",
        ):
            answer = httpx.post(address + path, data=CONTROL[path], auth=LOGIN)
            assert answer.status_code == 200, answer.text


def test_with_oauth_the_provider_is_asked(site: Site) -> None:
    oauth = {
        "flower_auth": ".*@example.org",
        "flower_auth_provider": "github",
        "flower_oauth_key": "the-key",
        "flower_oauth_secret": CANARY,
        "flower_oauth_redirect": "https://flower.example.org/login",
    }
    with another(site, **oauth) as address:
        login = httpx.get(f"{address}/tasks").headers["location"]
        assert login.startswith("/login?next=")
        there = httpx.get(address + login).headers["location"]
        assert there.startswith("https://github.com/login/oauth/authorize?")
        assert "the-key" in there
        assert CANARY not in there
        # A password is no way in any more.
        assert httpx.get(f"{address}/tasks", auth=LOGIN).status_code == 302


@contextmanager
def another(site: Site, **changes: object) -> Iterator[str]:
    """One more Flower beside the stack's, with other settings and a state of its own; its address."""
    chosen = site.settings.model_copy(update={"home": site.settings.home / "other", "flower_port": 0})
    stack = Stack(
        Settings.model_validate(chosen.model_dump() | changes), site.stack._urls, workers=1, beat=False, exporter=False
    )
    stack._choose_ports()
    stack._make_children()
    child = stack._children["flower"]
    try:
        child.start()
        wait_until(lambda: answers(stack.addresses["flower"]), what="another Flower")
        yield stack.addresses["flower"]
    finally:
        stack.stop()


def test_it_ends_at_once_and_saves_where_redis_does_not_answer(tmp_path: Path) -> None:
    # Whoever connects waits for an answer: each of Flower's questions for ten seconds, one after the other.
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = choose_port("127.0.0.1", 0, "the test")
        servers = {"database_url": CLOSED, "redis_url": f"redis://127.0.0.1:{silent.getsockname()[1]}/0"}
        env = environment(tmp_path, flower_port=port, flower_password=LOGIN[1], **servers)
        command = [sys.executable, "-m", "workers.flower"]
        process = subprocess.Popen(command, env=env | {"FLOWER_STATE_SAVE_INTERVAL": "0"})
        try:
            wait_until(lambda: answers(f"http://127.0.0.1:{port}"), what="Flower's answer")
            wait_until(lambda: select.select([silent], [], [], 0)[0], what="a question to Redis")
            process.terminate()
            wait_until(lambda: process.poll() is not None, seconds=5, what="Flower's end")
        finally:
            process.kill()
            process.wait()
    assert process.returncode == 0
    with dbm.open(str(tmp_path / "flower" / "state"), "r") as saved:
        assert b"events" in saved.keys()  # noqa: SIM118 - it is no dictionary


def test_what_flower_would_misread_is_refused() -> None:
    with pytest.raises(UsageError, match="NIGHTSHIFT_FLOWER_PASSWORD"):
        flower_options(settings())
    # What stands behind a comma would be a password of its own.
    with pytest.raises(ValidationError, match="without a comma"):
        settings(flower_password=",".join(LOGIN))
    with pytest.raises(ValidationError, match="flower_oauth_key"):
        settings(flower_auth=".*@example.org")
