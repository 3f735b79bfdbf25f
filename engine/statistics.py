"""Running statistics, O(1) a day: Welford's mean and variance of daily returns, peak and maximum drawdown.

Float64 in a fixed order of single operations, none of them a reduction, so that every machine and every batch size
gives the same bits. Source: B. P. Welford, Note on a Method for Calculating Corrected Sums of Squares and Products,
1962.
"""

from __future__ import annotations

import numpy as np

from engine.frame import State
from engine.ticks import Floats, Ints


def record_day(state: State, equity: Ints) -> None:
    """Update `state` in place with the day's `equity`, int64 (n,)."""
    returns = _ratio(equity - state.equity, state.equity)
    state.nights += np.int32(1)
    delta = returns - state.return_mean
    state.return_mean += delta / state.nights
    state.return_m2 += delta * (returns - state.return_mean)
    np.maximum(state.peak, equity, out=state.peak)
    np.maximum(state.max_drawdown, _ratio(state.peak - equity, state.peak), out=state.max_drawdown)
    state.equity[:] = equity


def _ratio(part: Ints, whole: Ints) -> Floats:
    """float64, `part / whole`; 0 where `whole` is 0."""
    return np.divide(part, whole, out=np.zeros(len(whole)), where=whole != 0)
