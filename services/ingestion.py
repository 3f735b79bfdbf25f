"""A chunk of prices from its message to its commit: claimed, fetched, judged, stored, cached.

Guarantees: what a chunk brings and its status `done` appear in one commit, which succeeds only while the claim is the
newest; a chunk that could not be fetched is planned again while its window lasts, and the window fails, with the reason
in it, when it is over. Of a chunk of many requests what was fetched is kept, and only the rest is asked again.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from sqlalchemy import Engine, text
from sqlalchemy.orm import Session

from core.database import session_scope
from core.errors import NightshiftError, PublishError, StaleClaimError
from core.log import get_logger, mask_secrets
from core.settings import Settings
from price_sources.errors import LimitedError, SourceRefusedError, SourceUnavailableError
from price_sources.fetching import Fetcher
from price_sources.source import Answer, Ask, Kind, PriceSource, Quote, Reason
from services.candle_store import store_closes
from services.price_cache import PriceCache
from services.price_chunks import ClaimedChunk, claim_chunk, finish_chunk, put_back
from services.price_store import Followed, Stored, lock_prices, store_quotes
from services.price_windows import fail_fill, finish_window
from services.publishing import MarkMessage, Publisher

log = get_logger(__name__)

# Of the soft time limit: what is left of it is for a night to pass, and for the database.
_BUDGET = 0.6
_PATIENCE_SECONDS = 10.0
_LOOK_SECONDS = 0.2
# Of one request among many.
_EACH_SECONDS = 12.0
_IN_A_ROW = 2
# So often a chunk of a fill is tried without any progress.
_MOST_ATTEMPTS = 10


@dataclass(slots=True)
class Fetched:
    """What the requests of a chunk brought, and where they ended.

    Attributes:
        left: codes of the requests that were not answered.
        error: why the next one was not; None if all were.
        refused: that error will not go away by asking again.
        wait: seconds for which the source asked to be left alone, if it did.
    """

    answer: Answer = field(default_factory=Answer)
    left: list[str] = field(default_factory=list)
    error: str | None = None
    refused: bool = False
    wait: float | None = None


@dataclass(slots=True)
class PriceWorker:
    """What a worker process needs for any chunk; made once in each process."""

    engine: Engine
    settings: Settings
    publish: Publisher
    clock: Callable[[], datetime]
    name: str
    fetcher: Callable[[str], Fetcher | None]
    cache: PriceCache

    def fetch(self, chunk_id: int) -> bool:
        """Do the chunk unless it is done, taken or not due; whether it is done now."""
        with session_scope(self.engine) as session:
            claim = claim_chunk(session, chunk_id, worker=self.name, now=self.clock(), settings=self.settings)
            if claim is None:
                return False
            assets = followed(session, claim.source, claim.asset_ids)
        fetcher = self.fetcher(claim.source)
        try:
            if fetcher is None:
                return self._fail(claim, "the source is not enabled: NIGHTSHIFT_PRICE_SOURCES")
            fetched = fetch_all(fetcher, asks(fetcher.source, claim, list(assets), self.settings), self.clock,
                                self._deadline(claim))  # fmt: skip
            self._let_the_night_pass(claim)
            return self._store(claim, assets, fetched)
        except StaleClaimError as error:
            log.info("chunk is another's", reason=str(error))
            return False

    def _deadline(self, claim: ClaimedChunk) -> float:
        seconds = _BUDGET * self.settings.soft_time_limit
        if claim.kind == Kind.LIVE:
            seconds = min(seconds, (claim.last - self.clock()).total_seconds())
        return time.monotonic() + seconds

    def _let_the_night_pass(self, claim: ClaimedChunk) -> None:
        """Wait for the end of a night that is running: it takes seconds, and storing a window a tenth of them.

        The prices are here by now; of a live window no more is waited than half of what is left of it.
        """
        seconds = _PATIENCE_SECONDS
        if claim.kind == Kind.LIVE:
            seconds = min(seconds, (claim.last - self.clock()).total_seconds() / 2)
        until = time.monotonic() + seconds
        while time.monotonic() < until and night_is_running(self.engine):
            time.sleep(_LOOK_SECONDS)

    def _store(self, claim: ClaimedChunk, assets: Mapping[str, Followed], fetched: Fetched) -> bool:
        answer, error = fetched.answer, fetched.error
        if claim.kind == Kind.LIVE and error is None and assets and not answer.quotes:
            error = f"no price in the answer: {_reasons(answer)}"
        with session_scope(self.engine) as session:
            # Of two chunks that end a window at once, the later one sees the other.
            lock_prices(session)
            # Behind the lock, for which it may have waited past midnight: whether days are over depends on it.
            now = self.clock()
            stored = store_answer(session, claim.source, assets, answer, now=now, settings=self.settings)
            if error is None:
                finish_chunk(session, claim, now=now)
                over = finish_window(session, claim, stored, counts(answer, assets), now=now)
            else:
                over = None
                self._unfinished(session, claim, assets, fetched, error, now)
        self.cache.put(stored.latest)
        log.info(
            "chunk fetched", source=claim.source, kind=claim.kind, first=claim.first, ticks=stored.ticks,
            held=stored.held, error=error,
        )  # fmt: skip
        if over is not None:
            self._tell(over)
        return error is None

    def _unfinished(
        self,
        session: Session,
        claim: ClaimedChunk,
        assets: Mapping[str, Followed],
        fetched: Fetched,
        error: str,
        now: datetime,
    ) -> None:
        left = [assets[code].id for code in fetched.left]
        given_up = now - claim.first > timedelta(days=self.settings.price_fill_days + 1)
        if claim.kind == Kind.FILL:
            given_up |= claim.attempts >= _MOST_ATTEMPTS
        if 0 < len(left) < len(claim.asset_ids):
            put_back(session, claim, now=now, error=error, wait=fetched.wait, left=left)
        elif fetched.refused or given_up:
            finish_chunk(session, claim, now=now, error=error)
            fail_fill(session, claim, error, now=now)
        else:
            put_back(session, claim, now=now, error=error, wait=fetched.wait)

    def _fail(self, claim: ClaimedChunk, error: str) -> bool:
        with session_scope(self.engine) as session:
            finish_chunk(session, claim, now=self.clock(), error=error)
            fail_fill(session, claim, error, now=self.clock())
        return False

    def _tell(self, window: datetime) -> None:
        try:
            self.publish([MarkMessage(window)])
        except PublishError as error:
            # The next window brings the next mark.
            log.warning("live marks wait for the next window", error=str(error))


def fetch_all(fetcher: Fetcher, wanted: Sequence[Ask], clock: Callable[[], datetime], deadline: float) -> Fetched:
    """Ask one request after the other until the deadline, or until two in a row fail: that is not a symbol's fault.

    What is refused harms no other, and what is not answered takes no other's time.
    """
    fetched = Fetched()
    alone = len(wanted) == 1
    failed = 0
    for place, ask in enumerate(wanted):
        until = deadline if alone else min(deadline, time.monotonic() + _EACH_SECONDS)
        try:
            answer = fetcher.answer(ask, now=clock(), deadline=until)
        except SourceRefusedError as error:
            if alone:
                return Fetched(left=list(ask.codes), error=str(error), refused=True)
            log.warning("refused", source=fetcher.source.name, codes=len(ask.codes), error=str(error))
            continue
        except NightshiftError as error:
            fetched.error = mask_secrets(str(error))
            fetched.wait = error.wait if isinstance(error, SourceUnavailableError) else None
            failed += 1
            over = failed == _IN_A_ROW or isinstance(error, LimitedError) or time.monotonic() >= deadline
            fetched.left += [code for later in (wanted[place:] if over else [ask]) for code in later.codes]
            if over:
                break
            continue
        failed = 0
        fetched.answer.quotes += answer.quotes
        fetched.answer.closes += answer.closes
        fetched.answer.refused += answer.refused
    fetched.left = list(dict.fromkeys(fetched.left))
    return fetched


def asks(source: PriceSource, claim: ClaimedChunk, codes: Sequence[str], settings: Settings) -> list[Ask]:
    """The requests of a chunk."""
    first, last = claim.first.astimezone(UTC), claim.last.astimezone(UTC)
    if claim.kind == Kind.LIVE:
        return source.live(codes, first)
    if claim.kind == Kind.FILL:
        return source.fill(codes, first, last, timedelta(seconds=settings.price_window_seconds))
    return source.closes(codes, first.date(), last.date())


def store_answer(
    session: Session,
    source: str,
    assets: Mapping[str, Followed],
    answer: Answer,
    *,
    now: datetime,
    settings: Settings,
) -> Stored:
    """Store quotes and closes of an answer; a quote of a moment that has not come is no price."""
    quotes = [quote for quote in answer.quotes if not _from_the_future(quote, now)]
    stored = store_quotes(session, source, assets, quotes, now=now, settings=settings) if quotes else Stored()
    if answer.closes:
        days = store_closes(session, source, assets, answer.closes, now=now, settings=settings)
        stored = Stored(stored.ticks + days.ticks, stored.held + days.held, stored.latest, stored.run or days.run)
    return stored


def night_is_running(engine: Engine) -> bool:
    """Whether a night is being worked on."""
    with engine.connect() as connection:
        return bool(connection.execute(_NIGHT_RUNS).scalar_one())


def counts(answer: Answer, assets: Mapping[str, Followed]) -> dict[str, int]:
    """How many prices were refused, by reason; a code without any word about it is missing."""
    refused = Counter(str(one.reason) for one in answer.refused if one.code in assets)
    named = {one.code for one in answer.quotes} | {one.code for one in answer.closes}
    named |= {one.code for one in answer.refused}
    if silent := sum(code not in named for code in assets):
        refused[Reason.MISSING] += silent
    return dict(refused)


def followed(session: Session, source: str, asset_ids: Sequence[int]) -> dict[str, Followed]:
    """The assets that the source still follows, by their code."""
    rows = session.execute(_FOLLOWED, {"source": source, "assets": list(asset_ids)})
    return {row.code: Followed(row.id, row.symbol, row.code) for row in rows}


def _from_the_future(quote: Quote, now: datetime) -> bool:
    # A provider's clock may be a little ahead of ours.
    return quote.ts > now + timedelta(minutes=1)


def _reasons(answer: Answer) -> str:
    found = Counter(str(one.reason) for one in answer.refused)
    return ", ".join(f"{count} {reason}" for reason, count in sorted(found.items())) or "nothing that was asked for"


_NIGHT_RUNS = text("SELECT EXISTS (SELECT FROM runs WHERE kind = 'nightly' AND status = 'running')")
_FOLLOWED = text(
    "SELECT a.id, a.symbol, s.code FROM asset_sources s JOIN assets a ON a.id = s.asset_id"
    " WHERE s.source = :source AND s.asset_id = ANY(:assets) ORDER BY a.id"
)
