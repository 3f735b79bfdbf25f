"""Daily closes of an answer into the database: judged, then written where nothing stronger is known.

A close that jumped is believed if the day's own ticks ended near it, if the day after it opened near it, or if a second
source or the next day's close says the same; until then it is held, and the day has no close of this source.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta

from sqlalchemy import text
from sqlalchemy.orm import Session

from core.settings import Settings
from price_sources.source import DayClose
from services.closes import CandleClose, day_start, write_candles
from services.held_prices import NewHeld, held_of, hold, settle
from services.price_checks import Believed, Held, Verdict, band, decide, jump, next_variance
from services.price_store import Followed, Stored, lock_prices

_DAY = timedelta(days=1)


@dataclass(slots=True)
class _Judged:
    accepted: list[CandleClose]
    held: list[NewHeld]
    verdicts: dict[int, Verdict]


def store_closes(
    session: Session,
    source: str,
    assets: Mapping[str, Followed],
    closes: Sequence[DayClose],
    *,
    now: datetime,
    settings: Settings,
) -> Stored:
    """Store the closes of these assets (by code); others are passed over. `Stored.ticks` counts closes that changed."""
    lock_prices(session)
    by_asset: dict[int, list[DayClose]] = defaultdict(list)
    for close in sorted(closes, key=lambda one: one.day):
        if close.code in assets:
            by_asset[assets[close.code].id].append(close)
    if not by_asset:
        return Stored()
    ids = list(by_asset)
    first = min(close.day for close in closes)
    before, own = _before(session, ids, first), _ticks(session, ids, first)
    waiting = held_of(session, "close", ids)
    judged = _Judged([], [], {})
    for asset_id, days in by_asset.items():
        _judge(source, asset_id, days, before.get(asset_id), own, waiting.get(asset_id, []), judged)
    held = hold(session, "close", source, judged.held, now=now)
    settle(session, judged.verdicts, by=source, now=now)
    written = write_candles(session, judged.accepted, source=source, now=now, settings=settings)
    return Stored(ticks=written.written, held=held, run=written.run)


def _judge(
    source: str,
    asset_id: int,
    days: Sequence[DayClose],
    believed: Believed | None,
    own: Mapping[tuple[int, date], tuple[datetime, int]],
    waiting: Sequence[Held],
    judged: _Judged,
) -> None:
    """Go through an asset's days in their order, each judged by the ones before it."""
    accepted: dict[date, CandleClose] = {}
    for index, close in enumerate(days):
        ends = day_start(close.day) + _DAY
        following = days[index + 1] if index + 1 < len(days) else None
        pending = [_ending(one) for one in waiting if one.id not in judged.verdicts]
        decision = decide(source, ends, close.close, believed, pending)
        judged.verdicts |= dict(decision.verdicts)
        if not decision.accepted and not _borne_out(close, believed, own.get((asset_id, close.day)), following):
            assert believed is not None  # noqa: S101 - nothing is held without something to judge by
            judged.held.append(NewHeld(asset_id, day_start(close.day), close.close, believed.price, decision))
            continue
        for one in waiting:
            if judged.verdicts.get(one.id) is Verdict.CONFIRMED and one.ts.date() not in accepted:
                accepted[one.ts.date()] = CandleClose(asset_id, one.ts.date(), one.price)
        accepted[close.day] = CandleClose(
            asset_id, close.day, close.close, close.open, close.high, close.low, close.volume
        )
        variance = None if believed is None else next_variance(believed, ends, close.close)
        believed = Believed(ends, close.close, variance)
    judged.accepted += accepted.values()


def _ending(held: Held) -> Held:
    """A held close as a price of the end of its day, as other closes are."""
    return held._replace(ts=held.ts + _DAY)


def _borne_out(
    close: DayClose, believed: Believed | None, own: tuple[datetime, int] | None, following: DayClose | None
) -> bool:
    """Whether the day's last tick, or the day after, is near a close that is far from the one before it."""
    variance = believed.variance if believed else None
    if own is not None and jump(close.close, own[1]) <= band(variance, day_start(close.day) + _DAY - own[0]):
        return True
    if following is None or following.day > close.day + _DAY:
        return False
    return jump(close.close, following.open or following.close) <= band(variance, _DAY)


def _before(session: Session, asset_ids: Sequence[int], first: date) -> dict[int, Believed]:
    """The close before `first` of each asset, and how much it moved in the weeks before."""
    found: dict[int, Believed] = {}
    values = {"assets": list(asset_ids), "first": first, "since": first - timedelta(days=40)}
    for asset_id, ends, close in session.execute(_BEFORE, values):
        earlier = found.get(asset_id)
        variance = None if earlier is None else next_variance(earlier, ends, close)
        found[asset_id] = Believed(ends, close, variance)
    return found


def _ticks(session: Session, asset_ids: Sequence[int], first: date) -> dict[tuple[int, date], tuple[datetime, int]]:
    rows = session.execute(_TICKS, {"assets": list(asset_ids), "first": first})
    return {(row.asset_id, row.day): (row.as_of, row.close) for row in rows}


_BEFORE = text(
    """
    SELECT asset_id, (day + 1)::timestamp AT TIME ZONE 'UTC', close FROM closes
    WHERE asset_id = ANY(:assets) AND day >= :since AND day < :first ORDER BY asset_id, day
    """
)
_TICKS = text(
    "SELECT asset_id, day, as_of, close FROM closes WHERE kind = 'tick' AND asset_id = ANY(:assets) AND day >= :first"
)
