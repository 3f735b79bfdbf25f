"""What prices are due: windows, what failed and can be filled, and closes of finished days; planned once by constraint.

Every tick looks. A window that is over without its prices has failed, also one that no tick ever planned because beat
was away; as soon as its source answers again, what failed is asked of the source's history.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

from sqlalchemy import text
from sqlalchemy.orm import Session

from core.settings import Settings
from price_sources.source import PriceSource
from services.alerts import raise_alert
from services.closes import day_start
from services.price_windows import FILL_FAILED

# Failed windows within one such range are asked for together; a request gives a thousand points of one asset.
_FILL_SPAN = timedelta(days=1)
_FILL_GAP_WINDOWS = 12
# Of a source that is asked window by window, a message must not ask for more than it has time for.
_MOST_REQUESTS = 30
_UNFILLABLE_RESTS = timedelta(hours=1)


@dataclass(slots=True)
class PricesPlanned:
    """What one look planned: live windows, windows that turned out to have failed, chunks of fills and of closes."""

    windows: int = 0
    failed: int = 0
    fills: int = 0
    closes: int = 0


def window_start(now: datetime, seconds: int) -> datetime:
    """The beginning of the window of so many seconds that holds `now`; windows are counted from 1970."""
    elapsed = int(now.timestamp())
    return datetime.fromtimestamp(elapsed - elapsed % seconds, UTC)


def plan_prices(
    session: Session, sources: Mapping[str, PriceSource], *, now: datetime, settings: Settings
) -> PricesPlanned:
    """Plan whatever is due of the sources that follow an asset."""
    planned = PricesPlanned()
    for source in sources.values():
        assets = list(session.scalars(_FOLLOWED, {"source": source.name}))
        if assets:
            if source.live(("any",), now):
                _plan_windows(session, source, assets, now, settings, planned)
            _plan_closes(session, source, assets, now, settings, planned)
    return planned


def chunks_of(asset_ids: Sequence[int], size: int) -> Iterator[list[int]]:
    """The ids in pieces of at most `size`."""
    for start in range(0, len(asset_ids), max(size, 1)):
        yield list(asset_ids[start : start + max(size, 1)])


def insert_chunks(
    session: Session, source: str, kind: str, span: tuple[datetime, datetime], pieces: Sequence[Sequence[int]]
) -> int:
    """Insert a chunk for each piece; one that was there already is planned anew. How many there are."""
    for seq, piece in enumerate(pieces):
        values = {"source": source, "kind": kind, "first": span[0], "last": span[1], "seq": seq, "assets": list(piece)}
        session.execute(_INSERT_CHUNK, values)
    return len(pieces)


def _plan_windows(
    session: Session,
    source: PriceSource,
    assets: Sequence[int],
    now: datetime,
    settings: Settings,
    planned: PricesPlanned,
) -> None:
    length = timedelta(seconds=settings.price_window_seconds)
    current = window_start(now, settings.price_window_seconds)
    _fail_overdue(session, source, current, length, _oldest(now, settings), planned, now)
    values = {"source": source.name, "start": current, "now": now}
    if session.execute(_INSERT_WINDOW, values).first() is not None:
        pieces = list(chunks_of(assets, source.terms.symbols_per_request))
        insert_chunks(session, source.name, "live", (current, current + length), pieces)
        planned.windows += 1
    _plan_fill(session, source, assets, now, settings, planned)


def _oldest(now: datetime, settings: Settings) -> datetime:
    """The first window that is still filled if it failed."""
    return window_start(now - timedelta(days=settings.price_fill_days), settings.price_window_seconds)


def _fail_overdue(
    session: Session,
    source: PriceSource,
    current: datetime,
    length: timedelta,
    oldest: datetime,
    planned: PricesPlanned,
    now: datetime,
) -> None:
    values = {"source": source.name, "current": current, "length": length, "oldest": oldest, "now": now}
    never = session.execute(_INSERT_NEVER_PLANNED, values).all()
    over = session.execute(_FAIL_WINDOWS, values).all()
    if over:
        session.execute(_FAIL_CHUNKS, values)
    if never or over:
        planned.failed += len(never) + len(over)
        _raise_failed(session, source, now)


def _raise_failed(session: Session, source: PriceSource, now: datetime) -> None:
    """Say since when there are no prices, and why the newest ones did not come."""
    row = session.execute(_OUTAGE, {"source": source.name}).one()
    detail = f"{source.name}: no prices for {row.windows} windows, from {row.first:%Y-%m-%d %H:%M} on: {row.error}"
    raise_alert(session, f"prices:{source.name}", "prices_failed", detail, now=now)


def _plan_fill(
    session: Session,
    source: PriceSource,
    assets: Sequence[int],
    now: datetime,
    settings: Settings,
    planned: PricesPlanned,
) -> None:
    length = timedelta(seconds=settings.price_window_seconds)
    values = {
        "source": source.name,
        "oldest": _oldest(now, settings),
        "patient": now - _UNFILLABLE_RESTS,
        "unfilled": FILL_FAILED,
    }
    if session.execute(_BACK_AND_IDLE, values).scalar_one() is not True:
        return
    failed = list(session.scalars(_FAILED, values))
    if not failed:
        return
    span = _together(failed, length)
    while span[1] - span[0] > length and len(source.fill(("any",), *span, length)) > _MOST_REQUESTS:
        span = (span[0], span[0] + max((span[1] - span[0]) // length // 2, 1) * length)
    session.execute(_FILLING, {"source": source.name, "first": span[0], "last": span[1]})
    pieces = list(chunks_of(assets, source.terms.symbols_per_chunk))
    planned.fills += insert_chunks(session, source.name, "fill", span, pieces)


def _together(failed: Sequence[datetime], length: timedelta) -> tuple[datetime, datetime]:
    """The first range of failed windows that are near each other; both ends are beginnings of windows."""
    last = failed[0]
    for start in failed[1:]:
        if start - last > _FILL_GAP_WINDOWS * length or start - failed[0] >= _FILL_SPAN:
            break
        last = start
    return failed[0], last + length


def _plan_closes(
    session: Session,
    source: PriceSource,
    assets: Sequence[int],
    now: datetime,
    settings: Settings,
    planned: PricesPlanned,
) -> None:
    after = (now - source.terms.settled).date()
    asked: datetime | None = session.execute(_CLOSES_ASKED, {"source": source.name}).scalar_one_or_none()
    first = after - timedelta(days=1)
    if asked is not None:
        first = max(asked.astimezone(UTC).date(), after - timedelta(days=max(settings.price_fill_days, 1)))
    if first < after and source.closes(("any",), first, after):
        planned.closes += plan_closes(session, source, assets, first, after)


def plan_closes(session: Session, source: PriceSource, assets: Sequence[int], first: date, last: date) -> int:
    """Plan to ask for the closes of the days [first, last); the number of chunks."""
    pieces = list(chunks_of(assets, source.terms.symbols_per_chunk))
    return insert_chunks(session, source.name, "closes", (day_start(first), day_start(last)), pieces)


_FOLLOWED = text("SELECT asset_id FROM asset_sources WHERE source = :source ORDER BY asset_id")
_INSERT_WINDOW = text(
    "INSERT INTO price_windows (source, starts_at, status, created_at) VALUES (:source, :start, 'planned', :now)"
    " ON CONFLICT DO NOTHING RETURNING starts_at"
)
_INSERT_CHUNK = text(
    """
    INSERT INTO price_chunks AS c (source, kind, first, last, seq, asset_ids)
    VALUES (:source, :kind, :first, :last, :seq, :assets)
    ON CONFLICT (source, kind, first, seq) DO UPDATE
    SET status = 'planned', attempts = 0, last = excluded.last, asset_ids = excluded.asset_ids, not_before = NULL
    """
)
# Between the newest window and this one: beat, or everything, was away.
_INSERT_NEVER_PLANNED = text(
    """
    INSERT INTO price_windows (source, starts_at, status, created_at, finished_at, error)
    SELECT :source, start, 'failed', :now, :now, 'nobody planned it in time'
    FROM (
        SELECT max(starts_at) AS newest FROM price_windows WHERE source = :source AND starts_at < :current
    ) AS w, generate_series(
        greatest(w.newest + CAST(:length AS interval), CAST(:oldest AS timestamptz)),
        CAST(:current AS timestamptz) - CAST(:length AS interval), CAST(:length AS interval)
    ) AS start
    WHERE w.newest IS NOT NULL
    ON CONFLICT DO NOTHING RETURNING starts_at, error
    """
)
_FAIL_WINDOWS = text(
    """
    UPDATE price_windows w SET status = 'failed', finished_at = :now, error = coalesce((
        SELECT error FROM price_chunks c WHERE c.source = w.source AND c.kind = 'live' AND c.first = w.starts_at
            AND error IS NOT NULL ORDER BY seq LIMIT 1), 'nobody fetched it in time')
    WHERE source = :source AND status = 'planned' AND starts_at < :current
    RETURNING starts_at, error
    """
)
_FAIL_CHUNKS = text(
    """
    UPDATE price_chunks SET status = 'failed', finished_at = :now
    WHERE source = :source AND kind = 'live' AND first < :current AND status IN ('planned', 'queued', 'running')
    """
)
# It is back if its newest window that has ended, one way or another, was not a failure.
_BACK_AND_IDLE = text(
    """
    SELECT (SELECT status IN ('done', 'filled') FROM price_windows
            WHERE source = :source AND status <> 'planned' ORDER BY starts_at DESC LIMIT 1)
        AND NOT EXISTS (SELECT FROM price_chunks
            WHERE source = :source AND kind = 'fill' AND status IN ('planned', 'queued', 'running'))
    """
)
_OUTAGE = text(
    """
    SELECT count(*) AS windows, min(starts_at) AS first,
        (array_agg(error ORDER BY starts_at DESC) FILTER (WHERE error IS NOT NULL))[1] AS error
    FROM price_windows w WHERE source = :source AND status = 'failed' AND starts_at > coalesce((
        SELECT max(starts_at) FROM price_windows WHERE source = :source AND status IN ('done', 'filled')), '-infinity')
    """
)
# What was not filled is tried again after an hour: it must not keep others from their turn.
_FAILED = text(
    "SELECT starts_at FROM price_windows WHERE source = :source AND status = 'failed' AND starts_at >= :oldest"
    " AND (NOT starts_with(error, :unfilled) OR finished_at < :patient) ORDER BY starts_at"
)
_FILLING = text(
    "UPDATE price_windows SET status = 'filling'"
    " WHERE source = :source AND status = 'failed' AND starts_at >= :first AND starts_at < :last"
)
_CLOSES_ASKED = text(
    "SELECT last FROM price_chunks WHERE source = :source AND kind = 'closes' ORDER BY first DESC LIMIT 1"
)
