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

from core.database import make_engine
from core.settings import Settings
from workers.embedded import EmbeddedServers, ServerUrls

ASSETS = 50  # of the synthetic market, unless more are asked for


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


def prepare(site: Site, *, users: int, nights: int, assets: int = ASSETS) -> date:
    """Migrate, import the synthetic market, and seed `users` users with one simulation each; the first night's day."""
    market = site.settings.nightshift_home() / "market.csv"
    # In a process of its own: what it takes to seed millions is not the memory of whoever plans and publishes nights.
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as filler:
        first = filler.submit(_fill, site.urls.database_url, market, assets, users, nights).result()
    tidy(site.engine, "users, simulations, closes")
    return first


def _fill(database_url: str, market: Path, assets: int, users: int, nights: int) -> date:
    from benchmarks.filling import fill  # noqa: PLC0415 - see above: 15 MiB

    return fill(database_url, market, assets, users, nights)


def tidy(engine: Engine, tables: str) -> None:
    """Do now what autovacuum and the checkpointer would do in the middle of the next measurement."""
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text(f"VACUUM (ANALYZE) {tables}"))
        connection.execute(text("CHECKPOINT"))
