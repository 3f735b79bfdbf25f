"""One embedded PostgreSQL and Valkey for each test process; a fresh database and an empty Redis for each test."""

from __future__ import annotations

import gc
import itertools
import os
import signal
import threading
from collections.abc import Generator, Iterator

import hypothesis
import pytest
import redis
from sqlalchemy import Engine, make_url

from core.database import make_engine
from core.log import configure_logging
from core.settings import PREFIX, Settings, get_settings
from tests.support.database import FAST, make_template, new_database
from workers.embedded import EmbeddedServers, ServerUrls

# Files that take longest, by their processor time. They begin first: at the end, one test process would wait for them.
LONGEST = (
    "tests/chaos/test_seeds.py",
    "tests/integration/test_cli_stack.py",
    "tests/chaos/test_shutdown.py",
    "tests/chaos/test_real_workers.py",
    "tests/compose/test_watched_night.py",
    "tests/compose/test_services_natively.py",
    "tests/integration/test_runbooks.py",
    "tests/integration/test_flower.py",
    "tests/integration/test_web_pages.py",
    "tests/integration/test_price_workers.py",
    "tests/integration/test_doctor.py",
    "tests/integration/test_upgrades.py",
    "tests/integration/test_backups.py",
    "tests/integration/test_backups_restored.py",
    "tests/integration/test_point_in_time.py",
    "tests/integration/test_bench_alerts.py",
    "tests/integration/test_retention.py",
    "tests/integration/test_autoscaler.py",
    "tests/chaos/test_hosts.py",
    "tests/integration/test_canaries.py",
    "tests/integration/test_tls_servers.py",
    "tests/integration/test_bench_reprocess.py",
    "tests/integration/test_stack.py",
    "tests/chaos/test_poison.py",
    "tests/chaos/test_reprocess.py",
    "tests/integration/test_bench_peers.py",
    "tests/unit/engine/test_oracle_parity.py",
    "tests/unit/engine/test_against_bt.py",
    "tests/unit/engine/test_real_data.py",
    "tests/integration/test_bench_night.py",
    "tests/integration/test_bench_beside.py",
    "tests/integration/test_reprocess_beside.py",
    "tests/integration/test_scoped_reprocess.py",
    "tests/integration/test_bench_prices.py",
    "tests/chaos/test_fences.py",
    "tests/integration/test_metrics_workers.py",
    "tests/integration/test_queues.py",
    "tests/integration/test_notifications_killed.py",
)

_numbers = itertools.count(1)
_REDIS_DATABASES = 16

# A shell has what it runs in the background ignore Ctrl-C, and whatever a test starts inherits that: no test could
# interrupt it.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN and threading.current_thread() is threading.main_thread():
    signal.signal(signal.SIGINT, signal.default_int_handler)

# How long an example takes says how busy the machine is. All else stays: a CI's profile is hypothesis' own.
hypothesis.settings.register_profile("untimed", parent=hypothesis.settings(), deadline=None)
hypothesis.settings.load_profile("untimed")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """What is imported for the tests stays: to look for garbage in it, now and in each test, takes a third longer."""
    # hypothesis, too, is imported by now: then it asks who refers to an object, which of frozen ones nobody can say.
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first, all others as they come; within a file nothing is moved."""
    places = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.nodeid.split("::")[0], len(places)))


@pytest.fixture(autouse=True)
def _no_settings_of_this_shell(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in [name for name in os.environ if name.startswith(PREFIX)]:
        monkeypatch.delenv(name)
    get_settings.cache_clear()
    yield
    get_settings.cache_clear()


@pytest.fixture(scope="session", autouse=True)
def _plain_logs() -> None:
    # structlog's default prints every local variable of a traceback: seconds for a frame of arrays.
    configure_logging(Settings(_env_file=None, log_format="json"))


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerUrls]:
    """The servers of this test process, with a migrated template database."""
    with EmbeddedServers(tmp_path_factory.mktemp("servers"), postgres_settings=FAST) as embedded:
        urls = embedded.start()
        make_template(urls.database_url)
        yield urls


@pytest.fixture
def database(servers: ServerUrls) -> Iterator[str]:
    """The URL of a migrated database of this test alone."""
    with new_database(servers.database_url, f"test_{next(_numbers)}") as url:
        yield url


@pytest.fixture
def empty_database(servers: ServerUrls) -> Iterator[str]:
    """The URL of a database without any table, of this test alone."""
    with new_database(servers.database_url, f"test_{next(_numbers)}", template="template1") as url:
        yield url


@pytest.fixture
def engine(database: str) -> Iterator[Engine]:
    """An engine on `database`."""
    engine = make_engine(database, application="nightshift-test")
    yield engine
    engine.dispose()


@pytest.fixture
def redis_url(servers: ServerUrls) -> str:
    """The URL of an empty Redis database."""
    number = 1 + next(_numbers) % (_REDIS_DATABASES - 1)
    url = make_url(servers.redis_url).set(database=str(number)).render_as_string(hide_password=False)
    with redis.Redis.from_url(url) as client:
        client.flushdb()
    return url
