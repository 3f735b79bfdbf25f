"""One day of many simulations: `state(D) = advance(state(D-1), closes up to D, parameters)`."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from engine.frame import MAX_SLOTS, Rows, Simulations, State
from engine.market import Market
from engine.night import Night, equity_of, value_holdings
from engine.orders import NO_TRADES, Trades, apply_stops, fill
from engine.slots import any_slot, codes_in, sum_slots
from engine.statistics import record_day
from engine.strategies import strategies
from engine.ticks import PPM, Bools, Ints


class Reason(StrEnum):
    """Why a simulation is quarantined; in the order in which they are looked for."""

    MALFORMED = "malformed"
    UNKNOWN_ASSET = "unknown_asset"
    NO_CLOSE = "no_close"
    OVERFLOW = "overflow"


@dataclass(frozen=True, slots=True)
class Quarantined:
    """A row of the frame that could not be advanced; `asset_id` is 0 where no single asset is to blame."""

    row: int
    reason: Reason
    asset_id: int
    detail: str


@dataclass(frozen=True, slots=True)
class DayResult:
    """What a day made of n simulations.

    Attributes:
        state: n rows; those that are not `ok` mean nothing.
        ok: bool (n,).
        trades: of the rows that are ok.
        quarantined: one entry for each row that is not.
    """

    state: State
    ok: Bools
    trades: Trades
    quarantined: list[Quarantined]


def advance(simulations: Simulations, state: State, market: Market, day: int) -> DayResult:
    """Advance every simulation by `day`. The arguments are not changed.

    Args:
        simulations: n simulations, each with `start_day <= day`.
        state: their state at the close of `day - 1`, or the initial one.
        market: holds `day`, and either `day - 1` or nothing before `day`.
        day: day number.
    """
    row = market.row(day)
    columns, unknown = market.columns_of(simulations.asset_ids)
    quarantined = _refuse(simulations, market, row, columns, unknown)
    ok = np.ones(len(simulations), dtype=np.bool_)
    ok[[entry.row for entry in quarantined]] = False

    night = _night(simulations, state.copy(), market, day, columns)
    # Nothing of a refused row may be believed, so nothing of it trades.
    night.tradable &= ok[:, None]
    if not ok.any():
        return DayResult(night.state, ok, NO_TRADES, sorted(quarantined, key=lambda entry: entry.row))
    orders, blocking = _orders(night, ok)
    apply_stops(night, orders, blocking)
    trades = fill(night, orders)
    record_day(night.state, _equity_after(night, trades))

    failed = np.flatnonzero(night.overflow & ok)
    if len(failed):
        ok[failed] = False
        trades = trades.of_rows(ok)
        quarantined += [
            Quarantined(int(index), Reason.OVERFLOW, 0, "a value does not fit 92 billion units") for index in failed
        ]
    return DayResult(night.state, ok, trades, sorted(quarantined, key=lambda entry: entry.row))


def _orders(night: Night, ok: Bools) -> tuple[Ints, Bools]:
    """Each strategy's orders for its own rows, int64 (n, K), and bool (n,), whether a stop blocks the row's slot."""
    orders = night.no_orders()
    blocking = np.zeros(len(ok), dtype=np.bool_)
    codes = night.simulations.strategy
    for code in codes_in(codes[ok]):
        strategy, rows = strategies()[code], _rows(ok & (codes == code))
        part = night.take(rows)
        orders[rows] = strategy.orders(part)
        blocking[rows] = strategy.blocking
        if not isinstance(rows, slice):
            # Of a slice, the part's arrays are views into the night's.
            night.state.strategy_state[rows] = part.state.strategy_state
            night.overflow[rows] = part.overflow
    return orders, blocking


def _equity_after(night: Night, trades: Trades) -> Ints:
    """int64 (n,), the equity before trading, revalued where there was a trade."""
    traded = np.zeros(len(night.equity), dtype=np.bool_)
    traded[trades.row] = True
    rows = np.flatnonzero(traded)
    if len(rows) == 0:
        return night.equity
    overflow = np.zeros(len(rows), dtype=np.bool_)
    values = value_holdings(night.state.quantities[rows], night.price[rows], overflow)
    equity = night.equity.copy()
    equity[rows] = equity_of(night.state.cash[rows], values, overflow)
    night.overflow[rows[overflow]] = True
    return equity


def _night(simulations: Simulations, state: State, market: Market, day: int, columns: NDArray[np.intp]) -> Night:
    row = market.row(day)
    price = market.last[row][columns]
    overflow = np.zeros(len(simulations), dtype=np.bool_)
    return Night(
        day=day,
        market=market,
        row=row,
        simulations=simulations,
        state=state,
        columns=columns,
        price=price,
        tradable=(market.age[row] == 0)[columns] & (price > 0),
        equity=equity_of(state.cash, value_holdings(state.quantities, price, overflow), overflow),
        overflow=overflow,
    )


def _refuse(
    simulations: Simulations, market: Market, row: int, columns: NDArray[np.intp], unknown: Bools
) -> list[Quarantined]:
    """The simulations that cannot be advanced at all today, each with its first reason."""
    refused = [
        Quarantined(int(index), Reason.MALFORMED, 0, "strategy, parameters, assets or weights are malformed")
        for index in np.flatnonzero(malformed(simulations))
    ]
    old = market.age[row] > market.max_stale_days
    stale = old[columns] & ~unknown if old.any() else np.zeros_like(unknown)
    seen = {entry.row for entry in refused}
    for mask, reason in ((unknown, Reason.UNKNOWN_ASSET), (stale, Reason.NO_CLOSE)):
        for index in np.flatnonzero(any_slot(mask)).tolist() if mask.any() else ():
            if index in seen:
                continue
            seen.add(index)
            slot = int(np.argmax(mask[index]))
            refused.append(
                Quarantined(
                    index,
                    reason,
                    int(simulations.asset_ids[index, slot]),
                    _detail(reason, market, row, int(columns[index, slot])),
                )
            )
    return refused


def _detail(reason: Reason, market: Market, row: int, column: int) -> str:
    if reason is Reason.UNKNOWN_ASSET:
        return "no such asset"
    if market.count[row, column] == 0:
        return "the asset has no close yet"
    return f"the asset's last close is {market.age[row, column]} days old (at most {market.max_stale_days})"


def malformed(simulations: Simulations) -> Bools:
    """bool (n,), what the strategy's model or the ledger's rules for a simulation would refuse."""
    slots, count = simulations.slots.astype(np.int64), simulations.asset_ids.shape[1]
    used = np.arange(count)[None, :] < slots[:, None]
    ids, weights = simulations.asset_ids, simulations.weights
    wrong = np.asarray((slots < 1) | (slots > MAX_SLOTS) | (simulations.initial_cash < 0) | (simulations.start_day < 0))
    wrong |= any_slot((ids <= 0) & used) | any_slot((weights < 0) | (weights > PPM))
    wrong |= sum_slots(weights) > PPM
    for slot in range(1, count):
        wrong |= any_slot(ids[:, :slot] == ids[:, slot : slot + 1]) & (ids[:, slot] > 0)
    for code in codes_in(simulations.strategy):
        rows = _rows(simulations.strategy == code)
        strategy = strategies().get(code)
        wrong[rows] |= (
            True if strategy is None else strategy.malformed(simulations.params[rows], simulations.param_count[rows])
        )
    return wrong


def _rows(mask: Bools) -> Rows:
    """The rows of `mask` as a slice where they are contiguous: a slice is a view, an index a copy."""
    rows = np.flatnonzero(mask)
    if len(rows) and rows[-1] - rows[0] + 1 == len(rows):
        return slice(int(rows[0]), int(rows[-1]) + 1)
    return rows
