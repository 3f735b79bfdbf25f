"""A batch's rows in and out of PostgreSQL: one COPY a table.

Simulations and their rows of the day before are read by two COPYs and joined by the reader: the server would sort both
by key first, which costs it more than sending them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from datetime import date

import numpy as np
from numpy.typing import NDArray

from core.clock import EPOCH, day_from_number, day_number
from models.column_reader import read_groups
from models.portfolio_frame import (
    GATHERED_SIMULATIONS,
    STATE_COLUMNS,
    Frame,
    frame_of,
    gathered_states,
    place_states,
    state_layout,
)
from models.portfolio_rows import PORTFOLIO_FORMAT, TRADE_FORMAT
from services.copying import copy_in, copy_out
from services.locks import Connection

Timed = Callable[[str], AbstractContextManager[None]]

# The planner knows nothing of how long arrays are, expects thousands of groups, and would sort the rows into them: that
# takes longer than all the rest. Until the transaction ends.
GATHER_BY_HASH = "SET LOCAL enable_sort = off; SET LOCAL work_mem = '64MB'"


def read_frame(connection: Connection, users: tuple[int, int], before: date, through: date, timed: Timed) -> Frame:
    """The simulations of `users` ([lo, hi)) that have begun by `through`, with their state at the close of `before`.

    Those without a row on `before` come with their initial state; `place_latest` finds older ones. `timed` measures
    the server's part as "read" and ours as "decode".
    """
    simulations, states = frame_queries(users, before, through)
    with timed("read"):
        connection.execute(GATHER_BY_HASH)
        messages = copy_out(connection, simulations)
    with timed("decode"):
        frame = frame_of(messages)
    _place(connection, frame, states, timed)
    return frame


def place_states_of(connection: Connection, frame: Frame, users: tuple[int, int], day: date, timed: Timed) -> None:
    """Give those of `users` who have a row on `day` the state of that row; in the transaction of `read_frame`."""
    _, states = frame_queries(users, day, day)
    _place(connection, frame, states, timed)


def _place(connection: Connection, frame: Frame, states: str, timed: Timed) -> None:
    with timed("read"):
        messages = copy_out(connection, states)
    with timed("decode"):
        place_states(frame, read_groups(messages, STATE_COLUMNS, keys=1))


def frame_queries(users: tuple[int, int], before: date, through: date) -> tuple[str, str]:
    """The queries of `read_frame`: simulations, and their rows of `before`."""
    scope = f"user_id >= {int(users[0])} AND user_id < {int(users[1])}"
    # COPY takes no parameters; what is put in are integers and dates.
    simulations = (
        f"SELECT {GATHERED_SIMULATIONS} FROM simulations"  # noqa: S608 - see above
        f" WHERE {scope} AND start_day <= '{through}' GROUP BY 1, 2"
    )
    states = (
        f"SELECT {day_number(before)}, {gathered_states()} FROM portfolio_days"  # noqa: S608 - see above
        f" WHERE day = '{before}' AND {scope} GROUP BY {state_layout()}"
    )
    return simulations, states


def place_latest(connection: Connection, frame: Frame, where: NDArray[np.bool_], through: date) -> None:
    """Give the simulations of the mask `where` their newest row on or before `through`, however old it is."""
    pairs = zip(frame.simulations.user_id[where].tolist(), frame.simulations.simulation_id[where].tolist(), strict=True)
    states = copy_out(connection, _latest_query(list(pairs), through))
    place_states(frame, read_groups(states, STATE_COLUMNS, keys=1))


def _latest_query(keys: Sequence[tuple[int, int]], through: date) -> str:
    newest = newest_row(f"d.day <= '{through}'")
    values = ", ".join(f"({user}::bigint, {simulation}::bigint)" for user, simulation in keys)
    return (
        f"SELECT p.day - DATE '{EPOCH}', {gathered_states('p.')}"  # noqa: S608 - as above
        f" FROM (VALUES {values}) AS k (user_id, id), LATERAL ({newest}) AS p GROUP BY 1, {state_layout('p.')}"
    )


def newest_row(days: str) -> str:
    """The query of the newest row of the simulation (k.user_id, k.id) of which the condition `days` on `d.day` is true.

    Of one that was left out for long, that row may be in the archive.
    """
    rows = " UNION ALL ".join(
        f"SELECT * FROM {table} d WHERE d.user_id = k.user_id AND d.simulation_id = k.id AND {days}"  # noqa: S608 - as above
        for table in ("portfolio_days", "portfolio_archive")
    )
    return f"SELECT * FROM ({rows}) AS r ORDER BY r.day DESC LIMIT 1"  # noqa: S608 - as above


def simulations_with_rows(connection: Connection, users: tuple[int, int], days: tuple[date, date]) -> NDArray[np.int64]:
    """int64, ids of the simulations of `users` that have a row on any of `days` (both included)."""
    # The days stand in the text: with bound ones, every execution would lock the partitions of all days.
    rows = connection.execute(
        f"SELECT DISTINCT simulation_id FROM portfolio_days WHERE day BETWEEN '{days[0]}' AND '{days[1]}'".encode()  # noqa: S608
        + b" AND user_id >= %s AND user_id < %s",
        users,
    ).fetchall()
    return np.array([row[0] for row in rows], dtype=np.int64)


def write_portfolio_days(connection: Connection, day: int, blocks: Sequence[bytes]) -> None:
    """Append rows of one day, straight into its partition: routing a million rows costs, and the day is known."""
    copy_in(connection, f"portfolio_days_{day_from_number(day):%Y%m%d}", PORTFOLIO_FORMAT.names, blocks)


def write_archived_days(connection: Connection, blocks: Sequence[bytes]) -> None:
    """Append rows to the archive."""
    copy_in(connection, "portfolio_archive", PORTFOLIO_FORMAT.names, blocks)


def write_trades(connection: Connection, day: int, rows: memoryview) -> None:
    """Append one day's trades."""
    copy_in(connection, f"trades_{day_from_number(day):%Y%m}", TRADE_FORMAT.names, [rows])


def write_many_days(
    connection: Connection, rows: Sequence[bytes | memoryview], trades: Sequence[bytes | memoryview]
) -> None:
    """Append rows of any days, and their trades: PostgreSQL finds the partition of each."""
    if rows:
        copy_in(connection, "portfolio_days", PORTFOLIO_FORMAT.names, rows)
    if trades:
        copy_in(connection, "trades", TRADE_FORMAT.names, trades)
