"""A night with faults, as those see it who watch it: every figure is that of the tables, and no panel is empty.

Workers and exporter are killed in its middle, where a real Prometheus scrapes the exporter with our rules. The tables
are read by statements of our own (tests/support/figures.py); the queries are those of the committed dashboards, sent as
Grafana sends them. Without Prometheus the figures are compared all the same.
"""

from __future__ import annotations

import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import make_url

from core.clock import utc_now
from core.database import make_engine
from services.roles import ROLES, write_roles
from tests.support.database import execute, new_database
from tests.support.exporter import exporter, scrape
from tests.support.faulty_night import FAILING, MALFORMED, POISON, FaultyNight, empty_redis, faulty_night
from tests.support.figures import agree, logged
from tests.support.grafana import (
    POSTGRES,
    PROMETHEUS,
    Target,
    dashboards,
    filled_in,
    label_values,
    targets,
    variables,
)
from tests.support.nights import rows, scalar
from tests.support.polling import wait_until
from tests.support.prometheus import INTERVAL, Prometheus, prometheus
from workers.embedded import ServerUrls

ROLE = "nightshift_dashboards"


@dataclass(frozen=True, slots=True)
class Seen:
    """The night when it is over, and where Grafana would ask about it: from `start` to `end`, seconds since 1970."""

    night: FaultyNight
    scraper: Prometheus | None
    start: float
    end: float
    reader: str

    @property
    def prometheus(self) -> Prometheus:
        """Prometheus; skips the test where it is not installed."""
        if self.scraper is None:
            pytest.skip("prometheus is not installed (Debian: prometheus)")
        return self.scraper

    def promql(self, query: str) -> str:
        """The query as Grafana would send it."""
        # Grafana puts `.+` for All.
        values = {"queue": ".+", "source": ".+", "run": str(self.night.run)}
        return filled_in(query, values, seconds=self.end - self.start, step=INTERVAL, scrape=INTERVAL)


@pytest.fixture(scope="module")
def seen(servers: ServerUrls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seen]:
    """The night with its faults, scraped from before its second half to after its end."""
    home: Path = tmp_path_factory.mktemp("watched")
    with new_database(servers.database_url, "watched") as url, ExitStack() as scraping:
        engine = make_engine(url)
        urls = ServerUrls(url, empty_redis(servers.redis_url))
        with faulty_night(engine, urls, home) as night:
            scraper = None
            if shutil.which("prometheus"):
                scraper = scraping.enter_context(prometheus(night.exporter, home))
            start = utc_now().timestamp()
            if scraper is not None:
                _scraped(scraper)
            night.stands_still()
            agree(night, "in the middle")
            night.kill_workers_and_exporter()
            night.lose_messages()
            night.end_sessions()
            night.send_nonsense()
            night.ask_for_prices()
            night.jump()
            night.stands_still()
            agree(night, "after workers and exporter were killed")
            night.end()
            end = utc_now().timestamp() if scraper is None else over(scraper)
            yield Seen(night, scraper, start, end, reader(url))
        engine.dispose()
    for role in reversed(ROLES):
        execute(servers.database_url, f"DROP ROLE {role.name}")


def _scraped(scraper: Prometheus) -> None:
    """Wait until what will grow was seen before it did: without that there is no rate."""
    wait_until(
        lambda: scraper.at("nightshift_price_cache_hits_total", utc_now().timestamp()), what="Prometheus' first scrape"
    )


def over(scraper: Prometheus) -> float:
    """The moment when two scrapes ago knew that the night is over and all workers have answered again."""

    def known() -> float | None:
        now = utc_now().timestamp()
        then = now - 2 * INTERVAL
        ended = scraper.at("nightshift_night_running == 0 and nightshift_workers_lost == 0", then)
        return now if ended and all(series.last for series in scraper.at("nightshift_workers", then)) else None

    return wait_until(known, seconds=60, what="Prometheus knowing of it")


