"""The work of a batch between its claim and its commit: read, advance day by day, write. One transaction, the caller's.

Most batches hold simulations that all have a row on the day before the run. The others are brought up in the same pass:
new and backdated simulations from their start, ones that were left out from their newest row, and those that somebody
has advanced already are left alone. Of a scoped run, the days that its simulations have are replaced
(services.replacing).

Where simulations reach back so far that days are no longer kept, those days are computed all the same, and their trades
written; of their rows only the newest one of a simulation that ends there is, into the archive
(services.retention_days).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date

import numpy as np
from numpy.typing import NDArray

from core import tracing
from core.clock import day_from_number, day_number
from engine.advance import DayResult, Quarantined, Reason, advance
from engine.digest import combine_digests, digest_rows
from engine.frame import Simulations, State
from engine.market import Market
from engine.ticks import PPM, Ints, mul_div_floor
from models.portfolio_frame import Frame
from models.portfolio_rows import encode_portfolio_days, encode_trades
from services.locks import Connection
from services.portfolio_io import (
    place_latest,
    place_states_of,
    read_frame,
    simulations_with_rows,
    write_archived_days,
    write_many_days,
    write_portfolio_days,
    write_trades,
)
from services.replacing import Scope, take_back
from services.retention_days import KeptDays, hold_kept_days
from services.revisions import Trail, write_revisions

LEADERBOARD_SIZE = 100
# Of so few, the days of a run that does them again are written together.
_FEW_SIMULATIONS = 64
_PENDING_BYTES = 4 * 2**20
_MALFORMED_ROW = "the row's arrays are malformed, or its positions are not in the simulation's assets"


@dataclass(frozen=True, slots=True)
class SimulationFault:
    """A simulation to be quarantined."""

    user_id: int
    simulation_id: int
    day: date
    reason: str
    asset_id: int
    detail: str


@dataclass(slots=True)
class Totals:
    """What a batch did. Sums of money are Python integers: those of a run need not fit 64 bits.

    `last`: the number of the last day that somebody was brought to, that of the run at least; `trail`: of a scoped run,
    what it takes back and writes.
    """

    simulations: int = 0
    rows: int = 0
    trades: int = 0
    equity: int = 0
    fees: int = 0
    digest: int = 0
    top: list[tuple[int, int, int, int]] = field(default_factory=list)
    faults: list[SimulationFault] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    trail: Trail | None = None
    last: int = 0

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Add the time spent inside to `stage`."""
        started = time.perf_counter()
        try:
            yield
        finally:
            ended = time.perf_counter()
            self.seconds[stage] = self.seconds.get(stage, 0.0) + ended - started
            tracing.stage(stage, started, ended)


@dataclass(frozen=True, slots=True)
class BatchWork:
    """What to do: bring the users [lo, hi) from the close before `first_day` to the close of `last_day`.

    With a `scope`, do the days of its simulations again, and nobody else's.
    """

    users: tuple[int, int]
    first_day: date
    last_day: date
    scope: Scope | None = None


def advance_users(
    connection: Connection,
    work: BatchWork,
    market_of: Callable[[tuple[int, int]], Market],
    make_partitions: Callable[[date, date], None],
    between_days: Callable[[], None] = lambda: None,
) -> Totals:
    """Advance the users and write what became of them.

    Args:
        connection: in a transaction, with the users' granules locked.
        work: users and days.
        market_of: the market of a range of day numbers.
        make_partitions: makes sure of the partitions of a range of days, in a transaction of its own; called where
            simulations reach back before the run's days, for which planning has made them.
        between_days: called before each day, and while days are taken back; what it raises ends the work.
    """
    totals = Totals()
    kept = KeptDays() if work.scope is None else hold_kept_days(connection)
    frame, until = _read(connection, work, totals, between_days, kept)
    last = day_number(work.last_day) if until is None else int(until.max(initial=day_number(work.last_day)))
    totals.last = last
    totals.faults += [
        SimulationFault(user, simulation, work.last_day, Reason.MALFORMED, 0, _MALFORMED_ROW)
        for user, simulation in frame.unreadable
    ]
    begins = int(frame.state_day.min(initial=last)) + 1
    if begins <= last:
        if begins < day_number(work.first_day):
            kept = hold_kept_days(connection)
            make_partitions(day_from_number(begins), work.first_day)
        with totals.timed("market"):
            # From the run's first day on, also for who begins later: so all batches of a run share one.
            market = market_of((min(begins, day_number(work.first_day)), last))
        _advance_days(connection, frame, market, (begins, last), totals, until, between_days, kept)
    if work.scope is not None and totals.trail is not None:
        with totals.timed("write"):
            write_revisions(connection, work.scope.run, totals.trail.revisions())
    return totals


