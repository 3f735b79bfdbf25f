"""The oracle itself, on cases small enough to compute by hand: an oracle nobody checked proves nothing."""

from __future__ import annotations

import pytest

from tests.oracle.ledger import Prices, Simulation, Trade, advance, initial
from tests.oracle.numbers import MAX, QuarantineError, Reason, T, afford, rhe
from tests.oracle.strategies import period


def simulation(strategy: int, *own: int, common: tuple[int, ...] = (0, 0, 0, 0, 0), slots: int = 1) -> Simulation:
    return Simulation(
        strategy=strategy,
        start_day=10,
        initial_cash=1000 * T,
        params=common + own,
        asset_ids=tuple(range(1, slots + 1)),
        weights=(10**6 // slots,) * slots,
    )


def test_halves_round_to_even() -> None:
    assert [rhe(n, 2) for n in (1, 3, 5, 7)] == [0, 2, 2, 4]
    assert [rhe(n, 10) for n in (4, 5, 6, 15, 14, 16)] == [0, 0, 1, 2, 1, 2]


def test_afford_takes_the_rounding_of_notional_and_fee_to_the_last_tick() -> None:
    assert afford(100 * T, 10 * T, 0) == 10 * T
    assert afford(101 * T, 10 * T, 10_000) == 10 * T
    # At half a tick of money a unit rounds down to even: 3 * 0.5 = 1.5 -> 2, 5 * 0.5 = 2.5 -> 2, 6 * 0.5 = 3.
    assert afford(2, T // 2, 0) == 5
    assert afford(0, T, 0) == 0
    assert afford(1, 3 * T, 0) == 0


def test_days_zero_and_two_are_a_saturday_and_a_monday() -> None:
    assert [period(day, 2) for day in (0, 1, 2, 8, 9)] == [0, 0, 1, 1, 2]
    assert [period(day, 3) for day in (30, 31)] == [24000, 24001]
    assert [period(day, 4) for day in (90, 91)] == [8000, 8001]


def test_buy_and_hold_pays_the_fee_out_of_its_cash() -> None:
    held = simulation(1, common=(10_000, 0, 0, 0, 0))
    state, trades = advance(held, initial(held), Prices({1: {10: 10 * T}}), 10)
    quantity = 9_900_990_099
    assert trades == [Trade(0, 1, quantity, 10 * T, 99_009_900_990, 990_099_010, 0)]
    assert (state.cash, state.quantities, state.costs) == (0, (quantity,), (100_000_000_000,))
    assert (state.equity, state.peak, state.memory, state.nights) == (99_009_900_990, 1000 * T, 1, 1)
    assert state.mean == -990_099_010 / 100_000_000_000 == -state.max_drawdown


def test_a_stop_sees_yesterday_sells_today_and_the_cap_bounds_the_fee() -> None:
    held = simulation(1, common=(0, 500_000, 2 * T, 100_000, 0))
    prices = Prices({1: {10: 10 * T, 11: 9 * T, 12: 8 * T}})
    state, _ = advance(held, initial(held), prices, 10)
    state, trades = advance(held, state, prices, 11)
    assert trades == []
    state, trades = advance(held, state, prices, 12)
    assert trades == [Trade(0, 1, -100 * T, 8 * T, 800 * T, 200 * T, -400 * T)]
    assert (state.cash, state.quantities, state.costs, state.memory) == (600 * T, (0,), (0,), 1)


def test_a_crossing_is_seen_one_day_later() -> None:
    crossing = simulation(4, 1, 2)
    closes = {8: 10, 9: 20, 10: 20, 11: 30, 12: 15, 13: 20, 14: 30, 15: 40}
    prices = Prices({1: {day: close * T for day, close in closes.items()}})
    state, bought = initial(crossing), {}
    for day in range(10, 16):
        state, trades = advance(crossing, state, prices, day)
        bought[day] = [trade.quantity for trade in trades]
    # Long on 10 (10 -> 20); level on 11: sold; long on 12 (20 -> 30) at 15; not long on 13: sold; long on 14 at 30.
    assert bought == {10: [50 * T], 11: [-50 * T], 12: [100 * T], 13: [-100 * T], 14: [2000 * T // 30], 15: []}


def test_a_stop_blocks_until_the_signal_has_ended_once() -> None:
    blocked = simulation(4, 1, 2, common=(0, 0, 0, 0, 100_000))
    closes = {8: 10, 9: 20, 10: 20, 11: 40, 12: 50, 13: 60, 14: 30, 15: 60, 16: 70}
    prices = Prices({1: {day: close * T for day, close in closes.items()}})
    long_since = Simulation(**{**vars(blocked), "start_day": 12})
    state, bought, bits = initial(long_since), {}, {}
    for day in range(12, 17):
        state, trades = advance(long_since, state, prices, day)
        bought[day] = [trade.quantity for trade in trades]
        bits[day] = state.memory
    # Bought at 50; 12's close is no gain; 13's is +20 %: sold on 14 and blocked; 15 sees the fall: free; 16 buys.
    assert bought == {12: [20 * T], 13: [], 14: [-20 * T], 15: [], 16: [afford(600 * T, 70 * T, 0)]}
    assert bits == {12: 0, 13: 0, 14: 1, 15: 0, 16: 0}


def test_rebalance_sells_before_it_buys() -> None:
    monthly = simulation(3, 1, 0, slots=2)
    prices = Prices({1: {10: 10 * T, 11: 20 * T}, 2: {10: 10 * T, 11: 10 * T}})
    state, _ = advance(monthly, initial(monthly), prices, 10)
    assert state.quantities == (50 * T, 50 * T)
    state, trades = advance(monthly, state, prices, 11)
    assert [trade.quantity for trade in trades] == [-1_250_000_000, 25 * T]
    assert (state.cash, state.equity, trades[0].realised) == (0, 1500 * T, 125 * T)


@pytest.mark.parametrize(
    ("strategy", "own", "closes", "reason"),
    [
        (4, (2, 2), {10: T}, Reason.MALFORMED),
        (7, (), {10: T}, Reason.MALFORMED),
        (1, (), {}, Reason.NO_CLOSE),
        (1, (), {4: T}, Reason.NO_CLOSE),
        (2, (1, MAX), {10: 1}, Reason.OVERFLOW),
    ],
)
def test_quarantine(strategy: int, own: tuple[int, ...], closes: dict[int, int], reason: Reason) -> None:
    broken = simulation(strategy, *own)
    with pytest.raises(QuarantineError) as caught:
        advance(broken, initial(broken), Prices({1: closes}), 10)
    assert caught.value.reason is reason


def test_an_unknown_asset_is_quarantined_before_prices_are_looked_at() -> None:
    broken = simulation(1, slots=2)
    with pytest.raises(QuarantineError) as caught:
        advance(broken, initial(broken), Prices({1: {}}), 10)
    assert (caught.value.reason, caught.value.asset_id) == (Reason.UNKNOWN_ASSET, 2)
