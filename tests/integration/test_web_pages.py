"""The pages in a browser: on a desk, on a telephone, in the dark; empty, at work, failed; and read aloud."""

from __future__ import annotations

import importlib.resources
import itertools
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import lru_cache

import pytest
import redis
from selenium.webdriver.common.keys import Keys
from sqlalchemy import make_url

from core.database import make_engine
from tests.support.browser import Browser, browser
from tests.support.database import new_database
from tests.support.nights import change, settings
from tests.support.polling import wait_until
from tests.support.web import PASSWORDS, add_accounts, served
from tests.support.web_world import HARM, LAST_DAY, fail, fill
from workers.embedded import ServerUrls

# What axe calls serious or critical keeps somebody out.
_AXE = """
const done = arguments[arguments.length - 1];
axe.run(document, {resultTypes: ["violations"]}).then((found) => done(found.violations
    .filter((one) => ["serious", "critical"].includes(one.impact))
    .map((one) => one.id + ": " + one.nodes.map((node) => node.target + " " + node.failureSummary).join("; "))));
"""
_LOOKS = {"desk": (1440, 900, False), "phone": (360, 740, False), "dark": (1440, 900, True)}
PAGES = {
    "night": "/", "runs": "/runs", "run-done": "/runs/1", "run-night": "/runs/11", "run-planned": "/runs/12",
    "batch": "/batches/1", "quarantine": "/quarantine", "user": "/users/3", "simulation": "/simulations/3",
    "prices": "/prices", "find": "/find", "audit": "/audit", "reprocess": "/reprocess?simulations=3&from=2022-12-20",
    "error": "/runs/999999", "unsubscribe": "/unsubscribe?token=x",
}  # fmt: skip
EMPTY = {"night": "/", "runs": "/runs", "prices": "/prices"}
FAILED = {"night": "/", "run": "/runs/11"}


@dataclass
class Sites:
    """Addresses of the page, by what there is to be seen."""

    empty: str
    working: str
    failed: str
    database: str
    """Behind `working`."""


@pytest.fixture(scope="module")
def sites(servers: ServerUrls) -> Iterator[Sites]:
    """Three databases behind three servers; everybody has the same accounts."""
    redis_urls = [
        make_url(servers.redis_url).set(database=str(number)).render_as_string(hide_password=False)
        for number in (13, 14)
    ]
    for url in redis_urls:
        with redis.Redis.from_url(url) as client:
            client.flushdb()
    plain = settings(price_sources="binance")
    with ExitStack() as stack:
        working = stack.enter_context(new_database(servers.database_url, "web_working"))
        engine = make_engine(working)
        fill(engine, redis_urls[0])
        add_accounts(engine)
        engine.dispose()
        failed = stack.enter_context(new_database(servers.database_url, "web_failed", template="web_working"))
        empty = stack.enter_context(new_database(servers.database_url, "web_empty"))
        addresses = []
        for database, redis_url in ((empty, redis_urls[1]), (working, redis_urls[0]), (failed, redis_urls[0])):
            engine = make_engine(database)
            stack.callback(engine.dispose)
            if database == failed:
                fail(engine)
            if database == empty:
                add_accounts(engine)
            addresses.append(stack.enter_context(served(engine, redis_url, plain)))
        yield Sites(addresses[0], addresses[1], addresses[2], working)


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """One window for all of them."""
    with browser(tmp_path_factory.mktemp("screenshots")) as window:
        yield window


def log_in(window: Browser, address: str, name: str = "ada") -> None:
    """By the form, as a person does."""
    window.open(f"{address}/login?next=/runs")
    window.fill("#name", name)
    window.fill("#password", PASSWORDS[name])
    window.click("main form button")
    wait_until(lambda: window.text("h1") == "Runs", what="the page behind the login")


@lru_cache(maxsize=1)
def _axe_core() -> str:
    return importlib.resources.files("axe_core_python").joinpath("axe.min.js").read_text("utf-8")