def _read(
    connection: Connection, work: BatchWork, totals: Totals, between_days: Callable[[], None], kept: KeptDays
) -> tuple[Frame, NDArray[np.int32] | None]:
    """What to start from, and the day number through which to bring each; None: all of them to the last day."""
    if work.scope is not None:
        taken = take_back(connection, work.scope, work.last_day, totals.timed, between_days, kept)
        frame, until, totals.trail = taken
        return frame, until
    before = day_from_number(day_number(work.first_day) - 1)
    frame = read_frame(connection, work.users, before, work.last_day, totals.timed)
    with totals.timed("read"):
        # First of all: to look for the newest row of somebody who is left out takes longer with every night.
        _leave_out_quarantined(connection, frame, work.users)
        started = simulations_with_rows(connection, work.users, (work.first_day, work.last_day))
    if len(started):
        # Most of them were brought up to the last day by somebody else, and one read finds them all.
        place_states_of(connection, frame, work.users, work.last_day, totals.timed)
    begun_before = frame.simulations.start_day < day_number(work.first_day)
    elsewhere = (frame.state_day < day_number(before)) & begun_before
    elsewhere |= np.isin(frame.simulations.simulation_id, started) & (frame.state_day < day_number(work.last_day))
    if elsewhere.any():
        with totals.timed("read"):
            place_latest(connection, frame, elsewhere, work.last_day)
    return frame, None


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


def _advance_days(
    connection: Connection,
    frame: Frame,
    market: Market,
    days: tuple[int, int],
    totals: Totals,
    until: NDArray[np.int32] | None,
    between_days: Callable[[], None],
    kept: KeptDays,
) -> None:
    simulations, state, at = frame.simulations, frame.state, frame.state_day.copy()
    alive = np.ones(len(simulations), dtype=np.bool_)
    advanced = np.zeros(len(simulations), dtype=np.bool_)
    pending = _Pending() if until is not None and len(simulations) <= _FEW_SIMULATIONS else None
    for day in range(days[0], days[1] + 1):
        due = alive & (at == day - 1)
        rows = np.flatnonzero(due if until is None else due & (day <= until))
        if len(rows) == 0:
            continue
        between_days()
        everyone = len(rows) == len(simulations)
        today = simulations if everyone else simulations.take(rows)
        with totals.timed("compute"):
            result = advance(today, state if everyone else state.take(rows), market, day)
        totals.faults += [_fault(today, entry, day) for entry in result.quarantined]
        if not result.ok.all():
            alive[rows[~result.ok]] = False
            ended = rows[~result.ok]
            _write_newest(connection, simulations, state, at, ended[advanced[ended]], totals, kept)
        if everyone:
            state = result.state
        else:
            state.put(rows, result.state)
        at[rows] = day
        advanced[rows[result.ok]] = True
        _write_day(connection, today, result, day, totals, pending, keep=day in kept)
        if pending is not None and pending.size > _PENDING_BYTES:
            _write_pending(connection, pending, totals)
    if pending is not None:
        _write_pending(connection, pending, totals)
    _write_newest(connection, simulations, state, at, np.flatnonzero(alive & advanced), totals, kept)
    totals.simulations = int(advanced.sum())
    current = alive & (at == (days[1] if until is None else until))
    totals.equity = exact_sum(state.equity[current])
    totals.top = top_by_return(simulations.take(np.flatnonzero(current)), state.equity[current])


@dataclass(slots=True)
class _Pending:
    """Encoded rows of days that are written together: a COPY takes half a millisecond, however few its rows."""

    rows: list[bytes | memoryview] = field(default_factory=list)
    trades: list[bytes | memoryview] = field(default_factory=list)

    @property
    def size(self) -> int:
        """Bytes."""
        return sum(map(len, self.rows)) + sum(map(len, self.trades))


