"""The peers of the benchmark compute what the specification says: the same as the oracle, to the last bit."""

from __future__ import annotations

import random
import struct

import pytest

from benchmarks.peers.ledger import Fill, Portfolio, Terms, advance, begin
from benchmarks.peers.quotes import Quotes, quotes_of
from tests.oracle import driver, population
from tests.oracle.ledger import Prices, Simulation

FIRST, LAST = 8000, 8330
BEGINS, NIGHTS = 8265, range(8265, LAST)
STALE = 5


def terms_of(simulation: Simulation) -> Terms:
    return Terms(
        simulation.strategy,
        simulation.start_day,
        simulation.initial_cash,
        list(simulation.params),
        list(simulation.asset_ids),
        list(simulation.weights),
    )


def quotes_on(closes: driver.Closes, day: int) -> Quotes:
    rows = [(asset, on, close) for asset, of_day in closes.items() for on, close in of_day.items() if on <= day]
    return quotes_of(sorted(rows, key=lambda row: row[1]), day, STALE)


def row_of(portfolio: Portfolio, fills: list[Fill]) -> tuple[object, ...]:
    statistics = struct.pack("<3d", portfolio.mean, portfolio.m2, portfolio.max_drawdown)
    return (
        portfolio.cash, portfolio.equity, portfolio.peak, portfolio.nights, statistics, tuple(portfolio.quantities),
        tuple(portfolio.costs), portfolio.memory, sorted(tuple(fill) for fill in fills),
    )  # fmt: skip


def expected(outcome: driver.Portfolio) -> tuple[object, ...]:
    trades = sorted((t.asset_id, t.quantity, t.price, t.notional, t.fee, t.realised) for t in outcome.trades)
    return (
        outcome.cash, outcome.equity, outcome.peak, outcome.nights, outcome.statistics, outcome.quantities,
        outcome.costs, outcome.memory, trades,
    )  # fmt: skip


@pytest.mark.parametrize("seed", [1, 2])
def test_a_night_of_one_simulation_equals_the_oracle(seed: int) -> None:
    pick = random.Random(seed)
    closes = population.random_walks(pick, 30, range(FIRST, LAST))
    simulations = population.many(pick, 90, list(closes), range(BEGINS, BEGINS + 20))
    portfolios = {at: begin(terms_of(simulation)) for at, simulation in enumerate(simulations)}
    trades = 0

    for day, night in zip(NIGHTS, driver.oracle_nights(simulations, Prices(closes, STALE), NIGHTS), strict=True):
        quotes = quotes_on(closes, day)
        for at, outcome in night.items():
            if isinstance(outcome, driver.Portfolio):
                fills = advance(terms_of(simulations[at]), portfolios[at], quotes, day)
                assert row_of(portfolios[at], fills) == expected(outcome), (day, simulations[at])
                trades += len(fills)

    assert trades > 1000


def test_a_simulation_whose_asset_has_no_recent_close_is_refused() -> None:
    closes = {1: {FIRST: 100, FIRST + 1: 101}, 2: {FIRST + 1 + STALE: 7}}
    terms = Terms(1, FIRST, 10**12, [0] * 5, [1], [10**6])

    advance(terms, begin(terms), quotes_on(closes, FIRST + 1 + STALE), FIRST + 1 + STALE)
    with pytest.raises(KeyError):
        advance(terms, begin(terms), quotes_on(closes, FIRST + 2 + STALE), FIRST + 2 + STALE)
