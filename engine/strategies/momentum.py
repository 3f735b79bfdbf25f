"""Holds, in equal parts, the assets of its universe that rose most over the lookback; chooses anew each period."""

from __future__ import annotations

import numpy as np
from pydantic import Field

from engine import params
from engine.frame import MAX_SLOTS
from engine.night import Night
from engine.slots import places
from engine.strategies.base import MAX_LOOKBACK, Calendar, Period, Strategy, period_numbers
from engine.ticks import Ints


class MomentumParameters(params.Parameters):
    """`lookback` in closes; `top` is how many assets to hold."""

    lookback: int = Field(30, ge=1, le=MAX_LOOKBACK)
    top: int = Field(2, ge=1, le=MAX_SLOTS)
    calendar: Calendar = Field(Period.MONTHLY, ge=Period.DAILY)


class Momentum(Strategy):
    """The state is the period of the last choice."""

    name = "momentum"
    code = 5
    Parameters = MomentumParameters
    initial_state = (-1,)

    def orders(self, night: Night) -> Ints:
        """Orders to equal parts of the chosen, and to nothing of the rest."""
        orders = night.no_orders()
        lookback, top = night.params[:, 0], night.params[:, 1]
        period = period_numbers(night.day)[night.params[:, 2]]
        due = (period != night.state.strategy_state[:, 0]) & night.any_tradable
        rows = np.flatnonzero(due)
        if len(rows) == 0:
            return orders
        night.state.strategy_state[rows, 0] = period[rows]

        tradable = night.tradable[rows]
        score: Ints = np.full(tradable.shape, -1, dtype=np.int64)
        if night.previous_row >= 0:
            columns, window = night.columns[rows], lookback[rows].reshape(-1, 1)
            enough, score = night.market.momentum(night.previous_row, columns, window)
            score = np.where(enough & tradable, score, -1)
        # The rank of each slot: a stable sort of the negated scores puts the lower slot first among equals.
        best = np.argsort(-score, axis=1, kind="stable")
        rank = np.empty_like(best)
        np.put_along_axis(rank, best, np.arange(score.shape[1])[None, :], axis=1)
        chosen = (score >= 0) & (rank < top[rows].reshape(-1, 1))

        part = np.zeros(night.tradable.shape, dtype=np.int64)
        part[rows] = np.where(chosen, (night.equity[rows] // top[rows])[:, None], 0)
        at = places(night.tradable & due[:, None])
        night.to_value(orders, at, part[at])
        return orders
