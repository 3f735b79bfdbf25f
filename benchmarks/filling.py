"""What a database holds before a benchmark begins: tables, the synthetic market's closes, and seeded users.

A module of its own, which only the process imports that fills: what it takes is not the memory of whoever is measured.
"""

from __future__ import annotations

from datetime import date
from pathlib import Path

from benchmarks.market import write_market
from core.clock import utc_now
from core.database import make_engine, session_scope
from models.migrate import migrate
from services.prices import import_closes
from services.seeding import seed


def fill(database_url: str, market: Path, assets: int, users: int, nights: int) -> date:
    """Migrate, import the market, which is written to `market`, and seed `users` users; the first night's day."""
    engine = make_engine(database_url, application="nightshift-bench")
    try:
        migrate(engine)
        first = write_market(market, nights, assets)
        with session_scope(engine) as session:
            import_closes(session, market, now=utc_now(), strict=True)
        seed(engine, users=users, start=first)
    finally:
        engine.dispose()
    return first
