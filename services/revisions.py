"""What a scoped run changes of each simulation, written in the transaction that changes it.

Guarantees: a simulation gets one row in `portfolio_revisions` if its equity of any day is another than before, or if a
day has a row that it had not, or has none any more; nobody else gets one. The old values come out of the DELETE that
takes the days back, the new ones are those that are written: no row is read for it. Rows of a batch that is tried again
went with its transaction.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from core.clock import EPOCH
from models.column_reader import gathered, read_groups
from models.copy_codec import DATE, INT8, Column, RowFormat
from services.copying import copy_in, copy_out
from services.locks import Connection

# Equity is never negative; this is no amount at all.
_NONE = np.iinfo(np.int64).min
_NEVER = np.iinfo(np.int32).max
_TAKEN = (Column("simulation_id", INT8), Column("equity", INT8))
_KEY = (
    *(Column(name, INT8) for name in ("run_id", "user_id", "simulation_id")),
    *(Column(name, DATE) for name in ("first_changed_day", "last_day")),
)


@dataclass(frozen=True, slots=True)
class Revisions:
    """n simulations that changed, ascending by id.

    Attributes:
        users, simulations: int64 (n,).
        first, last: int32 (n,), day numbers: the first day that changed, and the newest day with a row, old or new.
        old, new: int64 (n,), equity of the last day in ticks.
        had, has: bool (n,), whether there was a row on the last day, and whether there is one.
    """

    users: NDArray[np.int64]
    simulations: NDArray[np.int64]
    first: NDArray[np.int32]
    last: NDArray[np.int32]
    old: NDArray[np.int64]
    new: NDArray[np.int64]
    had: NDArray[np.bool_]
    has: NDArray[np.bool_]


class Trail:
    """Equities of n simulations before and after, day by day."""

    def __init__(self, users: NDArray[np.int64], simulations: NDArray[np.int64]) -> None:
        """`simulations` ascend, and are all whose days are taken or written; `users` are theirs."""
        self._users, self._simulations = users, simulations
        self._old: dict[int, tuple[NDArray[np.intp], NDArray[np.int64]]] = {}
        self._new: dict[int, tuple[NDArray[np.intp], NDArray[np.int64]]] = {}

    def took(self, day: int, simulations: NDArray[np.int64], equity: NDArray[np.int64]) -> None:
        """These rows of a day are taken back; each simulation once for each day."""
        self._note(self._old, day, simulations, equity)

    def wrote(self, day: int, simulations: NDArray[np.int64], equity: NDArray[np.int64]) -> None:
        """These rows of a day are written; each simulation once for each day."""
        # The engine's arrays go on to the next day.
        self._note(self._new, day, simulations, equity.copy())

    def _note(
        self,
        days: dict[int, tuple[NDArray[np.intp], NDArray[np.int64]]],
        day: int,
        simulations: NDArray[np.int64],
        equity: NDArray[np.int64],
    ) -> None:
        positions = self._at(simulations)
        if day in days:
            known = days[day]
            positions, equity = np.concatenate((known[0], positions)), np.concatenate((known[1], equity))
        days[day] = positions, equity

    def _at(self, simulations: NDArray[np.int64]) -> NDArray[np.intp]:
        return np.searchsorted(self._simulations, simulations)

    def revisions(self) -> Revisions:
        """What became of all that was taken and written."""
        count = len(self._simulations)
        first = np.full(count, _NEVER, dtype=np.int32)
        last = np.zeros(count, dtype=np.int32)
        old, new = np.full(count, _NONE), np.full(count, _NONE)
        for day in sorted(self._old.keys() | self._new.keys()):
            was, now = (self._of_day(days, day) for days in (self._old, self._new))
            first[(was != now) & (first == _NEVER)] = day
            there = np.flatnonzero((was != _NONE) | (now != _NONE))
            last[there], old[there], new[there] = day, was[there], now[there]
        changed = np.flatnonzero(first != _NEVER)
        return Revisions(
            users=self._users[changed],
            simulations=self._simulations[changed],
            first=first[changed],
            last=last[changed],
            old=old[changed],
            new=new[changed],
            had=old[changed] != _NONE,
            has=new[changed] != _NONE,
        )

    def _of_day(self, days: dict[int, tuple[NDArray[np.intp], NDArray[np.int64]]], day: int) -> NDArray[np.int64]:
        """int64 (n,), the equities of a day."""
        equities = np.full(len(self._simulations), _NONE)
        if day in days:
            positions, values = days[day]
            equities[positions] = values
        return equities


def take_days(connection: Connection, delete: str, trail: Trail, counts: Callable[[int], bool]) -> None:
    """Execute a DELETE from a table `p` of portfolio days, and tell the trail what it took of the days that count."""
    query = (
        f"WITH gone AS ({delete} RETURNING p.day, p.simulation_id, p.equity)"  # noqa: S608 (the caller's own text)
        f" SELECT day - DATE '{EPOCH}', {gathered(_TAKEN)} FROM gone GROUP BY 1"
    )
    for group in read_groups(copy_out(connection, query), _TAKEN, keys=1):
        if counts(group.keys[0]):
            trail.took(group.keys[0], group.values["simulation_id"], group.values["equity"])


def write_revisions(connection: Connection, run: int, revisions: Revisions) -> None:
    """Append them to `portfolio_revisions`; an equity that there was not or is not is NULL."""
    had, has = revisions.had, revisions.has
    for where, equities in (
        (had & has, {"old_equity": revisions.old, "new_equity": revisions.new}),
        (had & ~has, {"old_equity": revisions.old}),
        (has & ~had, {"new_equity": revisions.new}),
    ):
        rows = np.flatnonzero(where)
        if len(rows):
            columns = RowFormat((*_KEY, *(Column(name, INT8) for name in equities)))
            values = {
                "run_id": np.full(len(rows), run),
                "user_id": revisions.users[rows],
                "simulation_id": revisions.simulations[rows],
                "first_changed_day": revisions.first[rows],
                "last_day": revisions.last[rows],
            } | {name: equity[rows] for name, equity in equities.items()}
            copy_in(connection, "portfolio_revisions", columns.names, [columns.encode(values)])
