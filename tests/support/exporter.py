"""The exporter's pages without a port, what they say, and a database of which they have something to say."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import redis
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import Engine
from starlette.applications import Starlette

from core.settings import Settings
from services.tick import record_run
from services.worker_registry import Answer, clock_of, write_answers
from tests.support.nights import settings as plain_settings
from workers.exporter.web import make_web

NOW = datetime(2024, 3, 5, 12, tzinfo=UTC)
AWAY = "127.0.0.1:1"
Samples = dict[tuple[str, tuple[str, ...]], float]


class Client:
    """Asks the pages without a port."""

    def __init__(self, web: Starlette) -> None:
        self._web = web

    def get(self, path: str) -> httpx.Response:
        """The answer of one page."""

        async def ask() -> httpx.Response:
            async with httpx.AsyncClient(
                transport=httpx.ASGITransport(self._web), base_url="http://localhost"
            ) as client:
                return await client.get(path)

        return asyncio.run(ask())


def exporter(
    engine: Engine,
    redis_url: str,
    *,
    workers: Sequence[str] = ("simulations@here",),
    clock: Callable[[], datetime] = lambda: NOW,
    settings: Settings | None = None,
) -> Client:
    """A new exporter, which remembers nothing."""
    return Client(make_web(engine, redis_url, lambda: workers, clock=clock, settings=settings or plain_settings()))


def scrape(client: Client) -> Samples:
    """What `/metrics` says: (name, label values) to value."""
    response = client.get("/metrics")
    assert response.status_code == 200
    families = list(text_string_to_metric_families(response.text))
    assert families
    assert all(family.documentation for family in families)
    if promtool := shutil.which("promtool"):
        check = subprocess.run(
            [promtool, "check", "metrics"], input=response.text, capture_output=True, text=True, check=False
        )
        assert (check.returncode, check.stderr) == (0, "")
    return {
        (sample.name, tuple(sample.labels.values())): sample.value for family in families for sample in family.samples
    }


_NIGHTS = """
    INSERT INTO runs (kind, first_day, day, status, scope, requested_by, batch_users, users) VALUES
        ('nightly', '2024-03-03', '2024-03-03', 'done', '{}', 'beat', 10, 20),
        ('nightly', '2024-03-04', '2024-03-04', 'running', '{}', 'beat', 10, 25),
        ('nightly', '2024-02-01', '2024-02-01', 'missed', '{}', 'beat', 10, 0);
    INSERT INTO batches (run_id, seq, user_lo, user_hi, users, status)
        SELECT id, seq, 1 + seq * 10, 11 + seq * 10, 10,
            CASE WHEN day = '2024-03-03' OR seq = 0 THEN 'done' ELSE 'queued' END
        FROM runs, generate_series(0, 1) AS seq WHERE day > '2024-03-01';
    INSERT INTO assets (symbol) VALUES ('A');
    INSERT INTO closes (day, asset_id, close, source) VALUES ('2024-03-04', 1, 100, 'test');
    INSERT INTO quarantine (user_id, simulation_id, day, reason, detail) VALUES
        (7, 70, '2024-03-03', 'NO_CLOSE', ''), (7, 71, '2024-03-03', 'NO_CLOSE', '')
"""


def fill(engine: Engine) -> None:
    """A finished night, one at work, a close, a tick, a quarantined user."""
    _execute(engine, _NIGHTS)
    record_run(engine, "tick", now=NOW - timedelta(seconds=5), result="nothing to do")


_PRICES = """
    INSERT INTO price_windows (source, starts_at, status) VALUES
        ('binance', '2024-03-05 11:50+00', 'done'), ('binance', '2024-03-05 11:55+00', 'done'),
        ('binance', '2024-03-05 11:00+00', 'filled'), ('binance', '2024-03-05 11:05+00', 'failed'),
        ('binance', '2024-03-05 11:10+00', 'failed'), ('osrs', '2024-03-05 12:00+00', 'planned');
    INSERT INTO held_prices (asset_id, source, kind, ts, price, reference, jump_ppm, band_ppm, status) VALUES
        (1, 'binance', 'tick', '2024-03-05 11:55+00', 200, 100, 1000000, 100000, 'held'),
        (1, 'binance', 'tick', '2024-03-05 11:50+00', 200, 100, 1000000, 100000, 'reverted');
    INSERT INTO alerts (key, kind, detail, raised_at, cleared_at) VALUES
        ('source:binance', 'source_down', '', '2024-03-05 11:20+00', NULL),
        ('source:osrs', 'source_down', '', '2024-03-05 11:20+00', NULL),
        ('closes:2024-03-01', 'closes_missing', '', '2024-03-02 01:00+00', '2024-03-02 02:00+00')
"""


def fill_prices(engine: Engine) -> None:
    """Windows of two sources, a price that is held, alerts that are raised; after `fill`."""
    _execute(engine, _PRICES)


_MORE = """
    UPDATE runs SET started_at = '2024-03-05 00:01+00', created_at = '2024-03-05 00:01+00' WHERE day = '2024-03-04';
    UPDATE runs SET started_at = '2024-03-04 00:01+00', finished_at = '2024-03-04 00:02+00',
        created_at = '2024-03-03 00:00+00' WHERE day = '2024-03-03';
    UPDATE runs SET created_at = '2024-03-03 00:00+00' WHERE status = 'missed';
    UPDATE batches SET queued_at = '2024-03-04 00:01+00', started_at = '2024-03-04 00:01:01+00', attempts = 1,
        publications = 2, finished_at = '2024-03-04 00:01:03+00', timings = '{"read": 0.5, "write": 1}'
        WHERE status = 'done';
    INSERT INTO beat_ticks (name, last_run_at, runs) VALUES ('put_back:lost', '2024-03-05 11:00+00', 3);
    INSERT INTO beat_ticks (name, last_run_at, last_result)
        VALUES ('scaling:simulations', '2024-03-05 11:00+00', '{"workers": 4, "enough": 0}');
    INSERT INTO backups (place, name, state, started_at, finished_at, bytes, verified_at, verify_seconds) VALUES
        ('/backups', 'backup-20240305T060000Z', 'done', '2024-03-05 06:00+00', '2024-03-05 06:01+00', 9,
        '2024-03-05 06:02+00', 3)
"""


def fill_everything(engine: Engine, redis_url: str) -> Settings:
    """Whatever it takes for every metric to have a sample; the settings that belong to it."""
    fill(engine)
    fill_prices(engine)
    _execute(engine, _MORE)
    with redis.Redis.from_url(redis_url) as client:
        write_answers(client, clock_of(client), {"simulations@here": Answer(("simulations",), 2)})
    return plain_settings(
        home=Path("/"), price_sources="binance", notify_urls="json://127.0.0.1:1", backup_to="/backups"
    )


def _execute(engine: Engine, statements: str) -> None:
    with engine.begin() as connection:
        for statement in statements.split(";"):
            connection.exec_driver_sql(statement)
