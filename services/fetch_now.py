"""Prices that a person asks for now: the newest ones, or the closes since a day; stored like all others."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta

from sqlalchemy import Engine

from core.database import session_scope
from core.errors import UsageError
from core.settings import Settings
from price_sources.errors import SourceRefusedError
from price_sources.fetching import Fetcher
from price_sources.source import Ask
from services.ingestion import counts, store_answer
from services.price_cache import PriceCache
from services.price_planning import window_start
from services.price_store import Followed, lock_prices

# A person waits; a limit of a few requests a minute may take its time.
_PATIENCE_SECONDS = 300.0


@dataclass(slots=True)
class FetchSummary:
    """What came: new prices and closes, those held back, and those that were refused or missing, by reason."""

    source: str
    assets: int
    requests: int = 0
    stored: int = 0
    held: int = 0
    refused: dict[str, int] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)
    runs: list[int] = field(default_factory=list)


def requests_for(
    fetcher: Fetcher, assets: Mapping[str, Followed], since: date | None, *, now: datetime, settings: Settings
) -> list[Ask]:
    """The requests for the newest prices; with `since`, for the closes of the days from it to yesterday.

    Raises:
        UsageError: that day is not over yet, or the source has no such prices.
    """
    source, codes = fetcher.source, list(assets)
    if since is not None:
        if since >= now.date():
            raise UsageError(f"--since {since}: that day is not over yet, there is no close of it")
        asks = source.closes(codes, since, now.date())
    else:
        asks = source.live(codes, window_start(now, settings.price_window_seconds))
        asks = asks or source.closes(codes, now.date() - timedelta(days=1), now.date())
    if not asks:
        raise UsageError(f"{source.name} has no {'closes of days' if since else 'prices'} to ask for")
    return asks


def fetch_now(
    engine: Engine,
    fetcher: Fetcher,
    assets: Mapping[str, Followed],
    asks: list[Ask],
    *,
    clock: Callable[[], datetime],
    cache: PriceCache,
    settings: Settings,
    on_request: Callable[[], None] = lambda: None,
) -> FetchSummary:
    """Fetch and store, a commit for each request. A code that the source refuses is named, and harms no other.

    Raises:
        NightshiftError: the source did not answer; what was fetched before is stored.
    """
    summary = FetchSummary(fetcher.source.name, len(assets))
    refused: Counter[str] = Counter()
    for ask in asks:
        try:
            answer = fetcher.answer(ask, now=clock(), deadline=time.monotonic() + _PATIENCE_SECONDS)
        except SourceRefusedError as error:
            summary.errors.append(f"{', '.join(ask.codes[:3])}: {error}")
        else:
            with session_scope(engine) as session:
                # Before the clock is read: it may wait past midnight.
                lock_prices(session)
                stored = store_answer(session, summary.source, assets, answer, now=clock(), settings=settings)
            cache.put(stored.latest)
            summary.stored += stored.ticks
            summary.held += stored.held
            summary.runs += [stored.run] if stored.run is not None else []
            asked = {code: assets[code] for code in ask.codes if code in assets}
            refused.update(counts(answer, asked))
        summary.requests += 1
        on_request()
    summary.refused = dict(refused)
    return summary
