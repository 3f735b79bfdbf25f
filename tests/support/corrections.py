"""Two histories of the same nights: in one a close was right from the start, in the other it was corrected."""

from __future__ import annotations

from datetime import date, timedelta
from decimal import Decimal
from typing import Any

from sqlalchemy import Engine

from core.database import session_scope
from services.corrections import Correction, correct_close
from tests.support.nights import FIRST_NIGHT, Night, rows, scalar

LAST = FIRST_NIGHT + timedelta(days=7)
# The close that most of the tests correct, and what it becomes.
ASSET, MIDDLE, PRICE = 1, FIRST_NIGHT + timedelta(days=3), 7
OWNERS = "SELECT id FROM simulations WHERE :asset = ANY (asset_ids) AND start_day <= :day"
_TABLES = {
    "portfolio_days": "SELECT * FROM portfolio_days ORDER BY day, user_id, simulation_id",
    "trades": "SELECT * FROM trades ORDER BY day, user_id, simulation_id, asset_id",
    "quarantine": "SELECT user_id, simulation_id, day, reason FROM quarantine WHERE cleared_at IS NULL ORDER BY 1, 2",
}


def contents(engine: Engine) -> dict[str, list[tuple[Any, ...]]]:
    """Everything that nights wrote, and who is in quarantine."""
    return {table: rows(engine, query) for table, query in _TABLES.items()}


def assert_same(engine: Engine, right: Engine) -> None:
    """Both tell the same history, row by row and column by column."""
    ours, theirs = contents(engine), contents(right)
    for table, expected in theirs.items():
        assert len(ours[table]) == len(expected), table
        assert ours[table] == expected, table


def stored(engine: Engine, asset: int) -> set[tuple[Any, ...]]:
    """Where the rows of simulations without the asset are stored, and who wrote them: a rewritten row moves."""
    found: set[tuple[Any, ...]] = set()
    for table in ("portfolio_days", "trades"):
        found |= set(
            rows(
                engine,
                f"SELECT p.tableoid, p.ctid::text, p.xmin::text, p.simulation_id FROM {table} p"
                " JOIN simulations s ON s.id = p.simulation_id WHERE NOT :asset = ANY (s.asset_ids)",
                asset=asset,
            )
        )
    return found


def close_of(engine: Engine, asset: int, day: date) -> Decimal:
    """The close of a day, in units."""
    ticks: int = scalar(engine, "SELECT close FROM closes WHERE asset_id = :asset AND day = :day", asset=asset, day=day)
    return Decimal(ticks).scaleb(-8)


def correct(night: Night, asset: int, day: date, price: object) -> Correction:
    """Correct a close and commit; nothing is published."""
    symbol = scalar(night.engine, "SELECT symbol FROM assets WHERE id = :asset", asset=asset)
    with session_scope(night.engine) as session:
        return correct_close(
            session, symbol, day, str(price), reason="a typo", requested_by="tester", now=night.now,
            settings=night.settings,
        )  # fmt: skip


def status(night: Night, run: int | None) -> str:
    """The status of a run."""
    return str(scalar(night.engine, "SELECT status FROM runs WHERE id = :run", run=run))


def finish(night: Night) -> None:
    """Publish what may start, and work until nothing is left."""
    night.publish()
    night.drain()
    assert scalar(night.engine, "SELECT count(*) FROM runs WHERE status IN ('planned', 'running')") == 0
