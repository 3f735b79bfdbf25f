"""A batch's rows in and out of PostgreSQL: one COPY a table.

Simulations and their rows of the day before are read by two COPYs and joined by the reader: the server would sort both
by key first, which costs it more than sending them.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date

import numpy as np
from numpy.typing import NDArray

from core.clock import day_from_number
from models.copy_codec import RowFormat
from models.portfolio_rows import (
    PORTFOLIO_FORMAT,
    SIMULATION_FORMAT,
    STATE_FORMAT,
    TRADE_FORMAT,
    Frame,
    frame_of,
    place_states,
)
from services.copying import copy_in, copy_out
from services.locks import Connection


def _names(row_format: RowFormat, prefix: str = "") -> str:
    return ", ".join(prefix + column.name for column in row_format.columns)


def read_frame(connection: Connection, users: tuple[int, int], before: date, through: date) -> Frame:
    """The simulations of `users` ([lo, hi)) that have begun by `through`, with their state at the close of `before`.

    Those without a row on `before` come with their initial state; `place_latest` finds older ones.
    """
    scope = f"user_id >= {int(users[0])} AND user_id < {int(users[1])}"
    # COPY takes no parameters; what is put in are integers and dates.
    simulations = copy_out(
        connection,
        f"SELECT {_names(SIMULATION_FORMAT)} FROM simulations WHERE {scope} AND start_day <= '{through}'",  # noqa: S608
    )
    frame = frame_of(SIMULATION_FORMAT.decode(simulations))
    del simulations
    states = copy_out(
        connection,
        f"SELECT {_names(STATE_FORMAT)} FROM portfolio_days WHERE day = '{before}' AND {scope}",  # noqa: S608
    )
    place_states(frame, STATE_FORMAT.decode(states))
    return frame


def place_latest(connection: Connection, frame: Frame, where: NDArray[np.bool_], through: date) -> None:
    """Give the simulations of the mask `where` their newest row on or before `through`, however old it is."""
    pairs = zip(frame.simulations.user_id[where].tolist(), frame.simulations.simulation_id[where].tolist(), strict=True)
    states = copy_out(connection, _latest_query(list(pairs), through))
    place_states(frame, STATE_FORMAT.decode(states))


def _latest_query(keys: Sequence[tuple[int, int]], through: date) -> str:
    newest = (
        "SELECT * FROM portfolio_days d WHERE d.user_id = k.user_id AND d.simulation_id = k.id"  # noqa: S608 - as above
        f" AND d.day <= '{through}' ORDER BY d.day DESC LIMIT 1"
    )
    values = ", ".join(f"({user}::bigint, {simulation}::bigint)" for user, simulation in keys)
    return f"SELECT {_names(STATE_FORMAT, 'p.')} FROM (VALUES {values}) AS k (user_id, id), LATERAL ({newest}) AS p"  # noqa: S608


def simulations_with_rows(connection: Connection, users: tuple[int, int], days: tuple[date, date]) -> NDArray[np.int64]:
    """int64, ids of the simulations of `users` that have a row on any of `days` (both included)."""
    rows = connection.execute(
        "SELECT DISTINCT simulation_id FROM portfolio_days"
        " WHERE day BETWEEN %s AND %s AND user_id >= %s AND user_id < %s",
        (*days, *users),
    ).fetchall()
    return np.array([row[0] for row in rows], dtype=np.int64)


def write_portfolio_days(connection: Connection, day: int, rows: bytes) -> None:
    """Append rows of one day, straight into its partition: routing a million rows costs, and the day is known."""
    copy_in(connection, f"portfolio_days_{day_from_number(day):%Y%m%d}", _names(PORTFOLIO_FORMAT), [rows])


def write_trades(connection: Connection, day: int, rows: memoryview) -> None:
    """Append one day's trades."""
    copy_in(connection, f"trades_{day_from_number(day):%Y%m}", _names(TRADE_FORMAT), [rows])
