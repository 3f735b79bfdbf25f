"""Who the sample users are: a realistic mix of strategies, parameters, fees, stops, assets and starting days.

Every choice is a raw word of PCG64 taken modulo the number of possibilities. Each chunk draws the same number of words
for each simulation in the same order, so a sample depends on nothing but the seed, the counts and the assets.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import product

import numpy as np
from numpy.typing import NDArray

from engine.params import COMMON, FEE_BUY, FEE_SELL, FEE_SELL_CAP, STOP_LOSS, TAKE_PROFIT
from engine.strategies import strategy_by_name
from engine.ticks import PPM, TICKS

MAX_SLOTS = 8

Ints = NDArray[np.int64]

# In percent. Which choice of parameters a simulation has is equally likely among those listed below.
_STRATEGIES = (
    ("buy_and_hold", 25), ("dca", 15), ("rebalance", 25), ("sma_cross", 15), ("momentum", 10), ("mean_reversion", 10),
)  # fmt: skip
_SMA_PAIRS = ((5, 20), (10, 30), (20, 50), (50, 200))
# (fee_buy_ppm, fee_sell_ppm, fee_sell_cap), of 20: mostly 0.1 %, some free, some the Grand Exchange's tax.
_FEES = ((1000, 1000, 0),) * 14 + ((0, 0, 0),) * 3 + ((0, 20_000, 5_000_000 * TICKS),) * 3
# (stop_loss_ppm, take_profit_ppm), of 20: one in five has one.
_STOPS = ((0, 0),) * 16 + ((50_000, 0), (100_000, 0), (100_000, 200_000), (0, 150_000))
# Days between instalments, and how many instalments the initial cash pays for.
_DCA = tuple(product((1, 7, 14, 30), (12, 24, 52)))
_LATE_PERCENT = 30
_EQUAL_WEIGHTS_PERCENT = 50
_PERCENT = PPM // 100


class Draws:
    """A stream of choices."""

    def __init__(self, seed: int) -> None:
        self._bits = np.random.PCG64(seed)

    def below(self, count: int, bound: int | Ints) -> Ints:
        """int64 (count,), each in [0, bound); the bias of the modulo is below 2**-40 for bounds of ours."""
        return (self._bits.random_raw(count) % np.asarray(bound, dtype=np.uint64)).astype(np.int64)


@dataclass(frozen=True, slots=True)
class Sample:
    """n simulations without owners.

    Attributes:
        strategy, slots, param_count: int64 (n,).
        start_day: int64 (n,), day numbers.
        initial_cash: int64 (n,), ticks.
        params: int64 (n, P), zero padded.
        asset_ids, weights: int64 (n, MAX_SLOTS), of which the first `slots` count.
    """

    strategy: Ints
    start_day: Ints
    initial_cash: Ints
    params: Ints
    param_count: Ints
    asset_ids: Ints
    weights: Ints
    slots: Ints


def draw_sample(draws: Draws, count: int, assets: NDArray[np.int32], days: tuple[int, int]) -> Sample:
    """`count` simulations among `assets` (ids) that begin on `days[0]`, or some of them until `days[1]`."""
    codes, tables, lengths = _parameter_tables()
    kind = np.searchsorted(np.cumsum([share for _, share in _STRATEGIES]), draws.below(count, 100), side="right")
    choice = draws.below(count, 2**32)
    cash = 1000 + draws.below(count, 99_001)
    params = np.zeros((count, tables[0].shape[1]), dtype=np.int64)
    for index, table in enumerate(tables):
        members = np.flatnonzero(kind == index)
        params[members] = table[choice[members] % len(table)]
    _set_instalments(params, np.flatnonzero(codes[kind] == strategy_by_name("dca").code), cash)
    params[:, [FEE_BUY, FEE_SELL, FEE_SELL_CAP]] = np.array(_FEES)[draws.below(count, len(_FEES))]
    params[:, [STOP_LOSS, TAKE_PROFIT]] = np.array(_STOPS)[draws.below(count, len(_STOPS))]
    slots = np.minimum(2 + draws.below(count, MAX_SLOTS - 1), len(assets))
    late = draws.below(count, 100) < _LATE_PERCENT
    offset = draws.below(count, max(days[1] - days[0], 1)) + 1
    return Sample(
        strategy=codes[kind],
        start_day=days[0] + np.where(late & (days[1] > days[0]), offset, 0),
        initial_cash=cash * TICKS,
        params=params,
        param_count=lengths[kind],
        asset_ids=assets[_distinct(draws, count, len(assets))].astype(np.int64),
        weights=_weights(draws, slots),
        slots=slots,
    )


@lru_cache(maxsize=1)
def _parameter_tables() -> tuple[Ints, list[Ints], Ints]:
    """For each of _STRATEGIES its code, its choices as rows of `params`, and how many of their columns count.

    The choices pass the strategy's own model, so that none of them can be malformed.
    """
    choices: dict[str, list[Mapping[str, object]]] = {
        "buy_and_hold": [{}],
        "dca": [{"every_days": every, "amount": instalments} for every, instalments in _DCA],
        "rebalance": [
            *({"calendar": name} for name in ("daily", "weekly", "weekly", "monthly", "quarterly")),
            *({"calendar": "none", "band_ppm": band} for band in (20_000, 50_000)),
            {"calendar": "monthly", "band_ppm": 50_000},
        ],
        "sma_cross": [{"fast": fast, "slow": slow} for fast, slow in _SMA_PAIRS],
        "momentum": [
            {"lookback": lookback, "top": top, "calendar": calendar}
            for lookback, top, calendar in product((20, 60, 120), (1, 2, 3), ("weekly", "monthly"))
        ],
        "mean_reversion": [
            {"window": window, "entry_ppm": entry, "exit_ppm": exit_}
            for window, entry, exit_ in product((10, 20, 50), (20_000, 50_000), (0, 10_000))
        ],
    }
    rows = {
        name: [strategy_by_name(name).Parameters.model_validate(values).encode() for values in options]
        for name, options in choices.items()
    }
    width = max(len(row) for options in rows.values() for row in options)
    names = [name for name, _ in _STRATEGIES]
    tables = [np.array([row + [0] * (width - len(row)) for row in rows[name]], dtype=np.int64) for name in names]
    codes = np.array([strategy_by_name(name).code for name in names], dtype=np.int64)
    return codes, tables, np.array([len(rows[name][0]) for name in names], dtype=np.int64)


def _set_instalments(params: Ints, rows: NDArray[np.intp], cash: Ints) -> None:
    """Turn the number of instalments in the column of `amount` into the amount of each, whole units."""
    amount = COMMON + 1
    params[rows, amount] = cash[rows] // params[rows, amount] * TICKS


def _distinct(draws: Draws, count: int, population: int) -> NDArray[np.intp]:
    """intp (count, MAX_SLOTS), in each row different members of the population in random order; rest 0."""
    chosen = np.zeros((count, MAX_SLOTS), dtype=np.int64)
    for slot in range(min(MAX_SLOTS, population)):
        # The drawn number counts only what is not taken yet: step over the taken ones in ascending order.
        pick = draws.below(count, population - slot)
        taken = np.sort(chosen[:, :slot], axis=1)
        for before in range(slot):
            pick += pick >= taken[:, before]
        chosen[:, slot] = pick
    return chosen.astype(np.intp)


def _weights(draws: Draws, slots: Ints) -> Ints:
    """int64 (n, MAX_SLOTS) ppm in whole percents that sum to PPM over the slots: half of the rows equal."""
    used = np.arange(MAX_SLOTS)[None, :] < slots[:, None]
    parts = 1 + draws.below(len(slots) * MAX_SLOTS, 5).reshape(-1, MAX_SLOTS)
    equal = draws.below(len(slots), 100) < _EQUAL_WEIGHTS_PERCENT
    parts = np.where(used, np.where(equal[:, None], 1, parts), 0)
    weights = parts * 100 // parts.sum(axis=1, keepdims=True) * _PERCENT
    weights[:, 0] += PPM - weights.sum(axis=1)
    return np.asarray(weights, dtype=np.int64)
