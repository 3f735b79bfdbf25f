"""Closes from a file into the database: all good rows in one transaction, again and again with the same result.

The rows go into a temporary table by COPY and from there, set by set, into `closes`. A close that exists with another
value is never rewritten silently: it counts as updated, and `price_corrections` keeps what it was; where nights used
it, or would have, a run is planned that does them again (services.corrections). A close that a person has corrected is
kept, and counted. A column that a file does not have leaves the recorded value alone. Other writers of `closes` wait
from the comparison until the commit, so that what a correction says was really there; readers do not wait.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path

from sqlalchemy import select, text
from sqlalchemy.orm import Session

from core.database import driver_connection
from core.errors import NightshiftError, UsageError
from core.settings import Settings, get_settings
from models.tables import Asset, Close
from price_sources.closes import BadRow, CloseRow, shown
from price_sources.csv_file import printable, read_closes
from schedules.markets import check_calendar
from services.closed_days import ClosedDays, closed_in_file
from services.corrections import Recorded, make_changes_table, plan_changes, sees_to_its_changes
from services.reprocessing import Request


@dataclass(frozen=True, slots=True)
class ImportSummary:
    """What an import did. `rows` = inserted + updated + unchanged + len(rejected)."""

    rows: int
    inserted: int
    updated: int
    unchanged: int
    corrected: int
    """Those of the updated whose close itself was another; each has a row in `price_corrections`."""
    kept: int
    """Those of the unchanged that have another close in the file: a person has corrected it."""
    new_symbols: int
    rejected: list[BadRow]
    run: int | None = None
    """The run that does the nights again that depend on these closes."""
    closed_days: ClosedDays | None = None
    """Those of the good rows whose market is closed on their day; they are taken as any other."""


@dataclass(frozen=True, slots=True)
class LatestClose:
    """The last close of an asset, in units."""

    symbol: str
    day: date
    close: Decimal
    open: Decimal | None
    high: Decimal | None
    low: Decimal | None
    volume: Decimal | None
    source: str
    recorded_at: datetime


class RejectedRowsError(NightshiftError):
    """A strict import met bad rows: nothing was imported. `rejected` has all of them."""

    def __init__(self, name: str, rejected: list[BadRow]) -> None:
        first = rejected[0]
        more = f" and {len(rejected) - 1} more" if len(rejected) > 1 else ""
        super().__init__(f"{name}: nothing imported (strict): line {first.line} {first.reason}{more}")
        self.rejected = rejected


def import_closes(
    session: Session,
    path: Path,
    *,
    now: datetime,
    strict: bool = False,
    source: str | None = None,
    requested_by: str = "prices import",
    calendar: str | None = None,
    settings: Settings | None = None,
) -> ImportSummary:
    """Import a CSV or CSV.GZ file; unknown symbols become assets. The caller commits, or rolls back if this raises.

    `source` is recorded with each new or changed close; None: the file's name. Days after `now`'s date are refused.
    `calendar` says when the markets of all symbols of the file trade; None: as it was, of new ones always.
    `settings` say how large batches are; None: those of this process.

    Raises:
        UsageError: the file as a whole cannot be read, or the calendar is unknown.
        RejectedRowsError: `strict`, and a row is bad.
    """
    if calendar is not None:
        check_calendar(calendar)
    name = printable(Path(path.name))
    connection = session.connection()
    connection.exec_driver_sql(_INCOMING)
    rejected: list[BadRow] = []
    good = _copy_in(session, read_closes(path, today=now.date()), rejected)
    if strict and rejected:
        raise RejectedRowsError(printable(path), rejected)
    values = {"now": now, "source": source or name}
    new_symbols = connection.execute(text(_NEW_ASSETS), values).rowcount
    if calendar is not None:
        connection.execute(text(_CALENDAR), {"calendar": calendar})
    closed_days = closed_in_file(session)
    connection.execute(text("LOCK TABLE closes IN SHARE ROW EXCLUSIVE MODE"))
    sees_to_its_changes(session)
    make_changes_table(session)
    kept = connection.execute(text(_KEEP)).rowcount
    corrected = connection.execute(text(_CHANGED)).rowcount
    updated = connection.execute(text(_UPDATE), values).rowcount
    inserted: int = connection.execute(text(_INSERT), values).scalar_one()
    request = Request(f"import {name}", requested_by, now)
    run = plan_changes(session, Recorded.REPLACED, request, settings or get_settings())
    connection.exec_driver_sql("DROP TABLE pg_temp.incoming_closes")
    return ImportSummary(
        rows=good + len(rejected),
        inserted=inserted,
        updated=updated,
        unchanged=good - inserted - updated,
        corrected=corrected,
        kept=kept,
        new_symbols=new_symbols,
        rejected=rejected,
        run=run,
        closed_days=closed_days,
    )


def latest_close(session: Session, symbol: str) -> LatestClose:
    """The last close of `symbol`.

    Raises:
        UsageError: there is no such symbol, or it has no close yet.
    """
    # What an import never takes, the driver may refuse to send: a NUL, or bytes of the command line that are not UTF-8.
    asset = None if not symbol.isprintable() else session.scalar(select(Asset).where(Asset.symbol == symbol))
    if asset is None:
        raise UsageError(f"unknown symbol {shown(symbol)}: import its prices first")
    close = session.scalar(select(Close).where(Close.asset_id == asset.id).order_by(Close.day.desc()).limit(1))
    if close is None:
        raise UsageError(f"symbol {shown(symbol)} has no close yet: import its prices first")
    return LatestClose(
        symbol=asset.symbol,
        day=close.day,
        close=close.close,
        open=close.open,
        high=close.high,
        low=close.low,
        volume=close.volume,
        source=close.source,
        recorded_at=close.recorded_at,
    )


def _copy_in(session: Session, rows: Iterable[CloseRow | BadRow], rejected: list[BadRow]) -> int:
    """Stream the good rows into the temporary table; their number. The bad ones are appended to `rejected`."""
    good = 0
    with (
        driver_connection(session.connection()).cursor() as cursor,
        cursor.copy("COPY pg_temp.incoming_closes FROM STDIN") as copy,
    ):
        lines: list[str] = []
        for row in rows:
            if isinstance(row, BadRow):
                rejected.append(row)
                continue
            good += 1
            lines.append(_copy_line(row))
            if len(lines) == _COPY_ROWS:
                copy.write("".join(lines).encode())
                lines.clear()
        copy.write("".join(lines).encode())
    return good


def _copy_line(row: CloseRow) -> str:
    # Symbols are printable, so a backslash is the only character that COPY's text format would read as its own.
    fields = [row.symbol.replace("\\", "\\\\"), row.day, row.close, row.open, row.high, row.low, row.volume]
    return "\t".join("\\N" if field is None else str(field) for field in fields) + "\n"


_COPY_ROWS = 2_000

_INCOMING = """
    CREATE TEMPORARY TABLE incoming_closes (
        symbol text NOT NULL, day date NOT NULL, close bigint NOT NULL,
        open bigint, high bigint, low bigint, volume numeric
    ) ON COMMIT DROP
