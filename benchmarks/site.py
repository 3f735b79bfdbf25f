"""Where a benchmark runs: embedded servers of its own in a temporary home, seeded, tidied before each measurement."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from multiprocessing import get_context
from pathlib import Path

from sqlalchemy import Engine, text

from benchmarks.market import write_market
from core.clock import utc_now
from core.database import make_engine, session_scope
from core.settings import Settings
from models.migrate import migrate
from services.prices import import_closes
from services.seeding import seed
from workers.embedded import EmbeddedServers, ServerUrls


@dataclass(frozen=True, slots=True)
class Site:
    """Servers, an engine on their database, and the settings of the processes that work on them."""

    settings: Settings
    urls: ServerUrls
    engine: Engine


@contextmanager
def bench_site(settings: Settings, workers: int) -> Iterator[Site]:
    """Servers in a temporary home for the time of the block; whatever servers the settings name are left alone."""
    with tempfile.TemporaryDirectory(prefix="nightshift-bench-", ignore_cleanup_errors=True) as directory:
        home = Path(directory)
        changes = {"home": home, "workers": workers, "database_url": None, "redis_url": None, "log_format": "json"}
        with EmbeddedServers(home) as servers:
            urls = servers.start()
            engine = make_engine(urls.database_url, application="nightshift-bench")
            try:
                yield Site(settings.model_copy(update=changes), urls, engine)
            finally:
                engine.dispose()


def prepare(site: Site, *, users: int, nights: int) -> date:
    """Migrate, import the synthetic market, and seed `users` users with one simulation each; the first night's day."""
    migrate(site.engine)
    prices = site.settings.nightshift_home() / "market.csv"
    first = write_market(prices, nights)
    with session_scope(site.engine) as session:
        import_closes(session, prices, now=utc_now(), strict=True)
    # In a process of its own: what it takes to seed millions is not the memory of whoever plans and publishes nights.
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as seeder:
        seeder.submit(_seed, site.urls.database_url, users, first).result()
    tidy(site.engine, "users, simulations, closes")
    return first


def _seed(database_url: str, users: int, start: date) -> None:
    engine = make_engine(database_url, application="nightshift-bench")
    seed(engine, users=users, start=start)
    engine.dispose()


def tidy(engine: Engine, tables: str) -> None:
    """Do now what autovacuum and the checkpointer would do in the middle of the next measurement."""
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text(f"VACUUM (ANALYZE) {tables}"))
        connection.execute(text("CHECKPOINT"))
