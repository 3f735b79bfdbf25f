"""What an operator wants to know of each source: what it allows, what it is asked for, how it has been answering."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import text
from sqlalchemy.orm import Session

from price_sources.source import PriceSource


@dataclass(frozen=True, slots=True)
class SourceReport:
    """One source.

    Attributes:
        limit: in words.
        close: what it takes as a day's close.
        newest_window: the newest window whose prices came in time.
        failed_windows: those that are still to be filled.
        closes_through: the end of the days whose closes were asked for.
        alert: what its active alert says.
        counts: of the newest window, how many prices were refused or missing, by reason.
        last_error: of the newest 2,000 windows: a week of them.
    """

    name: str
    url: str
    limit: str
    close: str
    assets: int
    newest_window: datetime | None
    failed_windows: int
    closes_through: datetime | None
    held: int
    counts: dict[str, int]
    last_error: str | None
    alert: str | None


def source_reports(
    session: Session, sources: Mapping[str, PriceSource], limits: Mapping[str, str]
) -> list[SourceReport]:
    """The sources in their order; `limits` in words by name."""
    rows = {row.source: row for row in session.execute(_STATES, {"names": list(sources)})}
    reports = []
    for name, source in sources.items():
        row = rows[name]
        reports.append(
            SourceReport(
                name=name,
                url=source.base_url,
                limit=limits[name],
                close=source.terms.close,
                assets=row.assets,
                newest_window=row.newest_window,
                failed_windows=row.failed_windows,
                closes_through=row.closes_through,
                held=row.held,
                counts=row.counts or {},
                last_error=row.last_error,
                alert=row.alert,
            )
        )
    return reports


_STATES = text(
    """
    SELECT n.source,
        (SELECT count(*) FROM asset_sources s WHERE s.source = n.source) AS assets,
        (SELECT max(starts_at) FROM price_windows w WHERE w.source = n.source AND status = 'done') AS newest_window,
        (SELECT count(*) FROM price_windows w
            WHERE w.source = n.source AND status IN ('failed', 'filling')) AS failed_windows,
        (SELECT max(last) FROM price_chunks c
            WHERE c.source = n.source AND kind = 'closes' AND status = 'done') AS closes_through,
        (SELECT count(*) FROM held_prices h WHERE h.source = n.source AND status = 'held') AS held,
        (SELECT counts FROM price_windows w
            WHERE w.source = n.source AND status = 'done' ORDER BY starts_at DESC LIMIT 1) AS counts,
        (SELECT error FROM (
            SELECT error, starts_at FROM price_windows w WHERE w.source = n.source ORDER BY starts_at DESC LIMIT 2000
        ) AS recent WHERE error IS NOT NULL ORDER BY starts_at DESC LIMIT 1) AS last_error,
        (SELECT detail FROM alerts a WHERE a.key = 'prices:' || n.source AND cleared_at IS NULL) AS alert
    FROM unnest(CAST(:names AS text[])) AS n (source)
    """
)