def complaints(window: Browser, *, axe: bool) -> list[str]:
    """What axe-core finds on the page, and whether anything is wider than the window."""
    found: object = []
    if axe:
        window.run_script(_axe_core())
        found = window.run_async(_AXE)
    assert isinstance(found, list)
    wide = window.run_script("return document.documentElement.scrollWidth - document.documentElement.clientWidth")
    return [*found, *([f"{wide} px too wide"] if wide else [])]


def look(window: Browser, address: str, names: dict[str, str], state: str) -> dict[str, list[str]]:
    """Every page in every look, with a picture; what is wrong with it, by page and look."""
    wrong = {}
    for (name, path), (kind, (width, height, dark)) in itertools.product(names.items(), _LOOKS.items()):
        window.set_window(width, height)
        window.emulate_dark(dark)
        window.open(address + path)
        window.screenshot(f"{state}-{name}-{kind}")
        found = complaints(window, axe=kind != "phone" and (kind == "desk" or state == "working"))
        if window.run_script("return document.title") == "harm":
            found.append("harm was done")
        if found:
            wrong[f"{path} {kind}"] = found
    return wrong


def test_every_page_of_a_system_at_work(seen: Browser, sites: Sites) -> None:
    log_in(seen, sites.working)
    assert look(seen, sites.working, PAGES, "working") == {}


def test_an_empty_system(seen: Browser, sites: Sites) -> None:
    log_in(seen, sites.empty)
    assert look(seen, sites.empty, EMPTY, "empty") == {}


def test_a_night_that_failed(seen: Browser, sites: Sites) -> None:
    log_in(seen, sites.failed)
    assert look(seen, sites.failed, FAILED, "failed") == {}
    seen.open(sites.failed)
    assert "failed" in seen.text("#live-night .title")


def test_what_people_and_errors_say_is_text(seen: Browser, sites: Sites) -> None:
    log_in(seen, sites.working)
    seen.errors()
    for path in ("/", "/runs", "/runs/11", "/users/3", "/simulations/3", "/quarantine", "/prices"):
        seen.open(sites.working + path)
        assert HARM in seen.text("main"), path
        assert seen.run_script("return document.title") != "harm"
        assert seen.run_script("return document.querySelectorAll('main script, main img').length") == 0
    assert seen.errors() == []


def test_the_night_at_work_refreshes_itself(seen: Browser, sites: Sites) -> None:
    log_in(seen, sites.working)
    seen.open(sites.working)
    seen.run_script("window.untouched = true")
    seen.errors()
    assert "30 of 90" in " ".join(seen.texts("#live-night"))
    engine = make_engine(sites.database)
    night = "SELECT id FROM runs WHERE kind = 'nightly' AND day = :day"
    first = f"SELECT min(id) FROM batches WHERE status = 'queued' AND run_id = ({night})"
    change(engine, f"UPDATE batches SET status = 'done' WHERE id = ({first})", day=LAST_DAY)
    engine.dispose()
    wait_until(lambda: "60 of 90" in " ".join(seen.texts("#live-night")), what="the newer figures")
    assert seen.run_script("return window.untouched") is True
    assert seen.errors() == []


def test_the_keyboard_reaches_everything_and_shows_where_it_is(seen: Browser, sites: Sites) -> None:
    log_in(seen, sites.working, "vera")
    seen.open(sites.working + "/runs")
    reached = []
    for _ in range(12):
        seen.press(Keys.TAB)
        found = seen.run_script(
            "const at = document.activeElement;"
            " return [at.innerText.trim().split('\\n')[0], getComputedStyle(at).outlineStyle]"
        )
        assert isinstance(found, list)
        reached.append(found)
    assert [name for name, _ in reached[:8]] == [
        "Skip to the content", "Nightshift", "Night", "Runs", "Quarantine", "Prices", "Find", "Log out",
    ]  # fmt: skip
    assert {outline for _, outline in reached} == {"solid"}
