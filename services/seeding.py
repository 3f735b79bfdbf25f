"""Sample users and simulations: the same seed and prices give the same rows, on every machine.

Only raw words of PCG64 are used, whose stream numpy guarantees, and integer arithmetic on them; how its distributions
draw, numpy may change. Everything goes in by COPY in one transaction, in chunks: all or nothing, in bounded memory.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

import numpy as np
import psycopg
from numpy.typing import NDArray
from sqlalchemy import Connection, Engine, text

from core.clock import day_number
from core.database import driver_connection
from core.errors import UsageError
from models.copy_codec import HEADER, TRAILER
from models.portfolio_rows import SIMULATION_FORMAT
from services.seeding_mix import MAX_SLOTS, Draws, Sample, draw_sample

CHUNK_SIMULATIONS = 20_000
MAX_USERS = 100_000_000
MAX_SIMULATIONS_PER_USER = 100
LOOKBACK_DAYS = 60
"""Without a start, simulations begin on the day this many days before the newest close …"""
SPREAD_DAYS = 45
"""… or, three in ten of them, on one of this many days after it."""

_COPY_USERS = b"COPY users (id, name) FROM STDIN"
_COPY_SIMULATIONS = (
    f"COPY simulations ({', '.join(column.name for column in SIMULATION_FORMAT.columns)}) FROM STDIN (FORMAT BINARY)"
).encode()
_FIRST_NAMES = (
    "Ada", "Ben", "Cleo", "Dario", "Elif", "Femi", "Gita", "Hugo", "Ines", "Jonas",
    "Kira", "Luis", "Mei", "Nils", "Olga", "Pavel", "Quinn", "Rosa", "Sven", "Tara",
)  # fmt: skip
_LAST_NAMES = (
    "Ash", "Berg", "Costa", "Dahl", "Evans", "Frei", "Gruber", "Hart", "Ito", "Juhl",
    "Klein", "Lund", "Moss", "Novak", "Ortiz", "Park", "Reed", "Stone", "Tran", "Wolf",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class SeedSummary:
    """What was added: users `[first_user, first_user + users)`, and the first and last day on which they may begin."""

    users: int
    simulations: int
    first_user: int
    first_day: date
    last_day: date
    assets: int


def seed(  # noqa: PLR0913 - every one of them decides what is seeded
    engine: Engine,
    *,
    users: int,
    simulations_per_user: int = 1,
    seed_number: int = 1,
    start: date | None = None,
    spread_days: int | None = None,
    append: bool = False,
    max_stale_days: int = 5,
    on_chunk: Callable[[int], None] = lambda _: None,
) -> SeedSummary:
    """Add users with simulations of a realistic mix (services.seeding_mix).

    Args:
        engine: of a migrated database with prices.
        users: how many.
        simulations_per_user: how many each of them owns.
        seed_number: the seed.
        start: the first day of simulations; None: LOOKBACK_DAYS before the newest close.
        spread_days: three in ten begin within this many days after the first; None: 0 if `start` is given, else
            SPREAD_DAYS.
        append: allow it where users exist.
        max_stale_days: only assets with a close this recent at the first day are used.
        on_chunk: called with the number of users added so far.

    Raises:
        UsageError: numbers out of range, users exist, or no asset has a price at the start.
    """
    _check_counts(users, simulations_per_user, seed_number)
    with engine.begin() as connection:
        # Two who seed at once would both take the next free ids.
        connection.execute(text("LOCK TABLE users, simulations IN SHARE ROW EXCLUSIVE MODE"))
        _check_empty(connection, append=append)
        first, last, assets = _universe(connection, start, spread_days, max_stale_days)
        first_user, first_simulation = _next_id(connection, "users"), _next_id(connection, "simulations")
        draws = Draws(seed_number)
        driver = driver_connection(connection)
        chunk = max(1, CHUNK_SIMULATIONS // simulations_per_user)
        for done in range(0, users, chunk):
            count = min(chunk, users - done)
            user_ids = np.arange(first_user + done, first_user + done + count, dtype=np.int64)
            _copy_users(driver, user_ids, draws)
            owners = np.repeat(user_ids, simulations_per_user)
            ids = first_simulation + done * simulations_per_user + np.arange(len(owners), dtype=np.int64)
            days = (day_number(first), day_number(last))
            _copy_simulations(driver, ids, owners, draw_sample(draws, len(owners), assets, days))
            on_chunk(done + count)
        _advance_ids(connection, "users", first_user + users - 1)
        _advance_ids(connection, "simulations", first_simulation + users * simulations_per_user - 1)
        # The planner would otherwise take the tables for empty during the first night.
        connection.execute(text("ANALYZE users, simulations"))
    return SeedSummary(users, users * simulations_per_user, first_user, first, last, len(assets))


def _check_counts(users: int, simulations_per_user: int, seed_number: int) -> None:
    if not 1 <= users <= MAX_USERS:
        raise UsageError(f"users must be 1 to {MAX_USERS:,}, not {users:,}")
    if not 1 <= simulations_per_user <= MAX_SIMULATIONS_PER_USER:
        raise UsageError(f"simulations per user must be 1 to {MAX_SIMULATIONS_PER_USER}, not {simulations_per_user:,}")
    if not 0 <= seed_number < 2**64:
        raise UsageError("the seed must be 0 to 2**64 - 1")


def _check_empty(connection: Connection, *, append: bool) -> None:
    existing = connection.scalar(text("SELECT count(*) FROM users"))
    if existing and not append:
        raise UsageError(f"{existing:,} users exist: use an empty database, or --append to add to them")


def _universe(
    connection: Connection, start: date | None, spread_days: int | None, max_stale_days: int
) -> tuple[date, date, NDArray[np.int32]]:
    """The first and last day on which simulations may begin, and the ids of the assets that have a price then."""
    oldest, newest = connection.execute(text("SELECT min(day), max(day) FROM closes")).one()
    if newest is None:
        raise UsageError("there are no prices: import some first, nightshift prices import FILE")
    first = start or max(newest - timedelta(days=LOOKBACK_DAYS), oldest)
    spread = spread_days if spread_days is not None else (0 if start else SPREAD_DAYS)
    rows = connection.scalars(
        text("SELECT DISTINCT asset_id FROM closes WHERE day BETWEEN :first AND :last ORDER BY asset_id"),
        {"first": first - timedelta(days=max_stale_days), "last": first},
    )
    assets = np.array(rows.all(), dtype=np.int32)
    if not len(assets):
        raise UsageError(
            f"no asset has a price on {first} or in the {max_stale_days} days before:"
            f" the prices are of {oldest} to {newest}"
        )
    return first, min(first + timedelta(days=spread), max(newest, first)), assets


def _next_id(connection: Connection, table: str) -> int:
    newest = connection.scalar(text(f"SELECT coalesce(max(id), 0) FROM {table}"))  # noqa: S608 - a table of ours
    return int(newest or 0) + 1


def _advance_ids(connection: Connection, table: str, last: int) -> None:
    values = {"table": table, "last": last}
    connection.execute(text("SELECT setval(pg_get_serial_sequence(:table, 'id'), :last)"), values)


def _copy_users(driver: psycopg.Connection[Any], user_ids: NDArray[np.int64], draws: Draws) -> None:
    first = draws.below(len(user_ids), len(_FIRST_NAMES)).tolist()
    last = draws.below(len(user_ids), len(_LAST_NAMES)).tolist()
    rows = [
        f"{user}\t{_FIRST_NAMES[a]} {_LAST_NAMES[b]}\n"
        for user, a, b in zip(user_ids.tolist(), first, last, strict=True)
    ]
    with driver.cursor() as cursor, cursor.copy(_COPY_USERS) as copy:
        copy.write("".join(rows))


def _copy_simulations(
    driver: psycopg.Connection[Any], ids: NDArray[np.int64], owners: NDArray[np.int64], sample: Sample
) -> None:
    """Write the rows in the order of their ids: a batch of users then lies on neighbouring pages."""
    rows: list[memoryview] = [memoryview(b"")] * len(ids)
    layout = sample.param_count * (MAX_SLOTS + 1) + sample.slots
    for code in np.unique(layout).tolist():
        members = np.flatnonzero(layout == code)
        params, slots = divmod(code, MAX_SLOTS + 1)
        encoded = SIMULATION_FORMAT.encode(
            {
                "id": ids[members],
                "user_id": owners[members],
                "strategy": sample.strategy[members],
                "start_day": sample.start_day[members],
                "initial_cash": sample.initial_cash[members],
                "params": sample.params[members, :params],
                "asset_ids": sample.asset_ids[members, :slots],
                "weights_ppm": sample.weights[members, :slots],
            }
        ).cast("B")
        width = len(encoded) // len(members)
        for position, member in enumerate(members.tolist()):
            rows[member] = encoded[position * width : (position + 1) * width]
    with driver.cursor() as cursor, cursor.copy(_COPY_SIMULATIONS) as copy:
        copy.write(HEADER + b"".join(rows) + TRAILER)