def test_the_night_had_every_fault_that_is_counted(seen: Seen) -> None:
    night = seen.night
    statuses = dict(rows(night.engine, "SELECT status, count(*) FROM batches WHERE run_id = :run GROUP BY 1",
                         run=night.run))  # fmt: skip
    assert set(statuses) == {"done", "failed", "split"}
    assert scalar(night.engine, "SELECT max(attempts) FROM batches") > 1
    assert scalar(night.engine, "SELECT max(publications) FROM batches") > 1
    (malformed, poison) = rows(night.engine, "SELECT user_id, reason FROM quarantine ORDER BY user_id")
    # Two broke their batches at once; the second was one too many.
    assert (malformed, poison[1]) == ((MALFORMED, "malformed"), "error")
    assert poison[0] in {POISON, FAILING}
    assert scalar(night.engine, "SELECT count(*) FROM runs WHERE status = 'missed'") == 2
    assert {cause for cause, count in rows(night.engine, "SELECT name, runs FROM beat_ticks WHERE runs > 0")} >= {
        "put_back:lost", "put_back:abandoned",
    }  # fmt: skip


def test_every_count_is_that_of_the_tables(seen: Seen) -> None:
    night = seen.night
    agree(night, "at the end")


def test_buckets_are_those_of_the_tables(seen: Seen) -> None:
    night = seen.night
    shown = night.scrape()
    for name, seconds in (("duration", "finished_at - started_at"), ("queue_wait", "started_at - queued_at")):
        for (metric, labels), value in shown.items():
            if metric != f"nightshift_batch_{name}_seconds_bucket" or labels[0] != "nightly" or labels[1] == "+Inf":
                continue
            below = f"SELECT count(*) FROM batches WHERE status = 'done' AND extract(epoch FROM {seconds}) <= :bound"
            assert value == scalar(night.engine, below, bound=float(labels[1])), (name, labels)


def test_what_no_table_holds_is_what_the_processes_said(seen: Seen) -> None:
    night = seen.night
    shown = night.scrape()
    needless = logged(night, "simulations", "batch is taken", "batch is done, cancelled or not due")
    assert len(needless) >= 3
    assert shown["nightshift_duplicates_absorbed_total", ()] == len(needless)
    assert shown["nightshift_worker_commit_seconds_count", ()] == len(logged(night, "simulations", "batch done"))
    back = logged(night, "control", "batches put back")
    assert shown["nightshift_batches_put_back_total", ("abandoned",)] == sum(len(line["abandoned"]) for line in back)
    assert shown["nightshift_batches_put_back_total", ("lost",)] == sum(line["lost"] for line in back)
    assert shown["nightshift_messages_dropped_total", ("not_json",)] == 1
    assert shown["nightshift_price_cache_misses_total", ()] == 1
    assert shown["nightshift_price_cache_hits_total", ()] == 2


def test_the_exporter_that_was_killed_shows_what_a_new_one_does(seen: Seen) -> None:
    night = seen.night
    fresh = scrape(exporter(night.engine, night.system.urls.redis_url, clock=utc_now, settings=night.system.settings))
    old = night.scrape()
    counted = {key for key in old if key[0].startswith("nightshift_batch") and key[0] != "nightshift_batches"}
    assert counted
    assert {key: old[key] for key in counted} == {key: fresh[key] for key in counted}


def reader(url: str) -> str:
    """The URL of the role that Grafana has, made as an operator makes it."""
    password = secrets.token_hex(8)
    engine = make_engine(url)
    write_roles(engine, passwords={ROLE: password})
    engine.dispose()
    return make_url(url).set(username=ROLE, password=password).render_as_string(hide_password=False)


