"""What simulations are worth at the latest prices: the ledger's valuation of their newest row, exact to the tick.

Equity is the row's cash plus each position's value, rounded half to even, as at the end of a night. A position whose
asset has no price since its last close is valued at that close. A simulation without a row in the last month, with an
asset that has no price at all, or whose equity does not fit, has no valuation: it is left out, never guessed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import Row, text
from sqlalchemy.orm import Session

from engine.ticks import MAX, PPM, TICKS, Bools, Ints, add_checked, mul_div_round

# A simulation that no night has advanced for a month is not live, and may have no row at all to be looked for. Some
# partitions are made ahead of their nights.
_NEWEST_PARTITIONS = 45
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


class Key(NamedTuple):
    """A simulation to be valued; before its `start_day` it has no rows."""

    user_id: int
    simulation_id: int
    start_day: date


@dataclass(frozen=True, slots=True)
class Valuation:
    """A simulation at the latest prices; equities in ticks.

    Attributes:
        day, closed_equity: of its newest row.
        positions, at_close: how many assets it holds, and how many of them are valued at their last close.
        priced_at: the moment of the oldest of the prices; None: it holds nothing.
    """

    user_id: int
    simulation_id: int
    day: date
    closed_equity: int
    equity: int
    positions: int
    at_close: int
    priced_at: datetime | None


def value_simulations(session: Session, keys: Iterable[Key]) -> dict[int, Valuation]:
    """Valuations by simulation id, of those of `keys` that have one."""
    rows = _newest_rows(session, keys)
    if not rows:
        return {}
    width = max(1, *(len(row.asset_ids) for row in rows))
    assets = _matrix([row.asset_ids for row in rows], width)
    quantities = _matrix([row.quantities for row in rows], width)
    prices = _prices_of(session, assets[quantities > 0])
    where = np.searchsorted(prices.asset_ids, assets)
    equity, too_big = _equity(np.array([row.cash for row in rows], dtype=np.int64), quantities, prices.price[where])
    held = quantities > 0
    priceless = (held & (prices.price[where] == 0)).any(axis=1)
    at_close = (held & prices.at_close[where]).sum(axis=1)
    oldest = np.where(held, prices.moment[where], MAX).min(axis=1)
    return {
        row.simulation_id: Valuation(
            user_id=row.user_id,
            simulation_id=row.simulation_id,
            day=row.day,
            closed_equity=row.equity,
            equity=int(equity[i]),
            positions=int(held[i].sum()),
            at_close=int(at_close[i]),
            priced_at=_EPOCH + int(oldest[i]) * _MICROSECOND if held[i].any() else None,
        )
        for i, row in enumerate(rows)
        if not (priceless[i] or too_big[i])
    }


def change_ppm(before: int, after: int) -> int | None:
    """Millionths that `after` is above `before`, rounded down, as on the leaderboard; None if there was nothing."""
    return after * PPM // before - PPM if before > 0 else None


def _equity(cash: Ints, quantities: Ints, prices: Ints) -> tuple[Ints, Bools]:
    """(n,) equities of (n, slots) positions, and where they do not fit."""
    large = np.zeros(quantities.shape, dtype=np.bool_)
    values = mul_div_round(quantities, prices, TICKS, large)
    too_big = np.asarray(large.any(axis=1))
    equity = cash
    for slot in range(values.shape[1]):
        equity = add_checked(equity, values[:, slot], too_big)
    return equity, too_big


def _matrix(arrays: Sequence[Sequence[int]], width: int) -> Ints:
    """(n, width), padded with 0."""
    return np.array([[*array, *[0] * (width - len(array))] for array in arrays], dtype=np.int64)


# Only those that have a page: some are made ahead of their nights.
_DAYS = text(
    """
    SELECT to_date(right(relname, 8), 'YYYYMMDD') FROM (
        SELECT c.oid, c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
        WHERE i.inhparent = 'portfolio_days'::regclass ORDER BY c.relname DESC LIMIT :limit
    ) AS newest
    WHERE pg_relation_size(oid) > 0
    ORDER BY 1 DESC
    """
)
# The days stand in the text, so that the planner sees their partitions only; with bound ones it would lock them all.
_NEWEST_ROWS = """
    SELECT DISTINCT ON (k.simulation_id)
        p.day, p.user_id, p.simulation_id, p.cash, p.equity, p.asset_ids, p.quantities
    FROM unnest(CAST(:users AS bigint[]), CAST(:simulations AS bigint[])) AS k (user_id, simulation_id)
    JOIN portfolio_days p ON p.user_id = k.user_id AND p.simulation_id = k.simulation_id AND p.day IN ({days})
    ORDER BY k.simulation_id, p.day DESC
"""
# In the middle of a night some have today's row and the others yesterday's; few are left to be looked for in more days.
_SLICES = (slice(0, 1), slice(1, 2), slice(2, 7), slice(7, None))


def _newest_rows(session: Session, keys: Iterable[Key]) -> list[Row[Any]]:
    missing = {key.simulation_id: key for key in keys}
    found: list[Row[Any]] = []
    days = session.scalars(_DAYS, {"limit": _NEWEST_PARTITIONS}).all()
    for part in _SLICES:
        begun = [key for key in missing.values() if days[part] and key.start_day <= days[part][0]]
        if not begun:
            continue
        query = text(_NEWEST_ROWS.format(days=", ".join(f"'{day}'" for day in days[part])))
        values = {"users": [key.user_id for key in begun], "simulations": [key.simulation_id for key in begun]}
        for row in session.execute(query, values):
            found.append(row)
            del missing[row.simulation_id]
    return found


@dataclass(frozen=True, slots=True)
class _Prices:
    """Prices of assets, (m,) each and one more for assets that nobody asked about: price 0.

    Attributes:
        asset_ids: int64, ascending.
        price: ticks; 0: there is none.
        moment: microseconds since 1970.
        at_close: the price is the last close.
    """

    asset_ids: Ints
    price: Ints
    moment: Ints
    at_close: NDArray[np.bool_]


# A close tells of the end of its day; one that was recorded before that cannot tell of anything later.
_PRICES = text(
    """
    SELECT a.id, l.price, l.ts, c.close,
        coalesce(c.as_of, least(c.recorded_at, CAST(c.day + 1 AS timestamp) AT TIME ZONE 'UTC')) AS closed_at
    FROM unnest(CAST(:ids AS integer[])) AS a (id)
    LEFT JOIN latest_prices l ON l.asset_id = a.id
    LEFT JOIN LATERAL (
        SELECT day, close, as_of, recorded_at FROM closes WHERE asset_id = a.id ORDER BY day DESC LIMIT 1
    ) AS c ON true
    ORDER BY a.id
    """
)


def _prices_of(session: Session, assets: Ints) -> _Prices:
    """The newest price of each asset: the latest one, unless its last close is newer."""
    ids = np.unique(assets)
    price, moment, at_close = [0] * (len(ids) + 1), [MAX] * (len(ids) + 1), [False] * (len(ids) + 1)
    for i, row in enumerate(session.execute(_PRICES, {"ids": ids.tolist()})):
        if row.price is not None and (row.close is None or row.ts >= row.closed_at):
            price[i], moment[i] = row.price, (row.ts - _EPOCH) // _MICROSECOND
        elif row.close is not None:
            price[i], moment[i], at_close[i] = row.close, (row.closed_at - _EPOCH) // _MICROSECOND, True
    return _Prices(
        ids, np.array(price, dtype=np.int64), np.array(moment, dtype=np.int64), np.array(at_close, dtype=np.bool_)
    )
