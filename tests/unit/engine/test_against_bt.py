"""A stranger's backtester comes to the same equity on real data; docs/fills.md says how the conventions map."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from tests.oracle.crypto import crypto_closes, day_of, needs_crypto
from tests.oracle.driver import Portfolio, engine_nights, market
from tests.oracle.ledger import Simulation
from tests.oracle.numbers import M, T

# bt and ffn stand on pandas, whose deprecations are theirs to heed; ours stay errors.
pytestmark = [
    needs_crypto,
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]

SINCE, FIRST, LAST = day_of("2021-01-01"), day_of("2022-01-01"), day_of("2024-12-31")
COINS = ["BTCUSDT", "ETHUSDT", "DOGEUSDT", "SHIBUSDT", "PAXGUSDT"]
WEIGHTS = (300_000, 250_000, 200_000, 150_000, 50_000)
# A million would buy more SHIB than an int64 of ticks holds.
CAPITAL = 100_000
NO_FEES = (0, 0, 0, 0, 0)


def ours(strategy: int, own: tuple[int, ...], coins: Sequence[str], weights: tuple[int, ...]) -> np.ndarray[Any, Any]:
    """Equity of each day from the engine."""
    of_asset = {
        number: {day: close for day, close in crypto_closes()[coin].items() if day >= SINCE}
        for number, coin in enumerate(coins, 1)
    }
    row = Simulation(
        strategy=strategy,
        start_day=FIRST,
        initial_cash=CAPITAL * T,
        params=NO_FEES + own,
        asset_ids=tuple(of_asset),
        weights=weights,
    )
    days = range(FIRST, LAST + 1)
    nights = engine_nights([row], market(of_asset, SINCE, LAST), days)
    equity = [night[0].equity for night in nights if isinstance(night[0], Portfolio)]
    assert len(equity) == len(days)
    return np.array(equity) / T


def frame(coins: Sequence[str], first: int) -> Any:
    """Closes as bt wants them. One day more than is compared: bt's calendars treat the last day as special."""
    import pandas as pd

    days = range(first, LAST + 2)
    index = pd.Timestamp("2000-01-01") + pd.to_timedelta(np.array(days), unit="D")
    return pd.DataFrame({coin: [crypto_closes()[coin].get(day, 0) / T for day in days] for coin in coins}, index=index)


def theirs(algos: list[Any], coins: Sequence[str]) -> np.ndarray[Any, Any]:
    """Equity of each day from bt, any fraction of a coin, no commissions."""
    import bt

    test = bt.Backtest(
        bt.Strategy("bt", algos), frame(coins, FIRST), initial_capital=float(CAPITAL), integer_positions=False
    )
    bt.run(test)
    return np.asarray(test.strategy.values.loc["2022-01-01":"2024-12-31"], dtype=float)


def agree(engine: np.ndarray[Any, Any], other: np.ndarray[Any, Any]) -> None:
    assert engine.shape == other.shape == (1096,)
    assert engine.min() < 0.95 * engine.max(), "an equity that does not move proves nothing"
    np.testing.assert_allclose(engine, other, rtol=1e-6, atol=0)


def weigh() -> Any:
    """bt's weights as ours."""
    import bt

    return bt.algos.WeighSpecified(**{coin: weight / M for coin, weight in zip(COINS, WEIGHTS, strict=True)})


def test_buy_and_hold() -> None:
    import bt

    algos = [bt.algos.RunOnce(), bt.algos.SelectAll(), weigh(), bt.algos.Rebalance()]
    agree(ours(1, (), COINS, WEIGHTS), theirs(algos, COINS))


@pytest.mark.parametrize(
    ("calendar", "name"), [(1, "RunDaily"), (2, "RunWeekly"), (3, "RunMonthly"), (4, "RunQuarterly")]
)
def test_calendar_rebalance(calendar: int, name: str) -> None:
    import bt

    algos = [getattr(bt.algos, name)(), bt.algos.SelectAll(), weigh(), bt.algos.Rebalance()]
    agree(ours(3, (calendar, 0), COINS, WEIGHTS), theirs(algos, COINS))


def signals(coins: Sequence[str], fast: int, slow: int) -> Any:
    """Where the fast average of yesterday's close and before was above the slow one."""
    closes = frame(coins, SINCE)
    return (closes.rolling(fast).mean() > closes.rolling(slow).mean()).shift(1, fill_value=False)


@pytest.mark.parametrize(
    ("coin", "fast", "slow"),
    [("BTCUSDT", 50, 200), ("BTCUSDT", 5, 20), ("ETHUSDT", 1, 2), ("DOGEUSDT", 20, 50), ("SHIBUSDT", 5, 20)],
)
def test_sma_cross_of_one_coin_in_stock_algos(coin: str, fast: int, slow: int) -> None:
    import bt

    algos = [bt.algos.SelectWhere(signals([coin], fast, slow)), bt.algos.WeighEqually(), bt.algos.Rebalance()]
    agree(ours(4, (fast, slow), [coin], (M,)), theirs(algos, [coin]))


def enter_and_leave(long: Any) -> Callable[[Any], bool]:
    """An algo: leaves what is no longer long, then enters what is, by its weight of all equity, while cash lasts."""

    def algo(target: Any) -> bool:
        if target.now not in long.index:
            return True
        equity, today = target.value, long.loc[target.now]
        held = {name for name, child in target.children.items() if child.position > 0}
        for coin in held:
            if not today[coin]:
                target.close(coin)
        for coin, weight in zip(COINS, WEIGHTS, strict=True):
            if today[coin] and coin not in held:
                target.allocate(min(equity * weight / M, target.capital), coin)
        return True

    return algo


def test_sma_cross_of_five_coins() -> None:
    agree(ours(4, (10, 40), COINS, WEIGHTS), theirs([enter_and_leave(signals(COINS, 10, 40))], COINS))
