"""A batch's rows in and out of PostgreSQL: one COPY to read, one COPY a day and table to write."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import date

import numpy as np
from numpy.typing import NDArray

from core.clock import day_from_number
from models.copy_codec import HEADER, TRAILER
from models.portfolio_rows import PORTFOLIO_FORMAT, READ_FORMAT, TRADE_FORMAT, Frame, frame_of
from services.locks import Connection

_READ_COLUMNS = (
    "s.user_id, s.id, s.strategy, s.start_day, s.initial_cash, s.params, s.asset_ids, s.weights_ppm,"
    " p.day, p.nights, p.cash, p.equity, p.peak, p.return_mean, p.return_m2, p.max_drawdown,"
    " p.asset_ids, p.quantities, p.cost_basis, p.state"
)
_PORTFOLIO_NAMES = ", ".join(column.name for column in PORTFOLIO_FORMAT.columns)
_TRADE_NAMES = ", ".join(column.name for column in TRADE_FORMAT.columns)


def read_frame(connection: Connection, users: tuple[int, int], before: date, through: date) -> Frame:
    """The simulations of `users` ([lo, hi)) that have begun by `through`, with their state at the close of `before`.

    Those without a row on `before` come with their initial state; `read_latest` tells whether they have an older one.
    """
    lo, hi = users
    return _read(
        connection,
        # COPY takes no parameters; what is put in are integers and dates.
        f"SELECT {_READ_COLUMNS} FROM simulations s"  # noqa: S608
        " LEFT JOIN portfolio_days p ON p.user_id = s.user_id AND p.simulation_id = s.id"
        f" AND p.day = '{before}' AND p.user_id >= {int(lo)} AND p.user_id < {int(hi)}"
        f" WHERE s.user_id >= {int(lo)} AND s.user_id < {int(hi)} AND s.start_day <= '{through}'"
        " ORDER BY s.user_id, s.id",
    )


def read_latest(connection: Connection, simulations: Sequence[tuple[int, int]], through: date) -> Frame:
    """The given (user_id, simulation_id) pairs with their newest row on or before `through`, however old it is."""
    keys = ", ".join(f"({int(user)}::bigint, {int(simulation)}::bigint)" for user, simulation in simulations)
    newest = (
        "SELECT * FROM portfolio_days d WHERE d.user_id = s.user_id AND d.simulation_id = s.id"  # noqa: S608 - as above
        f" AND d.day <= '{through}' ORDER BY d.day DESC LIMIT 1"
    )
    return _read(
        connection,
        f"SELECT {_READ_COLUMNS} FROM (VALUES {keys}) AS k (user_id, id) JOIN simulations s USING (user_id, id)"  # noqa: S608
        f" LEFT JOIN LATERAL ({newest}) AS p ON true ORDER BY s.user_id, s.id",
    )


def _read(connection: Connection, query: str) -> Frame:
    with connection.cursor() as cursor, cursor.copy(f"COPY ({query}) TO STDOUT (FORMAT BINARY)".encode()) as copy:
        return frame_of(READ_FORMAT.decode(copy))


def simulations_with_rows(connection: Connection, users: tuple[int, int], days: tuple[date, date]) -> NDArray[np.int64]:
    """int64, ids of the simulations of `users` that have a row on any of `days` (both included)."""
    rows = connection.execute(
        "SELECT DISTINCT simulation_id FROM portfolio_days"
        " WHERE day BETWEEN %s AND %s AND user_id >= %s AND user_id < %s",
        (*days, *users),
    ).fetchall()
    return np.array([row[0] for row in rows], dtype=np.int64)


def write_portfolio_days(connection: Connection, day: int, blocks: Iterable[memoryview]) -> None:
    """Append rows of one day, straight into its partition: routing a million rows costs, and the day is known."""
    partition = f"portfolio_days_{day_from_number(day):%Y%m%d}"
    _write(connection, f"COPY {partition} ({_PORTFOLIO_NAMES}) FROM STDIN (FORMAT BINARY)", blocks)


def write_trades(connection: Connection, day: int, block: memoryview) -> None:
    """Append one day's trades."""
    partition = f"trades_{day_from_number(day):%Y%m}"
    _write(connection, f"COPY {partition} ({_TRADE_NAMES}) FROM STDIN (FORMAT BINARY)", [block])


def _write(connection: Connection, statement: str, blocks: Iterable[memoryview]) -> None:
    with connection.cursor() as cursor, cursor.copy(statement.encode()) as copy:
        copy.write(HEADER)
        for block in blocks:
            copy.write(block)
        copy.write(TRAILER)
