"""Which assets a source is asked for, and what the source calls them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import text
from sqlalchemy.orm import Session

from core.errors import UsageError
from schedules.markets import check_calendar
from services.price_store import Followed

_LONGEST = 100


@dataclass(frozen=True, slots=True)
class Wanted:
    """An asset that is to be followed: our symbol, and the source's code of it."""

    symbol: str
    code: str


def parse_symbols(written: str) -> list[Wanted]:
    """What a person wrote: `BTCUSDT,ETH=ETHUSDT`, our symbol before the source's code, or one name for both.

    Raises:
        UsageError: an empty or overlong name, one with control characters, or one that is there twice.
    """
    wanted = []
    for part in written.split(","):
        symbol, _, code = part.strip().partition("=")
        one = Wanted(symbol.strip(), (code or symbol).strip())
        for name in (one.symbol, one.code):
            if not name or not name.isprintable() or len(name) > _LONGEST:
                raise UsageError(f"--symbols: {part.strip()!r} is not SYMBOL or SYMBOL=CODE")
        wanted.append(one)
    for names in ([one.symbol for one in wanted], [one.code for one in wanted]):
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise UsageError(f"--symbols: {twice!r} is there twice")
    return wanted


def follow(
    session: Session, source: str, wanted: Sequence[Wanted], *, now: datetime, calendar: str | None = None
) -> dict[str, Followed]:
    """Follow these assets from now on; unknown symbols become assets. All of them, by code.

    Raises:
        UsageError: the calendar is unknown, or the source's code belongs to another asset already.
    """
    if calendar is not None:
        check_calendar(calendar)
    values = {
        "source": source,
        "symbols": [one.symbol for one in wanted],
        "codes": [one.code for one in wanted],
        "now": now,
        "calendar": calendar,
    }
    taken = session.execute(_TAKEN, values).first()
    if taken is not None:
        raise UsageError(f"{source} code {taken.code!r} is asset {taken.symbol!r} already: unfollow that first")
    session.execute(_ASSETS, values)
    if calendar is not None:
        session.execute(_CALENDAR, values)
    session.execute(_FOLLOW, values)
    return all_followed(session, source, [one.symbol for one in wanted])


def all_followed(session: Session, source: str, symbols: Sequence[str] | None = None) -> dict[str, Followed]:
    """The assets that a source is asked for, by code; only those of `symbols` unless it is None."""
    values = {"source": source, "symbols": None if symbols is None else list(symbols)}
    return {row.code: Followed(row.id, row.symbol, row.code) for row in session.execute(_ALL, values)}


def unfollow(session: Session, source: str, symbols: Sequence[str]) -> int:
    """Ask the source for these no more; how many it was asked for. Their prices stay.

    Raises:
        UsageError: the source is not asked for one of them.
    """
    known = {asset.symbol for asset in all_followed(session, source, symbols).values()}
    strange = next((symbol for symbol in symbols if symbol not in known), None)
    if strange is not None:
        raise UsageError(f"{source} is not asked for {strange!r}: nightshift prices sources shows what is followed")
    result = session.execute(_UNFOLLOW, {"source": source, "symbols": list(symbols)})
    return result.rowcount  # type: ignore[attr-defined,no-any-return]  # a CursorResult


_PAIRS = "unnest(CAST(:symbols AS text[]), CAST(:codes AS text[])) AS n (symbol, code)"
_TAKEN = text(
    f"""
    SELECT s.code, a.symbol FROM {_PAIRS}
    JOIN asset_sources s ON s.source = :source AND s.code = n.code
    JOIN assets a ON a.id = s.asset_id AND a.symbol <> n.symbol LIMIT 1
    """  # noqa: S608 - our own constant
)
_ASSETS = text(
    f"""
    INSERT INTO assets (symbol, created_at, calendar)
    SELECT symbol, :now, coalesce(:calendar, '24/7') FROM {_PAIRS}
    WHERE NOT EXISTS (SELECT FROM assets a WHERE a.symbol = n.symbol)
    ORDER BY symbol COLLATE "C" ON CONFLICT (symbol) DO NOTHING
    """  # noqa: S608 - our own constant
)
_CALENDAR = text("UPDATE assets SET calendar = :calendar WHERE symbol = ANY(:symbols) AND calendar <> :calendar")
_FOLLOW = text(
    f"""
    INSERT INTO asset_sources (source, asset_id, code)
    SELECT :source, a.id, n.code FROM {_PAIRS} JOIN assets a ON a.symbol = n.symbol
    ON CONFLICT (source, asset_id) DO UPDATE SET code = excluded.code WHERE asset_sources.code <> excluded.code
    """  # noqa: S608 - our own constant
)
_ALL = text(
    """
    SELECT a.id, a.symbol, s.code FROM asset_sources s JOIN assets a ON a.id = s.asset_id
    WHERE s.source = :source AND (CAST(:symbols AS text[]) IS NULL OR a.symbol = ANY(CAST(:symbols AS text[])))
    ORDER BY a.id
    """
)
_UNFOLLOW = text(
    "DELETE FROM asset_sources s USING assets a"
    " WHERE s.source = :source AND a.id = s.asset_id AND a.symbol = ANY(:symbols)"
)
