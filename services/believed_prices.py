"""The newest price of each asset that was believed, and how much the asset moves: what a new price is judged by.

An asset that never had a price from a source is judged by its last closes, so that its first price is checked as well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import text
from sqlalchemy.orm import Session

from services.array_text import moment_array, number_array, text_array
from services.price_checks import Believed, next_variance


@dataclass(frozen=True, slots=True)
class BelievedPrice:
    """An asset's newest believed price; `source` is empty where it is a close."""

    source: str
    price: Believed


def believed_prices(session: Session, asset_ids: Sequence[int], now: datetime) -> dict[int, BelievedPrice]:
    """By asset; those without any price or recent close are left out."""
    rows = session.execute(_LATEST, {"assets": list(asset_ids)})
    found = {row.asset_id: BelievedPrice(row.source, Believed(row.ts, row.price, row.variance)) for row in rows}
    rest = [asset for asset in asset_ids if asset not in found]
    if rest:
        found |= _from_closes(session, rest, now)
    return found


def write_believed(session: Session, prices: Mapping[int, BelievedPrice]) -> None:
    """Remember these prices; one that is older than what is remembered changes nothing."""
    if not prices:
        return
    values = {
        "assets": number_array(list(prices)),
        "moments": moment_array([one.price.ts for one in prices.values()]),
        "prices": number_array([one.price.price for one in prices.values()]),
        "sources": text_array([one.source for one in prices.values()]),
        "variances": number_array([one.price.variance for one in prices.values()]),
    }
    session.execute(_WRITE, values)


def _from_closes(session: Session, asset_ids: Sequence[int], now: datetime) -> dict[int, BelievedPrice]:
    found: dict[int, BelievedPrice] = {}
    values = {"assets": list(asset_ids), "since": now.date() - _LOOK_BACK, "today": now.date()}
    for asset_id, day_end, close in session.execute(_CLOSES, values):
        before = found.get(asset_id)
        variance = None if before is None else next_variance(before.price, day_end, close)
        found[asset_id] = BelievedPrice("", Believed(day_end, close, variance))
    return found


_LOOK_BACK = timedelta(days=40)
_LATEST = text("SELECT asset_id, ts, price, source, variance FROM latest_prices WHERE asset_id = ANY(:assets)")
# A close stands for the end of its day; today has not ended.
_CLOSES = text(
    """
    SELECT asset_id, (day + 1)::timestamp AT TIME ZONE 'UTC', close FROM closes
    WHERE asset_id = ANY(:assets) AND day >= :since AND day < :today ORDER BY asset_id, day
    """
)
_WRITE = text(
    """
    INSERT INTO latest_prices AS l (asset_id, ts, price, source, variance)
    SELECT * FROM unnest(CAST(:assets AS int[]), CAST(:moments AS timestamptz[]), CAST(:prices AS bigint[]),
        CAST(:sources AS text[]), CAST(:variances AS float8[]))
    ON CONFLICT (asset_id) DO UPDATE SET ts = excluded.ts, price = excluded.price, source = excluded.source,
        variance = excluded.variance
    WHERE l.ts <= excluded.ts
    """
)
