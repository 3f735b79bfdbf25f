"""How far the sources of prices are: their newest windows, and the windows that are open, read from index to index."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import text
from sqlalchemy.orm import Session

from models.base import one_of
from models.tables_ingestion import WINDOW_OPEN


@dataclass(frozen=True, slots=True)
class WindowState:
    """A source's windows.

    Attributes:
        newest_done: the beginning of the newest window that was fetched in time; None: there is none yet.
        open: how many windows are not fetched, by status of WINDOW_OPEN.
    """

    source: str
    newest_done: datetime | None
    open: dict[str, int]


def window_states(session: Session) -> list[WindowState]:
    """All sources that ever had a window, by name."""
    open_windows = {(row.source, row.status): row.windows for row in session.execute(_OPEN)}
    return [
        WindowState(
            row.source,
            row.newest_done,
            {status: open_windows.get((row.source, status), 0) for status in WINDOW_OPEN},
        )
        for row in session.execute(_SOURCES)
    ]


# A year of a source is a hundred thousand windows: to look for all sources, or for the newest window, would read them.
_SOURCES = text(
    """
    WITH RECURSIVE sources AS (
        (SELECT source FROM price_windows ORDER BY source LIMIT 1)
        UNION ALL
        SELECT following.source FROM sources s CROSS JOIN LATERAL (
            SELECT w.source FROM price_windows w WHERE w.source > s.source ORDER BY w.source LIMIT 1
        ) AS following
    )
    SELECT s.source, done.starts_at AS newest_done
    FROM sources s
    LEFT JOIN LATERAL (
        SELECT starts_at FROM price_windows
        WHERE source = s.source AND status = 'done' ORDER BY starts_at DESC LIMIT 1
    ) AS done ON true
    ORDER BY s.source
    """
)
_OPEN = text(
    f"SELECT source, status, count(*) AS windows FROM price_windows WHERE {one_of('status', WINDOW_OPEN)}"  # noqa: S608 - our own constants
    " GROUP BY source, status"
)
