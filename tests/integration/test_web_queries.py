"""What the pages ask the database for, with many rows in it: by an index, and never by reading a large table."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from sqlalchemy import Connection, Engine, event

from benchmarks.pages_world import Scale, fill_scale, paths
from core.database import make_engine
from tests.support.database import new_database
from tests.support.nights import rows, settings
from tests.support.web import NOW, Person, add_accounts, person, served
from workers.embedded import ServerUrls

SCALE = Scale(users=20_000, runs=200, batches=100, days=120, few=600, full=2)
LARGE = (
    "portfolio_days", "trades", "batches", "users", "simulations", "quarantine", "price_windows", "held_prices",
    "audit_trail", "closes", "run_simulations",
)  # fmt: skip
_READ_WHOLE = re.compile(rf"Seq Scan on (({'|'.join(LARGE)})\w*)")


@pytest.fixture(scope="module")
def large(servers: ServerUrls) -> Iterator[Engine]:
    """A database of many rows."""
    with new_database(servers.database_url, "web_large") as url:
        engine = make_engine(url)
        fill_scale(engine, SCALE, NOW)
        add_accounts(engine)
        yield engine
        engine.dispose()


@pytest.fixture
def ada(large: Engine, redis_url: str) -> Iterator[Person]:
    """Who may see everything."""
    with served(large, redis_url, settings(price_sources="binance")) as address, person(address, "ada") as somebody:
        yield somebody


@contextmanager
def asked(engine: Engine) -> Iterator[list[tuple[str, Any]]]:
    """The statements that are executed meanwhile, with their parameters."""
    found: list[tuple[str, Any]] = []

    def note(_connection: Connection, _cursor: object, statement: str, parameters: Any, *_: object) -> None:
        found.append((statement, parameters))

    event.listen(engine, "before_cursor_execute", note)
    try:
        yield found
    finally:
        event.remove(engine, "before_cursor_execute", note)


def test_no_page_reads_a_large_table(ada: Person, large: Engine) -> None:
    read, looked_at = {}, set()
    for path in paths(SCALE):
        with asked(large) as statements:
            answer = ada.get(path)
        assert answer.status_code == 200, path
        for statement, parameters in statements:
            with large.connect() as connection:
                plan = "\n".join(row[0] for row in connection.exec_driver_sql(f"EXPLAIN {statement}", parameters))
            looked_at |= {table for table in LARGE if re.search(rf" on {table}", plan)}
            if found := _READ_WHOLE.search(plan):
                read[path, found.group(1)] = statement
    assert read == {}
    # The rule is about something: all of these tables were asked.
    assert looked_at == set(LARGE) - {"run_simulations"}


@pytest.mark.parametrize(
    ("path", "keys"),
    [
        ("/runs", r'<th scope="row" class="right"><a href="/runs/(\d+)">'),
        ("/runs/200", r'<th scope="row" class="right"><a href="/batches/(\d+)">'),
        ("/quarantine", r'<th scope="row" class="right"><a href="/users/(\d+)">'),
        ("/simulations/7", r'<th scope="row">(\d{4}-\d\d-\d\d)</th><td class="right">'),
    ],
)
def test_pages_follow_each_other_without_a_gap(ada: Person, large: Engine, path: str, keys: str) -> None:
    seen: list[str] = []
    following: str | None = path
    while following:
        page = ada.get(following).text
        seen += re.findall(keys, page)
        link = re.search(r'<a href="([^"]+)" rel="next">', page)
        following = link.group(1).replace("&amp;", "&") if link else None
    expected = {
        "/runs": "SELECT id FROM runs ORDER BY id DESC",
        "/runs/200": "SELECT id FROM batches WHERE run_id = 200 ORDER BY seq",
        "/quarantine": "SELECT user_id FROM quarantine WHERE cleared_at IS NULL ORDER BY id DESC",
        "/simulations/7": "SELECT day FROM portfolio_days WHERE simulation_id = 7"
        " AND day <= (SELECT max(day) FROM runs WHERE status = 'done' AND kind = 'nightly') ORDER BY day DESC",
    }[path]
    assert seen == [str(row[0]) for row in rows(large, expected)]


def test_days_are_found_across_months_of_which_only_the_last_day_is_kept(ada: Person, large: Engine) -> None:
    with large.begin() as connection:
        connection.exec_driver_sql(
            "DELETE FROM portfolio_days WHERE simulation_id = 9 AND day < '2022-11-25' AND day NOT IN"
            " ('2022-09-30', '2022-10-31')"
        )
    page = ada.get("/simulations/9").text
    link = re.search(r'<a href="([^"]+)" rel="next">', page)
    assert link
    days = re.findall(r'<th scope="row">(\d{4}-\d\d-\d\d)</th><td class="right">', ada.get(link.group(1)).text)
    assert days[-2:] == ["2022-10-31", "2022-09-30"]
