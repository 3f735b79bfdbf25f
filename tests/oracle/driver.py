"""The one place where tests meet the engine's arrays: oracle types in, `engine.advance` at work, oracle types out.

`engine_nights` and `oracle_nights` run the same simulations over the same days and answer in the same form, so a test
compares two lists. Floats are carried as their eight bytes: equal means equal to the last bit.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine.advance import DayResult, advance
from engine.frame import Simulations, State
from engine.market import Market
from tests.oracle import ledger
from tests.oracle.ledger import Prices, Simulation, Trade
from tests.oracle.numbers import QuarantineError

Closes = dict[int, dict[int, int]]


@dataclass(frozen=True)
class Portfolio:
    """A simulation's row of one day, floats as bytes."""

    cash: int
    equity: int
    peak: int
    nights: int
    statistics: bytes
    quantities: tuple[int, ...]
    costs: tuple[int, ...]
    memory: int
    trades: tuple[Trade, ...]


@dataclass(frozen=True)
class Quarantined:
    """A simulation without a row, and why."""

    reason: str
    asset_id: int


Outcome = Portfolio | Quarantined
Nights = list[dict[int, Outcome]]


def frame(simulations: Sequence[Simulation], extra_slots: int = 0) -> Simulations:
    """The engine's columns, padded to the widest simulation and `extra_slots` more."""
    count = len(simulations)
    width = max([1, *(len(s.asset_ids) for s in simulations)]) + extra_slots
    depth = max((len(s.params) for s in simulations), default=1)
    return Simulations(
        user_id=np.arange(count, dtype=np.int64) // 2 + 1,
        simulation_id=np.arange(count, dtype=np.int64) + 1,
        strategy=np.array([s.strategy for s in simulations], dtype=np.int16),
        start_day=np.array([s.start_day for s in simulations], dtype=np.int32),
        initial_cash=np.array([s.initial_cash for s in simulations], dtype=np.int64),
        params=_padded([s.params for s in simulations], depth),
        param_count=np.array([len(s.params) for s in simulations], dtype=np.int16),
        asset_ids=_padded([s.asset_ids for s in simulations], width).astype(np.int32),
        weights=_padded([s.weights for s in simulations], width),
        slots=np.array([len(s.asset_ids) for s in simulations], dtype=np.int16),
    )


def _padded(rows: Sequence[tuple[int, ...]], width: int) -> NDArray[np.int64]:
    out = np.zeros((len(rows), width), dtype=np.int64)
    for at, row in enumerate(rows):
        out[at, : len(row)] = row
    return out


def market(closes: Closes, first_day: int, last_day: int, max_stale_days: int = 5) -> Market:
    """The engine's market of the same closes; those outside the days are left out."""
    assets = sorted(closes)
    matrix = np.zeros((last_day - first_day + 1, len(assets)), dtype=np.int64)
    for column, asset in enumerate(assets):
        for day, close in closes[asset].items():
            if first_day <= day <= last_day:
                matrix[day - first_day, column] = close
    return Market.build(np.array(assets, dtype=np.int32), first_day, matrix, max_stale_days)


def take_simulations(simulations: Simulations, rows: NDArray[np.intp]) -> Simulations:
    """The simulations at `rows`, in that order."""
    return simulations.take(rows)


def take_state(state: State, rows: NDArray[np.intp]) -> State:
    """The states at `rows`, in that order."""
    return state.take(rows)


def engine_nights(
    simulations: Sequence[Simulation], prices: Market, days: Iterable[int], extra_slots: int = 0
) -> Nights:
    """Advance all of them with the engine, day by day; one dict by position for each day.

    A simulation takes part from its start day until its quarantine.
    """
    everything = frame(simulations, extra_slots)
    state = State.initial(everything)
    alive = np.ones(len(simulations), dtype=bool)
    nights = []
    for day in days:
        rows = np.flatnonzero(alive & (everything.start_day <= day))
        result = advance(take_simulations(everything, rows), take_state(state, rows), prices, day)
        outcomes = outcomes_of(result, take_simulations(everything, rows))
        state.put(rows[result.ok], take_state(result.state, np.flatnonzero(result.ok)))
        alive[rows[~result.ok]] = False
        nights.append(dict(zip(rows.tolist(), outcomes, strict=True)))
    return nights


