"""The exporter's pages against real servers: what is true is shown, what cannot be known is absent, nothing leaks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from typing import Any

import httpx
import pytest
import redis
from sqlalchemy import Engine, text

from core.database import make_engine
from core.queues import Queue
from core.settings import Settings
from services.partitions import ensure_ahead
from services.price_cache import LatestView, PriceCache
from services.queue_state import count_dropped, queue_key
from services.tick import record_run
from tests.support.exporter import AWAY, NOW, Client, exporter, fill, fill_prices, scrape
from tests.support.polling import wait_until
from workers.app import make_app
from workers.door import Refusal

MakeClient = Callable[..., Client]


@pytest.fixture
def web(engine: Engine, redis_url: str) -> Iterator[MakeClient]:
    """Makes a client of the pages; `engine`, `redis_url` and the workers that answer may be others."""
    engines: list[Engine] = []

    def make(
        *, database: str | None = None, broker: str | None = None, workers: Sequence[str] = ("simulations@here",)
    ) -> Client:
        if database is not None:
            engines.append(make_engine(database))
        return exporter(engines[-1] if database else engine, broker or redis_url, workers=workers, settings=Settings())

    yield make
    for other in engines:
        other.dispose()


def test_metrics_of_a_system_at_work(web: MakeClient, engine: Engine, redis_url: str) -> None:
    fill(engine)
    with redis.Redis.from_url(redis_url) as client:
        client.lpush(queue_key(Queue.SIMULATIONS), "a", "b")
        client.lpush(queue_key(Queue.SIMULATIONS, priority=6), "c")
        client.hset("nightshift:unacked", "tag", '[{"body": "x"}, "", "reprocess"]')
        for _ in range(3):
            count_dropped(client, Refusal.NOT_JSON)
    samples = scrape(web())
    expected = {
        ("nightshift_runs", ("nightly", "done")): 1,
        ("nightshift_runs", ("nightly", "running")): 1,
        ("nightshift_runs", ("nightly", "missed")): 1,
        ("nightshift_runs", ("reprocess", "failed")): 0,
        ("nightshift_batches", ("done",)): 1,
        ("nightshift_batches", ("queued",)): 1,
        ("nightshift_users_planned", ()): 25,
        ("nightshift_users_done", ()): 10,
        ("nightshift_users_quarantined", ()): 1,
        ("nightshift_queue_length", ("simulations",)): 3,
        ("nightshift_queue_length", ("reprocess",)): 0,
        ("nightshift_unacked", ("reprocess",)): 1,
        ("nightshift_unacked", ("simulations",)): 0,
        ("nightshift_messages_dropped_total", ("not_json",)): 3,
        ("nightshift_messages_dropped_total", ("oversized",)): 0,
        # The 4th of March ended twelve hours ago.
        ("nightshift_price_age_seconds", ()): 12 * 3600,
        ("nightshift_beat_last_tick_timestamp_seconds", ()): (NOW - timedelta(seconds=5)).timestamp(),
        ("nightshift_source_up", ("database",)): 1,
        ("nightshift_source_up", ("redis",)): 1,
    }
    assert {key: samples.get(key) for key in expected} == expected


def test_metrics_of_prices_that_come_by_themselves(web: MakeClient, engine: Engine, redis_url: str) -> None:
    fill(engine)
    fill_prices(engine)
    cache = PriceCache(redis_url)
    for _ in range(3):
        cache.get(engine, ["A"])
    cache.put([LatestView("A", 100, NOW, "test")])
    cache.get(engine, ["A"])
    cache.close()
    samples = scrape(web())
    expected = {
        ("nightshift_price_window_age_seconds", ("binance",)): 300,
        ("nightshift_price_windows_open", ("binance", "failed")): 2,
        ("nightshift_price_windows_open", ("binance", "planned")): 0,
        ("nightshift_price_windows_open", ("binance", "filling")): 0,
        ("nightshift_price_windows_open", ("osrs", "planned")): 1,
        ("nightshift_held_prices", ()): 1,
        ("nightshift_alerts_active", ("source_down",)): 2,
        ("nightshift_alerts_active", ("closes_missing",)): 0,
        ("nightshift_price_cache_hits_total", ()): 1,
        ("nightshift_price_cache_misses_total", ()): 3,
        ("nightshift_source_up", ("cache",)): 1,
    }
    assert {key: samples.get(key) for key in expected} == expected
    assert ("nightshift_price_window_age_seconds", ("osrs",)) not in samples


def test_a_night_waits_until_it_is_planned(web: MakeClient, engine: Engine) -> None:
    fill(engine)
    waiting = "nightshift_night_waiting", ()
    assert scrape(web())[waiting] == 0
    with engine.begin() as connection:
        connection.execute(text("INSERT INTO night_waits (day, since, asset_ids) VALUES"
            " ('2024-03-04', '2024-03-05 00:01+00', '{1}'), ('2024-03-05', '2024-03-06 00:01+00', '{1}')"))  # fmt: skip
    assert scrape(web())[waiting] == 1
    with engine.begin() as connection:
        connection.execute(text("DELETE FROM night_waits WHERE day = '2024-03-05'"))
    assert scrape(web())[waiting] == 0


def test_a_cache_of_its_own_may_be_away_alone(web: MakeClient, monkeypatch: pytest.MonkeyPatch) -> None:
    for url in (f"redis://:hidden-word@{AWAY}/0", "no url"):
        monkeypatch.setenv("NIGHTSHIFT_CACHE_URL", url)
        samples = scrape(web())
        assert samples["nightshift_source_up", ("redis",)] == 1
        assert not {key for key in samples if "price_cache" in key[0] or "cache" in key[1]}


def test_what_cannot_be_known_is_absent_and_not_zero(web: MakeClient) -> None:
    # Nothing has happened yet: there is no night, no close and no tick to speak of.
    names = {name for name, _ in scrape(web())}
    assert "nightshift_runs" in names
    assert not names & {
        "nightshift_users_planned", "nightshift_price_age_seconds", "nightshift_beat_last_tick_timestamp_seconds"
    }  # fmt: skip

    without_redis = scrape(web(broker=f"redis://:hidden-word@{AWAY}/0"))
    assert ("nightshift_source_up", ("database",)) in without_redis
    of_redis = ("nightshift_queue", "nightshift_unacked", "nightshift_worker", "nightshift_redis", "nightshift_dupl")
    assert not {key for key in without_redis if key[0].startswith(of_redis) or "redis" in key[1]}
    assert not {key for key in without_redis if "price_cache" in key[0] or "cache" in key[1]}

    without_database = scrape(web(database=f"postgresql://user:hidden-word@{AWAY}/none"))
    assert ("nightshift_source_up", ("redis",)) in without_database
    assert not {key for key in without_database if "runs" in key[0] or "users" in key[0] or "database" in key[1]}


def test_a_server_that_hangs_does_not_hide_the_others(
    web: MakeClient, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.exporter.metrics._ANSWER_SECONDS", 1.0)
    pages = web()
    with engine.connect() as holder, holder.begin():
        holder.execute(text("LOCK TABLE runs IN ACCESS EXCLUSIVE MODE"))
        for _ in range(2):
            samples = scrape(pages)
            assert samples["nightshift_source_up", ("redis",)] == 1
            assert ("nightshift_source_up", ("database",)) not in samples
            assert ("nightshift_runs", ("nightly", "done")) not in samples
    wait_until(lambda: ("nightshift_source_up", ("database",)) in scrape(pages), what="the database being back")


def checks(response: httpx.Response) -> dict[str, bool]:
    """The checks of `/health/deep`, by name."""
    found: list[dict[str, Any]] = response.json()["checks"]
    assert all(check["detail"] and check["seconds"] >= 0 for check in found)
    return {check["name"]: check["ok"] for check in found}


def test_deep_health_names_what_is_ill(web: MakeClient, engine: Engine) -> None:
    assert web().get("/health").status_code == 200
    new = web(workers=()).get("/health/deep")
    assert new.status_code == 503
    assert checks(new) == {"database": True, "redis": True, "workers": False, "beat": False, "prices": False}

    fill(engine)
    well = web().get("/health/deep")
    assert well.status_code == 200, well.text
    assert all(checks(well).values())

    record_run(engine, "tick", now=NOW - timedelta(minutes=5))
    with engine.begin() as connection:
        connection.execute(text("UPDATE closes SET day = '2024-02-27'"))
    late = web().get("/health/deep")
    assert checks(late) == {"database": True, "redis": True, "workers": True, "beat": False, "prices": False}

    away = web(database=f"postgresql://user:hidden-word@{AWAY}/none", broker=f"redis://:hidden-word@{AWAY}/0")
    nothing = away.get("/health/deep")
    assert nothing.status_code == 503
    assert checks(nothing) == {"database": False, "redis": False, "workers": True, "beat": False, "prices": False}
    status = away.get("/scheduler/status")
    assert status.status_code == 503
    for page in (nothing.text, status.text, away.get("/metrics").text):
        assert "hidden-word" not in page
        assert AWAY not in page


def test_scheduler_status_says_when_each_schedule_ran_and_runs(web: MakeClient, engine: Engine) -> None:
    fill(engine)
    made = ensure_ahead(engine, now=NOW)
    assert "portfolio_days_20240312" in made
    assert "trades_202405" in made
    assert ensure_ahead(engine, now=NOW) == []
    page = web().get("/scheduler/status").json()
    schedules = {schedule.pop("name"): schedule for schedule in page["schedules"]}
    assert set(schedules) == {"nightly", "tick", "ensure_partitions", "maintain"}
    assert schedules["nightly"]["result"].endswith("of 2024-03-04: running")
    assert schedules["nightly"]["next_run"] == "2024-03-06T00:01:00+00:00"
    assert schedules["tick"]["last_run"] == "2024-03-05T11:59:55+00:00"
    every = timedelta(seconds=Settings.model_fields["tick_seconds"].default)
    assert schedules["tick"]["next_run"] == (NOW - timedelta(seconds=5) + every).isoformat()
    assert schedules["tick"]["result"] == "nothing to do"
    assert schedules["ensure_partitions"]["result"] == "0 made"
    assert schedules["ensure_partitions"]["next_run"] == "2024-03-05T13:00:00+00:00"


def test_a_message_that_a_worker_holds_is_counted_as_kombu_writes_it(web: MakeClient, redis_url: str) -> None:
    app = make_app(Settings(), redis_url)
    app.send_task("maintenance.ensure_partitions")
    with app.connection_for_read() as connection:
        held: list[object] = []
        with app.amqp.TaskConsumer(connection, on_message=held.append, queues=[app.amqp.queues["maintenance"]]):
            connection.drain_events(timeout=10)
            samples = wait_until(lambda: scrape(web()), what="a scrape")
            assert held
            assert samples["nightshift_unacked", ("maintenance",)] == 1
            assert samples["nightshift_queue_length", ("maintenance",)] == 0
    app.close()
