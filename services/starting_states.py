"""What the users of a night's batch start from: their simulations, each at its newest row.

Most have a row on the day before the run. Those that were left out, or are new, are looked up one by one among the rows
of all days; those that an earlier piece of the batch has brought to its last day are found there together.
"""

from __future__ import annotations

from datetime import date

import numpy as np

from core.clock import day_from_number, day_number
from models.portfolio_frame import Frame
from services.locks import Connection
from services.portfolio_io import (
    Timed,
    place_latest,
    place_left_at,
    place_states_of,
    read_frame,
    simulations_with_rows,
)


def read_starting_states(
    connection: Connection,
    users: tuple[int, int],
    days: tuple[date, date],
    timed: Timed,
    piece: tuple[date, date, date] | None = None,
) -> Frame:
    """The simulations of `users` that have begun by the last of the run's `days`, without those in quarantine.

    Args:
        connection: in a transaction, with the users' granules locked.
        users: [lo, hi).
        days: the run's first and last day.
        timed: measures the stages "read" and "decode".
        piece: where an earlier piece has ended, the first kept day after that, and where this one ends. Whoever is to
            begin or to go on after it may come with his initial state instead.
    """
    before = day_from_number(day_number(days[0]) - 1)
    frame = read_frame(connection, users, before, days[1], timed)
    with timed("read"):
        # First of all: to look for the newest row of somebody who is left out takes longer with every night.
        _leave_out_quarantined(connection, frame, users)
        started = simulations_with_rows(connection, users, days)
    if len(started):
        # Most of them were brought up to the last day by somebody else, and one read finds them all.
        place_states_of(connection, frame, users, days[1], timed)
    begun_before = frame.simulations.start_day < day_number(days[0])
    elsewhere = (frame.state_day < day_number(before)) & begun_before
    elsewhere |= np.isin(frame.simulations.simulation_id, started) & (frame.state_day < day_number(days[1]))
    if piece is not None and elsewhere.any():
        came_to, then, through = piece
        elsewhere &= frame.simulations.start_day <= day_number(through)
        wanted = frame.simulations.simulation_id[elsewhere]
        with timed("read"):
            placed = place_left_at(connection, frame, wanted, users, (came_to, then))
        # By their ids: whose row was unreadable is not in the frame any more.
        elsewhere = np.isin(frame.simulations.simulation_id, np.setdiff1d(wanted, placed))
    if elsewhere.any():
        with timed("read"):
            place_latest(connection, frame, elsewhere, days[1])
    return frame


def _leave_out_quarantined(connection: Connection, frame: Frame, users: tuple[int, int]) -> None:
    entries = connection.execute(
        "SELECT user_id, simulation_id FROM quarantine WHERE cleared_at IS NULL AND user_id >= %s AND user_id < %s",
        users,
    ).fetchall()
    if entries:
        whole_users = [user for user, simulation in entries if simulation is None]
        simulations = [simulation for _, simulation in entries if simulation is not None]
        out = np.isin(frame.simulations.user_id, np.array(whole_users, dtype=np.int64))
        out |= np.isin(frame.simulations.simulation_id, np.array(simulations, dtype=np.int64))
        frame.keep(~out)
        known = set(entries)
        frame.unreadable = [key for key in frame.unreadable if key not in known]