def oracle_nights(
    simulations: Sequence[Simulation], prices: Prices, days: Iterable[int], only: Iterable[int] | None = None
) -> Nights:
    """The same by the oracle; `only` restricts it to some positions."""
    states = {at: ledger.initial(simulations[at]) for at in (range(len(simulations)) if only is None else only)}
    nights = []
    for day in days:
        night: dict[int, Outcome] = {}
        for at in list(states):
            simulation = simulations[at]
            if simulation.start_day > day:
                continue
            try:
                states[at], trades = ledger.advance(simulation, states[at], prices, day)
            except QuarantineError as error:
                del states[at]
                night[at] = Quarantined(error.reason.name, error.asset_id)
            else:
                night[at] = _portfolio(states[at], trades)
        nights.append(night)
    return nights


def _portfolio(state: ledger.State, trades: list[Trade]) -> Portfolio:
    statistics = struct.pack("<3d", state.mean, state.m2, state.max_drawdown)
    return Portfolio(
        state.cash, state.equity, state.peak, state.nights, statistics,
        state.quantities, state.costs, state.memory, tuple(trades),
    )  # fmt: skip


def outcomes_of(result: DayResult, simulations: Simulations) -> list[Outcome]:
    """The engine's answer, row by row; checks on the way that it does not contradict itself."""
    state, trades = result.state, result.trades
    keys = list(zip(trades.row.tolist(), trades.slot.tolist(), strict=True))
    assert keys == sorted(set(keys)), "trades are not ordered by row and slot, or there are two of one slot"
    assert sorted(q.row for q in result.quarantined) == np.flatnonzero(~result.ok).tolist()
    by_row: dict[int, list[Trade]] = {}
    names = ("row", "slot", "asset_id", "quantity", "price", "notional", "fee", "realised")
    for row, *values in zip(*(getattr(trades, name).tolist() for name in names), strict=True):
        by_row.setdefault(row, []).append(Trade(*values))
    outcomes: list[Outcome] = []
    quarantined = {q.row: q for q in result.quarantined}
    for row in range(len(simulations.user_id)):
        if row in quarantined:
            assert row not in by_row, "a quarantined simulation has traded"
            outcomes.append(Quarantined(quarantined[row].reason.name, int(quarantined[row].asset_id)))
            continue
        slots = int(simulations.slots[row])
        assert not state.quantities[row, slots:].any(), "padding holds a quantity"
        assert not state.cost_basis[row, slots:].any(), "padding has a cost"
        assert not state.strategy_state[row, 1:].any(), "a strategy has more than one integer"
        numbers = [float(x[row]) for x in (state.return_mean, state.return_m2, state.max_drawdown)]
        outcomes.append(
            Portfolio(
                cash=int(state.cash[row]),
                equity=int(state.equity[row]),
                peak=int(state.peak[row]),
                nights=int(state.nights[row]),
                statistics=struct.pack("<3d", *numbers),
                quantities=tuple(state.quantities[row, :slots].tolist()),
                costs=tuple(state.cost_basis[row, :slots].tolist()),
                memory=int(state.strategy_state[row, 0]),
                trades=tuple(by_row.get(row, [])),
            )
        )
    return outcomes


def same(engine: Nights, oracle: Nights, simulations: Sequence[Simulation], days: Iterable[int]) -> None:
    """Fail, naming the simulation and the day, where the two differ; the engine may know more rows than the oracle."""
    for day, ours, theirs in zip(days, engine, oracle, strict=True):
        for at, expected in theirs.items():
            got = ours.get(at)
            if got != expected:
                raise AssertionError(_difference(day, at, simulations[at], got, expected))


def _difference(day: int, at: int, simulation: Simulation, got: Outcome | None, expected: Outcome) -> str:
    lines = [f"day {day}, simulation {at}: {simulation}"]
    if isinstance(got, Portfolio) and isinstance(expected, Portfolio):
        for name in Portfolio.__dataclass_fields__:
            a, b = getattr(got, name), getattr(expected, name)
            if a != b:
                shown = (struct.unpack("<3d", a), struct.unpack("<3d", b)) if name == "statistics" else (a, b)
                lines.append(f"  {name}: engine {shown[0]}, oracle {shown[1]}")
    else:
        lines += [f"  engine {got}", f"  oracle {expected}"]
    return "\n".join(lines)
