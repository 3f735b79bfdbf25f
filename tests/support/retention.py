"""Two histories of the same nights: of one, old days have gone; of the other, every day was kept."""

from __future__ import annotations

from datetime import date, timedelta
from typing import Any

from sqlalchemy import Engine, text

from core.database import session_scope
from core.settings import Settings
from services.retention import Maintained, maintain
from services.retention_days import KeptDays, kept_days
from tests.support.nights import LAST_SAMPLE_DAY, NOW, Night, change, rows, sample_world, scalar, settings

START = date(2022, 9, 20)
LEFT_OUT_ON = date(2022, 10, 12)
KEEP = 30
DAILY_FROM = LAST_SAMPLE_DAY - timedelta(days=KEEP - 1)
MONTH_ENDS = [date(2022, 9, 30), date(2022, 10, 31)]
LATER = NOW + timedelta(days=10)


def keeping(**changes: object) -> Settings:
    """Settings that keep 30 days."""
    return settings(**{"keep_days": KEEP} | changes)  # type: ignore[arg-type]


def build_history(engine: Engine) -> None:
    """Sixty users over a hundred nights; in October one of them, and a simulation of another, are left out."""
    sample_world(engine, 60, start=START)
    night = Night(engine, settings())
    night.run(LEFT_OUT_ON - timedelta(days=1))
    for user, simulation in left_out(engine):
        change(
            engine,
            "INSERT INTO quarantine (user_id, simulation_id, day, reason, detail)"
            " VALUES (:user, :simulation, :day, 'error', 'a test')",
            user=user, simulation=simulation, day=LEFT_OUT_ON,
        )  # fmt: skip
    night.run(LAST_SAMPLE_DAY)
    # At once: day by day, maintenance would do it in every test.
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM (FREEZE, ANALYZE)"))


def left_out(engine: Engine) -> list[tuple[int, int | None]]:
    """A whole user, and a simulation of another: the first ones who begin on the first day."""
    found = rows(
        engine, "SELECT user_id, id FROM simulations WHERE start_day = :start ORDER BY user_id LIMIT 2", start=START
    )
    return [(found[0][0], None), (found[1][0], found[1][1])]


def maintained(engine: Engine, **changes: object) -> Maintained:
    """Maintenance, all of it."""
    return maintain(engine, now=NOW, settings=keeping(**changes))


def kept_of(engine: Engine) -> KeptDays:
    """What this history keeps."""
    with session_scope(engine) as session:
        return kept_days(session)


def partitions(engine: Engine, parent: str = "portfolio_days") -> list[str]:
    """The names of the partitions, in order."""
    return [
        name
        for (name,) in rows(
            engine,
            "SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid"
            " WHERE i.inhparent = CAST(:parent AS regclass) ORDER BY 1",
            parent=parent,
        )
    ]


def assert_same_where_kept(engine: Engine, whole: Engine) -> None:
    """Every kept day, all trades and the quarantine are those of the history of which nothing went."""
    kept = kept_of(engine)
    assert kept.daily_from > START
    assert kept_of(whole) == KeptDays()
    ours, theirs = (_contents(history, kept) for history in (engine, whole))
    for table, expected in theirs.items():
        assert len(ours[table]) == len(expected), table
        assert ours[table] == expected, table


def _contents(engine: Engine, kept: KeptDays) -> dict[str, list[tuple[Any, ...]]]:
    days = rows(engine, "SELECT * FROM portfolio_days ORDER BY day, user_id, simulation_id")
    return {
        "portfolio_days": [row for row in days if row[0] in kept],
        "trades": rows(engine, "SELECT * FROM trades ORDER BY day, user_id, simulation_id, asset_id"),
        "quarantine": rows(
            engine, "SELECT user_id, simulation_id, day, reason FROM quarantine WHERE cleared_at IS NULL ORDER BY 1, 2"
        ),
        # Whoever is left out goes on from his newest row, wherever that is.
        "newest": rows(engine, _NEWEST),
    }


def archived(engine: Engine) -> list[tuple[int, int, date]]:
    """User, simulation and day of each row in the archive."""
    return [
        (user, simulation, day)
        for user, simulation, day in rows(
            engine, "SELECT user_id, simulation_id, day FROM portfolio_archive ORDER BY user_id, simulation_id, day"
        )
    ]


def newest_day(engine: Engine) -> date:
    """The newest night that is done."""
    day: date = scalar(engine, "SELECT max(day) FROM runs WHERE kind = 'nightly' AND status = 'done'")
    return day


_NEWEST = """
SELECT DISTINCT ON (simulation_id) * FROM (
    SELECT * FROM portfolio_days UNION ALL SELECT * FROM portfolio_archive
) AS r ORDER BY simulation_id, day DESC
"""
