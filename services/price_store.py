"""The prices of an answer into the database: judged, then ticks, newest prices and closes, in one transaction.

What was stored before changes nothing: the same hour sent again, or a chunk fetched twice. A price that is not believed
is held, and each is in exactly one of the two places.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from sqlalchemy import text
from sqlalchemy.orm import Session

from core.settings import Settings
from models.partitions import ensure_month_partitions
from price_sources.source import Quote
from services.array_text import moment_array, number_array, text_array
from services.believed_prices import BelievedPrice, believed_prices, write_believed
from services.closes import TickClose, source_order, write_last_ticks
from services.held_prices import NewHeld, held_of, hold, settle
from services.locks import PRICES_LOCK
from services.price_cache import LatestView
from services.price_checks import Believed, Held, Verdict, decide, next_variance


@dataclass(frozen=True, slots=True)
class Followed:
    """An asset, and what a source calls it."""

    id: int
    symbol: str
    code: str


@dataclass(slots=True)
class Stored:
    """What became of an answer's prices.

    Attributes:
        ticks: prices that were new.
        held: prices held back.
        latest: the newest prices of the assets for which that changed.
        run: the run that does again what used other closes.
    """

    ticks: int = 0
    held: int = 0
    latest: list[LatestView] = field(default_factory=list)
    run: int | None = None


class _Tick(NamedTuple):
    asset_id: int
    ts: datetime
    price: int
    source: str


def lock_prices(session: Session) -> None:
    """One writer of prices at a time: two would judge by prices that the other is about to replace."""
    session.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": PRICES_LOCK})


def store_quotes(
    session: Session,
    source: str,
    assets: Mapping[str, Followed],
    quotes: Sequence[Quote],
    *,
    now: datetime,
    settings: Settings,
) -> Stored:
    """Store the quotes of these assets (by code); others are passed over."""
    lock_prices(session)
    ours = sorted((assets[quote.code].id, quote.ts, quote.price) for quote in quotes if quote.code in assets)
    ids = [asset.id for asset in assets.values()]
    judge = _Judge(
        source, believed_prices(session, ids, now), held_of(session, "tick", ids), source_order(settings),
        2 * timedelta(seconds=settings.price_window_seconds),
    )  # fmt: skip
    for asset_id, ts, price in ours:
        judge.look_at(asset_id, ts, price)
    return write_judged(session, judge, {asset.id: asset.symbol for asset in assets.values()}, now, settings)


class _Judge:
    """Judges prices one by one, each in the light of those before it."""

    def __init__(
        self,
        source: str,
        believed: dict[int, BelievedPrice],
        held: Mapping[int, list[Held]],
        order: Sequence[str],
        patience: timedelta,
    ) -> None:
        self.source = source
        self.ticks: dict[tuple[int, datetime], _Tick] = {}
        self.verdicts: dict[int, Verdict] = {}
        self.newest: dict[int, BelievedPrice] = {}
        self._believed = believed
        self._waiting = {asset_id: list(prices) for asset_id, prices in held.items()}
        self._fresh: dict[int, NewHeld] = {}
        self._rank = {name: rank for rank, name in enumerate(order)}
        self._patience = patience

    @property
    def held(self) -> list[NewHeld]:
        """What was held of this answer, and what a later price of it decided about that."""
        return [one._replace(verdict=self.verdicts.get(number)) for number, one in self._fresh.items()]

    def look_at(self, asset_id: int, ts: datetime, price: int) -> None:
        """Accept or hold a price, and settle what was held of its asset."""
        known = self._believed.get(asset_id)
        waiting = [one for one in self._waiting.get(asset_id, ()) if one.id not in self.verdicts]
        decision = decide(self.source, ts, price, known.price if known else None, waiting)
        self.verdicts |= dict(decision.verdicts)
        if not decision.accepted:
            assert known is not None  # noqa: S101 - nothing is held without something to judge by
            # Numbers of its own, which no row has, until it has a row.
            number = -1 - len(self._fresh)
            self._fresh[number] = NewHeld(asset_id, ts, price, known.price.price, decision)
            self._waiting.setdefault(asset_id, []).append(Held(number, self.source, ts, price))
            return
        confirmed = [one for one in waiting if self.verdicts.get(one.id) is Verdict.CONFIRMED]
        for one in confirmed:
            self._accept(_Tick(asset_id, one.ts, one.price, one.source))
        self._accept(_Tick(asset_id, ts, price, self.source))

    def _accept(self, tick: _Tick) -> None:
        self.ticks[tick.asset_id, tick.ts] = tick
        known = self._believed.get(tick.asset_id)
        if known is not None and not self._replaces(tick, known):
            return
        variance = None
        if known is not None:
            moved = tick.ts > known.price.ts
            variance = next_variance(known.price, tick.ts, tick.price) if moved else known.price.variance
        newest = BelievedPrice(tick.source, Believed(tick.ts, tick.price, variance))
        self._believed[tick.asset_id] = self.newest[tick.asset_id] = newest

    def _replaces(self, tick: _Tick, known: BelievedPrice) -> bool:
        """A newer price does, unless it is of a source less trusted than one that spoke just before."""
        last = len(self._rank)
        behind = self._rank.get(tick.source, last) > self._rank.get(known.source, last)
        return tick.ts >= known.price.ts + (self._patience if behind else timedelta(0))


def write_judged(
    session: Session, judge: _Judge, symbols: Mapping[int, str], now: datetime, settings: Settings
) -> Stored:
    """Write what was accepted and what was held."""
    ticks = sorted(judge.ticks.values())
    stored = Stored(held=hold(session, "tick", judge.source, judge.held, now=now))
    settle(
        session, {number: verdict for number, verdict in judge.verdicts.items() if number > 0}, by=judge.source, now=now
    )
    stored.ticks = insert_ticks(session, ticks)
    write_believed(session, judge.newest)
    stored.latest = [
        LatestView(symbols[asset], one.price.price, one.price.ts, one.source) for asset, one in judge.newest.items()
    ]
    by_source: dict[str, list[TickClose]] = {}
    for tick in ticks:
        by_source.setdefault(tick.source, []).append(TickClose(tick.asset_id, tick.ts, tick.price))
    for source, closes in by_source.items():
        run = write_last_ticks(session, closes, source=source, now=now, settings=settings).run
        stored.run = stored.run or run
    return stored


def insert_ticks(session: Session, ticks: Sequence[tuple[int, datetime, int, str]]) -> int:
    """Insert (asset, moment, price, source), at most one for each asset and moment; how many were new or corrected."""
    if not ticks:
        return 0
    assets, moments, prices, sources = (list(column) for column in zip(*ticks, strict=True))
    ensure_month_partitions(session.connection(), "price_ticks", {ts.astimezone(UTC).date() for ts in moments})
    values = {
        "assets": number_array(assets),
        "moments": moment_array(moments),
        "prices": number_array(prices),
        "sources": text_array(sources),
    }
    return session.execute(_INSERT, values).rowcount  # type: ignore[attr-defined,no-any-return]  # a CursorResult


# A source may correct what it said; another source's word of the same moment does not replace it.
_INSERT = text(
    """
    INSERT INTO price_ticks AS t (asset_id, ts, price, source)
    SELECT * FROM unnest(CAST(:assets AS int[]), CAST(:moments AS timestamptz[]), CAST(:prices AS bigint[]),
        CAST(:sources AS text[]))
    ON CONFLICT (asset_id, ts) DO UPDATE SET price = excluded.price
    WHERE t.source = excluded.source AND t.price <> excluded.price
    """
)
