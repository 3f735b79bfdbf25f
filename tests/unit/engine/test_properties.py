"""What must hold whatever the strategy: the ledger closes, nothing sees the future, nobody affects a neighbour."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.oracle.driver import Closes, Nights, Portfolio, engine_nights, market
from tests.oracle.examples import FIRST_DAY, bounded, broken, closes, simulations
from tests.oracle.ledger import Simulation
from tests.oracle.numbers import T, notional, purchase_fee, rhe, sale_fee
from tests.oracle.population import many, random_walks

DAYS = 10
HISTORY = 20
NIGHTS = range(FIRST_DAY, FIRST_DAY + DAYS)


def advance_all(rows: list[Simulation], of_asset: Closes, days: range = NIGHTS) -> Nights:
    return engine_nights(rows, market(of_asset, FIRST_DAY - HISTORY, days[-1]), days)


def population(seed: int, count: int) -> tuple[list[Simulation], Closes]:
    """Simulations that look back over at most eight closes, and a market, from a seed."""
    pick = random.Random(seed)
    of_asset = random_walks(pick, 16, range(FIRST_DAY - HISTORY, NIGHTS[-1] + 1))
    return many(pick, count, list(of_asset), NIGHTS[:3], longest=8), of_asset


@bounded(60)
@given(st.lists(simulations(DAYS), min_size=6, max_size=10), closes(DAYS))
def test_the_ledger_closes_to_the_tick_from_trades_and_closes_alone(rows: list[Simulation], of_asset: Closes) -> None:
    nights = advance_all(rows, of_asset)
    for at, simulation in enumerate(rows):
        recompute(simulation, [night.get(at) for night in nights], of_asset)


def test_the_ledger_of_five_hundred_closes() -> None:
    rows, of_asset = population(1, 500)
    nights = advance_all(rows, of_asset)
    for at, simulation in enumerate(rows):
        recompute(simulation, [night.get(at) for night in nights], of_asset)
    assert sum(len(o.trades) for night in nights for o in night.values() if isinstance(o, Portfolio)) > 1_000


def recompute(simulation: Simulation, history: list[object], of_asset: Closes) -> None:
    fee_buy_ppm, fee_sell_ppm, fee_sell_cap = simulation.params[:3]
    cash, slots = simulation.initial_cash, range(len(simulation.asset_ids))
    quantities, costs = [0 for _ in slots], [0 for _ in slots]
    for day, row in zip(NIGHTS, history, strict=True):
        if not isinstance(row, Portfolio):
            continue
        for trade in row.trades:
            slot, quantity = trade.slot, abs(trade.quantity)
            assert trade.asset_id == simulation.asset_ids[slot]
            assert trade.price == of_asset[trade.asset_id][day], "a fill is at the day's own close"
            assert trade.notional == notional(quantity, trade.price) > 0
            if trade.quantity > 0:
                assert trade.fee == purchase_fee(trade.notional, fee_buy_ppm)
                cost, proceeds = trade.notional + trade.fee, 0
                cash -= cost
                costs[slot] += cost
            else:
                assert trade.fee == sale_fee(trade.notional, quantity, fee_sell_ppm, fee_sell_cap)
                cost = rhe(costs[slot] * quantity, quantities[slot])
                proceeds = trade.notional - trade.fee - cost
                cash += trade.notional - trade.fee
                costs[slot] -= cost
            assert trade.realised == proceeds
            quantities[slot] += trade.quantity
        assert (row.cash, row.quantities, row.costs) == (cash, tuple(quantities), tuple(costs))
        assert min(cash, *quantities, *costs) >= 0
        last = [max(((d, p) for d, p in of_asset[a].items() if d <= day))[1] for a in simulation.asset_ids]
        assert row.equity == cash + sum(notional(q, p) for q, p in zip(quantities, last, strict=True))
        assert row.peak >= row.equity


def test_closes_after_the_day_change_nothing() -> None:
    rows, of_asset = population(2, 400)
    pick = random.Random(2)
    for last in (NIGHTS[2], NIGHTS[6]):
        until = range(FIRST_DAY, last + 1)
        other = {
            asset: {day: close if day <= last else pick.randrange(1, 10**14) for day, close in of_day.items()}
            for asset, of_day in of_asset.items()
        }
        shorter = {asset: {d: c for d, c in of_day.items() if d <= last} for asset, of_day in of_asset.items()}
        expected = advance_all(rows, shorter, until)
        for later in (of_asset, other):
            prices = market(later, FIRST_DAY - HISTORY, NIGHTS[-1])
            assert engine_nights(rows, prices, until) == expected


def test_the_close_of_the_day_itself_moves_fills_but_no_signal() -> None:
    """What a strategy decides stays, amounts do not. No fees, no gaps: so no purchase finds an empty purse."""
    pick = random.Random(3)
    gapless = random_walks(pick, 16, range(FIRST_DAY - HISTORY, NIGHTS[-1] + 1))
    of_asset = {asset: of_day for asset, of_day in gapless.items() if len(of_day) == HISTORY + DAYS}
    rows = [
        replace(row, params=(0, 0, 0, *row.params[3:]))
        for row in many(pick, 600, list(of_asset), NIGHTS[:3], longest=8)
    ]
    traded = moved = 0
    for last in NIGHTS[3:]:
        until = range(FIRST_DAY, last + 1)
        other = {
            asset: of_day | {last: max(of_day[last] * pick.randrange(80, 125) // 100, 1)}
            for asset, of_day in of_asset.items()
        }
        before, after = (advance_all(rows, which, until)[-1] for which in (of_asset, other))
        for at in before.keys() & after.keys():
            one, two = before[at], after[at]
            if not isinstance(one, Portfolio) or not isinstance(two, Portfolio):
                continue
            assert decisions(rows[at], one) == decisions(rows[at], two), (last, rows[at])
            traded += bool(one.trades)
            moved += one.equity != two.equity
    assert traded > 500
    assert moved > 1_000


def decisions(simulation: Simulation, row: Portfolio) -> tuple[object, ...]:
    """What it remembers, which slots it holds and which way each traded: for strategies 3 and 5 that last is sizing."""
    ways = [] if simulation.strategy in {3, 5} else [(trade.slot, trade.quantity > 0) for trade in row.trades]
    return row.memory, [quantity > 0 for quantity in row.quantities], ways


def shuffled(rows: list[int], pick: random.Random) -> list[list[int]]:
    return [pick.sample(rows, len(rows))]


def split(rows: list[int], pick: random.Random) -> list[list[int]]:
    cuts = [0, *sorted(pick.sample(range(1, len(rows)), 12)), len(rows)]
    return [rows[low:high] for low, high in pairwise(cuts)]


def singly(rows: list[int], pick: random.Random) -> list[list[int]]:
    return [[at] for at in pick.sample(rows, 60)]


@pytest.mark.parametrize("batches", [shuffled, split, singly])
def test_neither_order_nor_batches_matter(batches: Callable[[list[int], random.Random], list[list[int]]]) -> None:
    rows, of_asset = population(4, 300)
    together = advance_all(rows, of_asset)
    for chosen in batches(list(range(len(rows))), random.Random(4)):
        nights = advance_all([rows[at] for at in chosen], of_asset)
        for night, expected in zip(nights, together, strict=True):
            assert night == {i: expected[at] for i, at in enumerate(chosen) if at in expected}


@bounded(40)
@given(st.lists(broken(DAYS), min_size=1, max_size=6), st.randoms(use_true_random=True))
def test_broken_neighbours_do_not_matter(neighbours: list[Simulation], pick: random.Random) -> None:
    rows, of_asset = population(6, 15)
    mixed: list[tuple[int | None, Simulation]] = list(enumerate(rows))
    for neighbour in neighbours:
        mixed.insert(pick.randint(0, len(mixed)), (None, neighbour))
    alone = advance_all(rows, of_asset)
    beside = advance_all([simulation for _, simulation in mixed], of_asset)
    for night, expected in zip(beside, alone, strict=True):
        assert {mixed[at][0]: outcome for at, outcome in night.items() if mixed[at][0] is not None} == expected


def test_a_stop_of_one_leaves_its_twin_alone() -> None:
    twins = [
        Simulation(
            strategy=1,
            start_day=FIRST_DAY,
            initial_cash=1_000 * T,
            params=(0, 0, 0, stop, 0),
            asset_ids=(1,),
            weights=(10**6,),
        )
        for stop in (0, 100_000, 0)
    ]
    of_asset = {1: {day: (100 - 8 * (day - FIRST_DAY)) * T for day in NIGHTS}}
    nights = advance_all(twins, of_asset)
    alone = advance_all(twins[:1], of_asset)
    assert [night[0] for night in nights] == [night[2] for night in nights] == [night[0] for night in alone]
    sold = [[trade.quantity < 0 for trade in night[1].trades] for night in nights if isinstance(night[1], Portfolio)]
    assert sold == [[False], [], [], [True], *[[]] * 6]