"""

# In the order of the symbols, so that a file whose rows come in another order gives the same ids.
_NEW_ASSETS = """
    INSERT INTO assets (symbol, created_at)
    SELECT symbol, :now FROM (SELECT DISTINCT symbol FROM incoming_closes) AS i
    WHERE NOT EXISTS (SELECT FROM assets AS a WHERE a.symbol = i.symbol)
    ORDER BY symbol COLLATE "C"
    ON CONFLICT (symbol) DO NOTHING
"""

_CALENDAR = """
    UPDATE assets SET calendar = :calendar
    WHERE calendar <> :calendar AND symbol IN (SELECT symbol FROM incoming_closes)
"""

# What a person has corrected is taken out of the file, so that none of its columns comes in; the rest goes on.
_KEEP = """
    DELETE FROM incoming_closes AS i USING assets AS a, closes AS c
    WHERE a.symbol = i.symbol AND c.asset_id = a.id AND c.day = i.day AND c.kind = 'correction' AND c.close <> i.close
"""

_CHANGED = """
    INSERT INTO close_changes (asset_id, day, old, new)
    SELECT c.asset_id, c.day, c.close, i.close
    FROM incoming_closes AS i
    JOIN assets AS a ON a.symbol = i.symbol
    JOIN closes AS c ON c.asset_id = a.id AND c.day = i.day
    WHERE c.close <> i.close
"""

# A file's close wins over what the sources have gathered, also where it is the same: they no longer change it.
_UPDATE = """
    UPDATE closes AS c
    SET close = i.close,
        open = coalesce(i.open, c.open),
        high = coalesce(i.high, c.high),
        low = coalesce(i.low, c.low),
        volume = coalesce(i.volume, c.volume),
        source = :source,
        recorded_at = :now,
        kind = CASE WHEN c.kind = 'correction' THEN c.kind ELSE 'import' END,
        as_of = NULL
    FROM incoming_closes AS i
    JOIN assets AS a ON a.symbol = i.symbol
    WHERE c.asset_id = a.id AND c.day = i.day
        AND (c.kind IN ('tick', 'candle') OR (c.close, c.open, c.high, c.low, c.volume) IS DISTINCT FROM (
            i.close, coalesce(i.open, c.open), coalesce(i.high, c.high), coalesce(i.low, c.low),
            coalesce(i.volume, c.volume)
        ))
"""

# Where there are neither simulations nor nights, the years of a first import need not be remembered. Simulations may be
# gone whose nights workers know, and the first night may be planned while this goes on: so both are looked for.
_INSERT = """
    WITH inserted AS (
        INSERT INTO closes (day, asset_id, close, open, high, low, volume, source, recorded_at)
        SELECT i.day, a.id, i.close, i.open, i.high, i.low, i.volume, :source, :now
        FROM incoming_closes AS i
        JOIN assets AS a ON a.symbol = i.symbol
        WHERE NOT EXISTS (SELECT FROM closes AS c WHERE c.asset_id = a.id AND c.day = i.day)
        ORDER BY i.day, a.id
        RETURNING asset_id, day, close
    ),
    late AS (
        INSERT INTO close_changes (asset_id, day, old, new)
        SELECT asset_id, day, NULL, close FROM inserted
        WHERE (SELECT EXISTS (SELECT FROM simulations) OR EXISTS (SELECT FROM runs WHERE kind = 'nightly'))
    )
    SELECT count(*) FROM inserted
"""