@pytest.mark.parametrize("target", [t for t in targets() if t.source == PROMETHEUS], ids=str)
def test_a_query_of_prometheus_finds_samples(seen: Seen, target: Target) -> None:
    query = seen.promql(target.query)
    found = seen.prometheus.at(query, seen.end) if target.instant else seen.prometheus.over(query, seen.start, seen.end)
    assert found, query
    for label in re.findall(r"\{\{(\w+)\}\}", target.legend):
        assert all(label in series.labels for series in found), (label, found[0].labels)


@pytest.mark.parametrize("target", [t for t in targets() if t.source == POSTGRES], ids=str)
def test_a_query_of_the_database_finds_rows(seen: Seen, target: Target) -> None:
    with psycopg.connect(seen.reader) as connection:
        cursor = connection.execute(seen.promql(target.query).encode())
        assert cursor.description
        columns = [column.name for column in cursor.description]
        assert len(set(columns)) == len(columns)
        found = cursor.fetchall()
    assert found
    assert any(value is not None for row in found for value in row)


@pytest.mark.parametrize(
    ("dashboard", "variable"),
    [(dashboard["uid"], variable) for dashboard in dashboards() for variable in variables(dashboard)],
    ids=lambda value: value if isinstance(value, str) else value["name"],
)
def test_a_variable_has_values(seen: Seen, dashboard: str, variable: dict[str, Any]) -> None:
    assert dashboard
    if variable["datasource"]["uid"] == POSTGRES:
        with psycopg.connect(seen.reader) as connection:
            values = [str(row[1]) for row in connection.execute(variable["query"].encode()).fetchall()]
        assert str(seen.night.run) in values
    else:
        metric, label = label_values(variable)
        assert seen.prometheus.label_values(metric, label, seen.start, seen.end)


@pytest.mark.parametrize("name", ["Night started", "Night ended", "Night missed", "Alert"])
def test_nights_and_alerts_are_marked_at_their_moments(seen: Seen, name: str) -> None:
    for dashboard in dashboards():
        (annotation,) = (one for one in dashboard["annotations"]["list"] if one["name"] == name)
        found = seen.prometheus.over(seen.promql(annotation["expr"]), seen.start, seen.end)
        assert found
        if annotation["useValueForTime"]:
            assert all(0 < value / 1000 <= seen.end for series in found for _, value in series.samples)


def test_panels_show_what_the_tables_hold(seen: Seen) -> None:
    def last(query: str) -> float:
        (series,) = seen.prometheus.at(query, seen.end)
        return series.last

    run, engine = seen.night.run, seen.night.engine
    done = scalar(engine, "SELECT sum(users) FROM batches WHERE run_id = :run AND status = 'done'", run=run)
    assert last("nightshift_users_done") == done
    assert last(f'nightshift_run_users_done{{run="{run}"}}') == done
    # The missed ones, and tonight once its deadline has passed.
    assert last('nightshift_nights_due{window="30d"} - nightshift_nights_in_time{window="30d"}') in {2, 3}
    # What was increasing while it was scraped: divisions began after Prometheus did.
    splits = scalar(engine, "SELECT count(*) FROM batches WHERE status = 'split'")
    assert last('nightshift_batches_ended_total{kind="nightly", status="split"}') == splits > 0


def test_alerts_that_should_fire_do_and_lead_to_a_page(seen: Seen) -> None:
    found = seen.prometheus.over('ALERTS{alertstate="firing"}', seen.start, seen.end)
    assert {"NightshiftMessagesPutBack"} <= {series.labels["alertname"] for series in found}


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT * FROM users", "SELECT user_name FROM leaderboard", "SELECT * FROM outbox",
        "SELECT * FROM portfolio_days",
        "UPDATE runs SET status = 'done'", "DELETE FROM quarantine", "CREATE TABLE mine (id int)",
    ],
)  # fmt: skip
def test_the_role_of_grafana_may_do_nothing_else(seen: Seen, statement: str) -> None:
    with psycopg.connect(seen.reader) as connection:
        # Not only because its transactions are read-only at first.
        connection.execute("SET default_transaction_read_only = off")
        connection.commit()
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute(statement.encode())