def _write_pending(connection: Connection, pending: _Pending, totals: Totals) -> None:
    with totals.timed("write"):
        write_many_days(connection, pending.rows, pending.trades)
    pending.rows.clear()
    pending.trades.clear()


def _write_day(
    connection: Connection,
    simulations: Simulations,
    result: DayResult,
    day: int,
    totals: Totals,
    pending: _Pending | None,
    *,
    keep: bool,
) -> None:
    done, state = simulations, result.state
    if not result.ok.all():
        kept = np.flatnonzero(result.ok)
        done, state = simulations.take(kept), state.take(kept)
    with totals.timed("encode"):
        rows = encode_portfolio_days(done, state, day) if keep else []
        trades = encode_trades(simulations, result.trades, day)
    with totals.timed("write"):
        if pending is not None:
            pending.rows += rows
            pending.trades += [trades] if len(result.trades) else []
        elif rows:
            write_portfolio_days(connection, day, rows)
        if len(result.trades) and pending is None:
            write_trades(connection, day, trades)
    if keep:
        _count_rows(done, state, day, totals)
    totals.trades += len(result.trades)
    totals.fees += exact_sum(result.trades.fee)


def _count_rows(simulations: Simulations, state: State, day: int, totals: Totals) -> None:
    with totals.timed("encode"):
        totals.digest = combine_digests(totals.digest, digest_state(simulations, state, day))
    if len(simulations) and totals.trail is not None:
        totals.trail.wrote(day, simulations.simulation_id, state.equity)
    totals.rows += len(simulations)


def _write_newest(
    connection: Connection,
    simulations: Simulations,
    state: State,
    at: NDArray[np.int32],
    rows: NDArray[np.intp],
    totals: Totals,
    kept: KeptDays,
) -> None:
    """Archive the newest row of those of `rows` that end on a day that is not kept: they go on from it one day."""
    if not len(rows) or day_from_number(at[rows].min()) >= kept.daily_from:
        return
    for day in np.unique(at[rows]).tolist():
        if day in kept:
            continue
        those = rows[at[rows] == day]
        ended, last = simulations.take(those), state.take(those)
        with totals.timed("write"):
            write_archived_days(connection, encode_portfolio_days(ended, last, day))
        _count_rows(ended, last, day, totals)


def digest_state(simulations: Simulations, state: State, day: int) -> int:
    """The digest of the rows that these simulations have on a day."""
    return digest_rows(
        (simulations.user_id, simulations.simulation_id, day),
        state.cash,
        state.equity,
        (simulations.asset_ids, state.quantities, state.cost_basis),
    )


def exact_sum(ticks: Ints) -> int:
    """The sum of int64 values >= 0 as a Python integer: a run's total equity need not fit 64 bits."""
    return (int((ticks >> 32).sum()) << 32) + int((ticks & 0xFFFFFFFF).sum())


def top_by_return(simulations: Simulations, equity: Ints) -> list[tuple[int, int, int, int]]:
    """The best (user_id, simulation_id, equity, return_ppm) since their start, best first, ties by id."""
    initial = np.maximum(simulations.initial_cash, 1)
    returns = np.where(simulations.initial_cash > 0, mul_div_floor(equity, PPM, initial) - PPM, -PPM)
    if len(returns) > LEADERBOARD_SIZE:
        threshold = np.partition(returns, len(returns) - LEADERBOARD_SIZE)[len(returns) - LEADERBOARD_SIZE]
        rows = np.flatnonzero(returns >= threshold)
    else:
        rows = np.arange(len(returns))
    rows = rows[np.lexsort((simulations.simulation_id[rows], -returns[rows]))][:LEADERBOARD_SIZE]
    columns = (simulations.user_id, simulations.simulation_id, equity, returns)
    return [(int(a), int(b), int(c), int(d)) for a, b, c, d in zip(*(column[rows] for column in columns), strict=True)]


def _fault(simulations: Simulations, entry: Quarantined, day: int) -> SimulationFault:
    return SimulationFault(
        int(simulations.user_id[entry.row]),
        int(simulations.simulation_id[entry.row]),
        day_from_number(day),
        entry.reason,
        entry.asset_id,
        entry.detail,
    )
