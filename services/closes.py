"""A day's close out of many that say they are it: which one wins, and what a change of the past brings with it.

The stronger kind wins: a person's correction over a file's close, that over the provider's daily candle, that over the
day's last tick (models.tables_prices.CLOSE_KINDS). Among candles, and among ticks of about the same moment, the source
that the settings name first. A change of a day that nights have used plans their correction in the same transaction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any, NamedTuple

from sqlalchemy import text
from sqlalchemy.orm import Session

from core.settings import Settings
from services.array_text import moment_array, number_array, text_array
from services.corrections import CloseChange, may_be_known, plan_corrections, sees_to_its_changes

# A better source's tick stands until it is so much older than another's.
_PATIENCE_WINDOWS = 2


class CandleClose(NamedTuple):
    """A day's close from a provider, in ticks of 1e-8; volume in units. None: not given."""

    asset_id: int
    day: date
    close: int
    open: int | None = None
    high: int | None = None
    low: int | None = None
    volume: Decimal | None = None


class TickClose(NamedTuple):
    """A price of a moment, which is its day's close until a later one comes; in ticks of 1e-8."""

    asset_id: int
    as_of: datetime
    close: int


@dataclass(frozen=True, slots=True)
class ClosesWritten:
    """How many closes were written, and the run that does again what used other ones before."""

    written: int
    run: int | None = None


def write_candles(
    session: Session, candles: Sequence[CandleClose], *, source: str, now: datetime, settings: Settings
) -> ClosesWritten:
    """Write finished days of a provider, at most one for each asset and day."""
    if not candles:
        return ClosesWritten(0)
    columns = [list(column) for column in zip(*candles, strict=True)]
    names = ("assets", "days", "closes", "opens", "highs", "lows", "volumes")
    return _write(session, _CANDLES, dict(zip(names, columns, strict=True)), source, now, settings)


def write_last_ticks(
    session: Session, ticks: Sequence[TickClose], *, source: str, now: datetime, settings: Settings
) -> ClosesWritten:
    """Let ticks be the closes of their days, where nothing better is known."""
    last: dict[tuple[int, date], TickClose] = {}
    for tick in ticks:
        key = (tick.asset_id, tick.as_of.astimezone(UTC).date())
        if key not in last or last[key].as_of < tick.as_of:
            last[key] = tick
    if not last:
        return ClosesWritten(0)
    values = {
        "assets": number_array([asset for asset, _ in last]),
        "days": text_array([day.isoformat() for _, day in last]),
        "closes": number_array([tick.close for tick in last.values()]),
        "moments": moment_array([tick.as_of for tick in last.values()]),
        "patience": _PATIENCE_WINDOWS * timedelta(seconds=settings.price_window_seconds),
    }
    return _write(session, _TICKS, values, source, now, settings)


def day_start(day: date) -> datetime:
    """The first moment of a UTC day."""
    return datetime.combine(day, time(0), UTC)


def _write(
    session: Session, statement: Any, values: dict[str, Any], source: str, now: datetime, settings: Settings
) -> ClosesWritten:
    values |= {"source": source, "now": now, "sources": source_order(settings)}
    sees_to_its_changes(session)
    rows = session.execute(statement, values).all()
    changes = [
        CloseChange(row.asset_id, row.day, row.before, row.after)
        for row in rows
        if row.before != row.after and may_be_known(row.day, now, settings)
    ]
    run = None
    if changes:
        reason = f"closes from {source}"
        run = plan_corrections(session, changes, reason=reason, requested_by=source, now=now, settings=settings)
    return ClosesWritten(len(rows), run)


def source_order(settings: Settings) -> list[str]:
    """The names of the sources, the best first."""
    return [name.strip() for name in settings.price_sources.split(",") if name.strip()]


# Of a source that the settings do not name any more, everybody else is better.
_RANK = "coalesce(array_position(CAST(:sources AS text[]), {0}), 1000)"
_BETTER = f"{_RANK.format('excluded.source')} <= {_RANK.format('c.source')}"
_STRICTLY = f"{_RANK.format('excluded.source')} < {_RANK.format('c.source')}"

_CANDLES = text(
    f"""
    INSERT INTO closes AS c (day, asset_id, close, open, high, low, volume, source, recorded_at, kind)
    SELECT day, asset_id, close, open, high, low, volume, :source, :now, 'candle'
    FROM unnest(CAST(:assets AS int[]), CAST(:days AS date[]), CAST(:closes AS bigint[]), CAST(:opens AS bigint[]),
        CAST(:highs AS bigint[]), CAST(:lows AS bigint[]), CAST(:volumes AS numeric[]))
        AS n (asset_id, day, close, open, high, low, volume)
    ORDER BY day, asset_id
    ON CONFLICT (day, asset_id) DO UPDATE SET close = excluded.close, source = excluded.source, kind = 'candle',
        open = coalesce(excluded.open, c.open), high = coalesce(excluded.high, c.high),
        low = coalesce(excluded.low, c.low), volume = coalesce(excluded.volume, c.volume),
        recorded_at = excluded.recorded_at, as_of = NULL
    WHERE c.kind = 'tick' OR (c.kind = 'candle' AND {_BETTER} AND (c.close, c.open, c.high, c.low, c.volume)
        IS DISTINCT FROM (excluded.close, coalesce(excluded.open, c.open), coalesce(excluded.high, c.high),
        coalesce(excluded.low, c.low), coalesce(excluded.volume, c.volume)))
    RETURNING new.asset_id, new.day, old.close AS before, new.close AS after
    """  # noqa: S608 - our own constants
)

_TICKS = text(
    f"""
    INSERT INTO closes AS c (day, asset_id, close, source, recorded_at, kind, as_of)
    SELECT day, asset_id, close, :source, :now, 'tick', as_of
    FROM unnest(CAST(:assets AS int[]), CAST(:days AS date[]), CAST(:closes AS bigint[]),
        CAST(:moments AS timestamptz[])) AS n (asset_id, day, close, as_of)
    ORDER BY day, asset_id
    ON CONFLICT (day, asset_id) DO UPDATE SET close = excluded.close, source = excluded.source,
        recorded_at = excluded.recorded_at, as_of = excluded.as_of
    WHERE c.kind = 'tick' AND (
        (excluded.as_of > c.as_of AND ({_BETTER} OR excluded.as_of > c.as_of + CAST(:patience AS interval)))
        OR ({_STRICTLY} AND excluded.as_of >= c.as_of - CAST(:patience AS interval))
    )
    RETURNING new.asset_id, new.day, old.close AS before, new.close AS after
    """  # noqa: S608 - our own constants
)
