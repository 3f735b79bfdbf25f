"""The vectorised engine equals the slow integer reference to the last bit, floats included."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.advance import advance
from engine.frame import State
from tests.oracle.driver import (
    Closes,
    Portfolio,
    Quarantined,
    engine_nights,
    frame,
    market,
    oracle_nights,
    outcomes_of,
    same,
)
from tests.oracle.examples import FIRST_DAY, bounded, broken, closes, simulations
from tests.oracle.ledger import Prices, Simulation
from tests.oracle.numbers import MAX, M, T
from tests.oracle.population import many, random_walks

DAYS = 12


def parity(rows: list[Simulation], of_asset: Closes, max_stale_days: int = 5, extra_slots: int = 0) -> None:
    days = range(FIRST_DAY, FIRST_DAY + DAYS)
    first = min([FIRST_DAY, *(min(of_day) for of_day in of_asset.values() if of_day)])
    ours = engine_nights(rows, market(of_asset, first, days[-1], max_stale_days), days, extra_slots)
    theirs = oracle_nights(rows, Prices(of_asset, max_stale_days), days)
    assert [night.keys() for night in ours] == [night.keys() for night in theirs]
    same(ours, theirs, rows, days)


@bounded(150)
@given(st.data(), closes(DAYS), st.sampled_from([5, 5, 0, 2]), st.integers(0, 2))
def test_mixed_frames_over_several_days(
    data: st.DataObject, of_asset: Closes, max_stale_days: int, extra_slots: int
) -> None:
    kinds = st.one_of(simulations(DAYS), simulations(DAYS), simulations(DAYS), simulations(DAYS), broken(DAYS))
    count = data.draw(st.sampled_from([0, 2, 6, 12]))
    rows = data.draw(st.lists(kinds, min_size=count, max_size=count))
    parity(rows, of_asset, max_stale_days, extra_slots)


@bounded(200)
@given(simulations(DAYS), closes(DAYS))
def test_one_simulation_alone(simulation: Simulation, of_asset: Closes) -> None:
    parity([simulation], of_asset)


OWN_BOUNDS = {
    1: [],
    2: [(1, 3650), (1, MAX)],
    3: [(0, 4), (0, M)],
    4: [(1, 250), (1, 250)],
    5: [(1, 250), (1, 32), (1, 4)],
    6: [(2, 250), (1, M - 1), (0, M - 1)],
}
COMMON_BOUNDS = [(0, M), (0, M), (0, MAX), (0, M), (0, 10**9)]
GOOD = {1: (), 2: (3, T), 3: (1, 10_000), 4: (2, 5), 5: (3, 2, 1), 6: (3, 50_000, 10_000)}


PAIRS: list[tuple[int, tuple[int, ...]]] = [
    *((3, own) for own in ((0, 0), (0, 1), (1, 0))),
    *((4, own) for own in ((5, 5), (5, 4), (249, 250), (250, 250))),
    *((6, (2, *own)) for own in ((1, 0), (1, 1), (500, 499), (500, 500), (500, 501))),
    *((unknown, ()) for unknown in (-1, 0, 7, 32_767, -32_768)),
]
WEIGHTS = ((M, 0), (M, 1), (M // 2, M // 2), (-1, 5), (MAX, MAX), (MAX, -MAX), (0, 0))
ASSETS = ((1, 1), (1, 34), (1, 33), (34, 33), (35, 34), (1, 2**31 - 1))


def make(strategy: int, params: tuple[int, ...], slots: int = 2, **changes: Any) -> Simulation:
    simulation = Simulation(
        strategy=strategy,
        start_day=FIRST_DAY,
        initial_cash=1_000 * T,
        params=params,
        asset_ids=tuple(range(1, slots + 1)),
        weights=(20_000,) * slots,
    )
    return replace(simulation, **changes)


def on_and_beyond_every_bound() -> Iterator[Simulation]:
    for strategy, own in GOOD.items():
        good = (0, 0, 0, 0, 0, *own)
        for at, (low, high) in enumerate(COMMON_BOUNDS + OWN_BOUNDS[strategy]):
            for value in sorted({low - 1, low, low + 1, high - 1, high, min(high + 1, MAX), -MAX, MAX}):
                yield make(strategy, (*good[:at], value, *good[at + 1 :]))
        yield from (make(strategy, good[:count]) for count in range(len(good)))
        yield make(strategy, (*good, 0))
        yield from (make(strategy, good, slots) for slots in (0, 1, 32, 33))
        yield from (make(strategy, good, weights=weights) for weights in WEIGHTS)
        yield from (make(strategy, good, asset_ids=assets) for assets in ASSETS)
        yield from (make(strategy, good, initial_cash=cash) for cash in (-1, 0, MAX))
        yield make(strategy, good, start_day=-1)
    yield from (make(strategy, (0, 0, 0, 0, 0, *own)) for strategy, own in PAIRS)


def test_each_bound_of_each_parameter() -> None:
    rows = list(on_and_beyond_every_bound())
    random.Random(3).shuffle(rows)
    days = range(FIRST_DAY, FIRST_DAY + 6)
    # 33 has no close, 34 and more do not exist: an unknown asset counts before a missing close.
    of_asset: Closes = {asset: {day: (asset + day % 5) * T for day in days} for asset in range(1, 33)} | {33: {}}
    ours = engine_nights(rows, market(of_asset, FIRST_DAY, days[-1]), days)
    theirs = oracle_nights(rows, Prices(of_asset), days)
    same(ours, theirs, rows, days)
    first = list(theirs[0].values())
    reasons = {outcome.reason for outcome in first if isinstance(outcome, Quarantined)}
    assert reasons == {"MALFORMED", "UNKNOWN_ASSET", "NO_CLOSE"}
    assert sum(isinstance(outcome, Portfolio) for outcome in first) > 100


def magnitude(pick: random.Random) -> int:
    """1 to 2**63 - 1, every order of magnitude as likely as the next; often round, a power of two, or beside one."""
    value: int = 10 ** pick.randrange(19) if pick.random() < 0.3 else 2 ** pick.randrange(63) + pick.randrange(-1, 2)
    anything = pick.randint(1, 2 ** pick.randint(1, 63))
    return min(max(value if pick.random() < 0.5 else anything, 1), MAX)


def test_four_thousand_simulations_of_all_magnitudes() -> None:
    """Sizing, shrinking, fees, stops and their saturation, with money, prices and limits from one tick to 2**63 - 1."""
    pick = random.Random(13)
    days = range(FIRST_DAY, FIRST_DAY + 4)
    factors = (1, 10**6, 500_000, 999_999, 1_000_001, 2_000_000, 300_000_000)
    of_asset: Closes = {}
    for asset in range(1, 301):
        price = magnitude(pick)
        of_asset[asset] = {day: min(max(price * pick.choice(factors) // M, 1), MAX) for day in days}
    rows = []
    for row in many(pick, 4_000, list(of_asset), days[:2], longest=3):
        own = (1, magnitude(pick)) if row.strategy == 2 else row.params[5:]
        fees = pick.choice([0, 1, 2_500, 333_333, M]), pick.choice([0, 1, 2_500, 333_333, M])
        limits = pick.choice([0, magnitude(pick)]), pick.choice([0, 1, 400_000, M]), pick.choice([0, 1, 10**6, 10**9])
        rows.append(replace(row, initial_cash=magnitude(pick), params=(*fees, *limits, *own)))
    ours = engine_nights(rows, market(of_asset, FIRST_DAY, days[-1]), days)
    same(ours, oracle_nights(rows, Prices(of_asset), days), rows, days)
    last = [outcome for outcome in ours[-1].values() if isinstance(outcome, Portfolio)]
    assert sum(bool(row.trades) for row in last) > 500
    assert sum(outcome == Quarantined("OVERFLOW", 0) for night in ours for outcome in night.values()) > 500


def test_money_near_the_largest_int64() -> None:
    """Notional and fee each fit, but not their sum: the purchase shrinks, it does not wrap."""
    moneys, fees = (2**61, 2**62 - 1, 2**62, 2**62 + 1, MAX - 1, MAX), (0, 1, 999_999, M)
    rows = [
        make(strategy, (buy, sell, 0, 0, 0, *own), initial_cash=cash, asset_ids=(asset, 4), weights=(first, M - first))
        for strategy, own in ((1, ()), (2, (1, MAX)), (3, (1, 0)), (5, (1, 1, 1)))
        for buy, sell, cash in product(fees, fees, moneys)
        for asset in (1, 2, 3)
        for first in (M, M // 2)
    ]
    first, second, third = days = range(FIRST_DAY, FIRST_DAY + 3)
    of_asset = {
        1: {first: 2 * T, second: 3 * T, third: 3 * T + 1},
        2: {first: MAX, second: MAX - 1, third: 2**62},
        3: {first: T, second: T + 1, third: T - 1},
        4: {first: T, second: T, third: 5 * T},
    }
    ours = engine_nights(rows, market(of_asset, FIRST_DAY, days[-1]), days)
    same(ours, oracle_nights(rows, Prices(of_asset), days), rows, days)
    assert sum(isinstance(outcome, Portfolio) for outcome in ours[-1].values()) > 500


@pytest.mark.parametrize(
    ("cash", "amount", "fits"),
    [(2**62, 2**62, False), (2**62, 2**62 - 1, True), (2**62 + 1, 2**62 - 1, False), (2**62 - 1, 2**62 - 1, True)],
)
@pytest.mark.parametrize("weights", [(M,), (M // 2, M // 2)])
def test_an_equity_of_the_largest_int64_fits_and_one_tick_more_does_not(
    cash: int, amount: int, fits: bool, weights: tuple[int, ...]
) -> None:
    """Everything bought doubles its price: equity becomes `cash + amount`, or a tick less where halves are cut."""
    assets = tuple(range(1, len(weights) + 1))
    row = make(2, (0, 0, 0, 0, 0, 3650, amount), initial_cash=cash, asset_ids=assets, weights=weights)
    of_asset = {asset: {FIRST_DAY: T, FIRST_DAY + 1: 2 * T} for asset in assets}
    days = range(FIRST_DAY, FIRST_DAY + 2)
    nights = engine_nights([row], market(of_asset, FIRST_DAY, days[-1]), days)
    same(nights, oracle_nights([row], Prices(of_asset), days), [row], days)
    if fits or len(weights) == 1:
        assert isinstance(nights[1][0], Portfolio) == fits


def test_an_equity_that_only_the_purchase_rounds_beyond_int64() -> None:
    """5 ticks at a half are worth 2, twice; 10 are worth 5: a purchase without a fee may make a tick of equity."""
    rows = [make(2, (0, 0, 0, 0, 0, 1, 2), 1, initial_cash=cash, weights=(M,)) for cash in (MAX - 1, MAX)]
    days = range(FIRST_DAY, FIRST_DAY + 2)
    of_asset = {1: dict.fromkeys(days, T // 2)}
    nights = engine_nights(rows, market(of_asset, FIRST_DAY, days[-1]), days)
    same(nights, oracle_nights(rows, Prices(of_asset), days), rows, days)
    fits, beyond = nights[1][0], nights[1][1]
    assert isinstance(fits, Portfolio)
    assert (fits.equity, beyond) == (MAX, Quarantined("OVERFLOW", 0))


def test_no_simulations_at_all() -> None:
    nothing = frame([])
    prices = market({1: {FIRST_DAY: T}}, FIRST_DAY, FIRST_DAY)
    result = advance(nothing, State.initial(nothing), prices, FIRST_DAY)
    assert outcomes_of(result, nothing) == []
    assert (len(result.ok), len(result.trades.row), result.quarantined) == (0, 0, [])


def test_two_thousand_short_memories_over_three_weeks() -> None:
    pick = random.Random(5)
    days = range(FIRST_DAY, FIRST_DAY + 21)
    of_asset = random_walks(pick, 24, range(FIRST_DAY - 12, days[-1] + 1))
    rows = many(pick, 2_000, list(of_asset), days[:4], longest=10)
    ours = engine_nights(rows, market(of_asset, FIRST_DAY - 12, days[-1]), days)
    same(ours, oracle_nights(rows, Prices(of_asset), days), rows, days)


def test_ten_thousand_at_once_and_three_hundred_of_them_alone() -> None:
    pick = random.Random(11)
    days = range(FIRST_DAY, FIRST_DAY + 5)
    of_asset = random_walks(pick, 40, range(FIRST_DAY - 300, days[-1] + 1))
    rows = many(pick, 10_000, list(of_asset), range(FIRST_DAY, FIRST_DAY + 2))
    sample = sorted(pick.sample(range(len(rows)), 300))
    prices = market(of_asset, FIRST_DAY - 300, days[-1])
    together = engine_nights(rows, prices, days)
    alone = engine_nights([rows[at] for at in sample], prices, days)
    assert [[night[at] for at in sample if at in night] for night in together] == [list(n.values()) for n in alone]
    same(together, oracle_nights(rows, Prices(of_asset), days, only=sample), rows, days)
    rows_of_all = [(rows[at].strategy, row) for night in together for at, row in night.items()]
    assert {strategy for strategy, row in rows_of_all if isinstance(row, Portfolio) and row.trades} == set(GOOD)
    assert np.mean([isinstance(outcome, Portfolio) for outcome in together[-1].values()]) > 0.5
