"""Windows are planned once, those that failed are filled once their source is back, and chunks are worked on by one."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

import pytest
from sqlalchemy import Engine, text

from core.database import session_scope
from core.errors import StaleClaimError
from core.settings import Settings
from price_sources.binance import Binance
from price_sources.coingecko import CoinGecko
from price_sources.osrs import GrandExchange
from price_sources.source import PriceSource
from services.following import Wanted, follow
from services.price_chunks import ClaimedChunk, claim_chunk, finish_chunk, publish_chunks, put_back
from services.price_planning import PricesPlanned, plan_prices, window_start
from services.price_store import Stored
from services.price_windows import finish_window
from services.publishing import ChunkMessage
from tests.support.nights import Queue, change, rows, scalar, settings

NOW = datetime(2026, 3, 10, 12, 2, 30, tzinfo=UTC)
WINDOW = timedelta(minutes=5)
FIRST = datetime(2026, 3, 10, 12, 0, tzinfo=UTC)
BINANCE = Binance("http://127.0.0.1:1")
SETTINGS = settings(price_sources="binance")


def followed(engine: Engine, count: int = 3, source: str = "binance") -> None:
    with session_scope(engine) as session:
        follow(session, source, [Wanted(f"S{number:05}", f"C{number}") for number in range(count)], now=NOW)


def look(
    engine: Engine, now: datetime, *, source: PriceSource = BINANCE, settings: Settings = SETTINGS
) -> PricesPlanned:
    with session_scope(engine) as session:
        return plan_prices(session, {source.name: source}, now=now, settings=settings)


def windows(engine: Engine) -> list[tuple[datetime, str]]:
    return [(row[0], row[1]) for row in rows(engine, "SELECT starts_at, status FROM price_windows ORDER BY starts_at")]


def publish(engine: Engine, now: datetime) -> list[int]:
    queue = Queue()
    publish_chunks(engine, queue, now=now)
    return [message.chunk_id for message in queue.prices if isinstance(message, ChunkMessage)]


def claim(engine: Engine, chunk: int, now: datetime, worker: str = "w1") -> ClaimedChunk | None:
    with session_scope(engine) as session:
        return claim_chunk(session, chunk, worker=worker, now=now, settings=SETTINGS)


def do(engine: Engine, now: datetime, kind: str = "live") -> None:
    """Publish, claim and finish what is planned of a kind, as a worker does that got an answer."""
    for chunk in publish(engine, now):
        claimed = claim(engine, chunk, now)
        if claimed is None:
            continue
        with session_scope(engine) as session:
            if claimed.kind != kind:
                put_back(session, claimed, now=now, error="not in this test")
                continue
            finish_chunk(session, claimed, now=now)
            finish_window(session, claimed, Stored(ticks=3), {"missing": 1}, now=now)


def test_windows_begin_at_multiples_of_their_length() -> None:
    assert window_start(NOW, 300) == FIRST
    assert window_start(FIRST, 300) == FIRST
    assert window_start(FIRST - timedelta(microseconds=1), 300) == FIRST - WINDOW


def test_nothing_is_planned_of_a_source_that_follows_nothing(engine: Engine) -> None:
    assert look(engine, NOW) == PricesPlanned()


def test_a_window_is_planned_once_however_often_somebody_looks(engine: Engine) -> None:
    followed(engine)
    assert look(engine, NOW).windows == 1
    assert look(engine, NOW + timedelta(seconds=5)).windows == 0
    assert scalar(engine, "SELECT count(*) FROM price_chunks WHERE kind = 'live'") == 1
    assert look(engine, NOW + WINDOW).windows == 1
    assert [start for start, _ in windows(engine)] == [FIRST, FIRST + WINDOW]


def test_a_window_is_cut_into_messages_that_the_source_answers_at_once(engine: Engine) -> None:
    source = CoinGecko("http://127.0.0.1:1", "usd", None)
    followed(engine, 600, "coingecko")
    look(engine, NOW, source=source)
    sizes = rows(engine, "SELECT cardinality(asset_ids) FROM price_chunks WHERE kind = 'live' ORDER BY seq")
    size = source.terms.symbols_per_request
    assert sum(row[0] for row in sizes) == 600
    assert {row[0] for row in sizes[:-1]} == {size}


def test_a_window_is_done_with_its_last_chunk(engine: Engine) -> None:
    followed(engine)
    look(engine, NOW)
    do(engine, NOW)
    found = rows(engine, "SELECT status, ticks, counts FROM price_windows")
    assert found == [("done", 3, {"missing": 1})]


def test_a_window_that_is_over_without_prices_has_failed_and_raises_an_alert(engine: Engine) -> None:
    followed(engine)
    look(engine, NOW)
    assert look(engine, NOW + WINDOW).failed == 1
    assert windows(engine) == [(FIRST, "failed"), (FIRST + WINDOW, "planned")]
    assert scalar(engine, "SELECT status FROM price_chunks WHERE kind = 'live' ORDER BY id LIMIT 1") == "failed"
    (alert,) = rows(engine, "SELECT key, detail FROM alerts WHERE cleared_at IS NULL")
    assert alert == (
        "prices:binance",
        "binance: no prices for 1 windows, from 2026-03-10 12:00 on: nobody fetched it in time",
    )
    do(engine, NOW + WINDOW)
    assert scalar(engine, "SELECT count(*) FROM alerts WHERE cleared_at IS NULL") == 0
    assert scalar(engine, "SELECT count(*) FROM outbox WHERE kind IN ('alert_raised', 'alert_cleared')") == 2


def test_an_alert_says_since_when_there_are_no_prices(engine: Engine) -> None:
    followed(engine)
    for number in range(4):
        look(engine, NOW + number * WINDOW)
    (alert,) = rows(engine, "SELECT detail FROM alerts")
    assert alert == ("binance: no prices for 3 windows, from 2026-03-10 12:00 on: nobody fetched it in time",)


def test_windows_that_nobody_planned_have_failed_too(engine: Engine) -> None:
    followed(engine)
    look(engine, NOW)
    do(engine, NOW)
    assert look(engine, NOW + 4 * WINDOW).failed == 3
    assert [status for _, status in windows(engine)] == ["done", "failed", "failed", "failed", "planned"]


def test_no_window_is_looked_for_further_back_than_the_settings_say(engine: Engine) -> None:
    followed(engine)
    look(engine, NOW)
    do(engine, NOW)
    look(engine, NOW + timedelta(days=30), settings=settings(price_sources="binance", price_fill_days=1))
    assert scalar(engine, "SELECT count(*) FROM price_windows WHERE status = 'failed'") == 288


def test_failed_windows_are_filled_together_when_the_source_is_back(engine: Engine) -> None:
    followed(engine, 120)
    look(engine, NOW)
    do(engine, NOW)
    back = NOW + 13 * WINDOW
    assert look(engine, back).fills == 0, "its newest window that has ended is a failed one"
    do(engine, back)
    planned = look(engine, back + timedelta(seconds=5))
    assert planned.fills == -(-120 // BINANCE.terms.symbols_per_chunk)
    assert rows(engine, "SELECT DISTINCT first, last FROM price_chunks WHERE kind = 'fill'") == [
        (FIRST + WINDOW, FIRST + 13 * WINDOW)
    ]
    assert look(engine, back + timedelta(seconds=10)).fills == 0, "one fill at a time"
    do(engine, back + timedelta(seconds=15), kind="fill")
    assert {status for _, status in windows(engine)} == {"done", "filled"}
    assert len(windows(engine)) == 14


def test_failed_windows_that_are_far_apart_are_filled_one_after_the_other(engine: Engine) -> None:
    followed(engine)
    for number in (0, 1, 3, 40, 42):
        look(engine, NOW + number * WINDOW)
        do(engine, NOW + number * WINDOW)
    change(engine, "UPDATE price_windows SET status = 'filled' WHERE starts_at BETWEEN :a AND :b",
           a=FIRST + 4 * WINDOW, b=FIRST + 39 * WINDOW)  # fmt: skip
    change(engine, "DELETE FROM price_chunks WHERE kind = 'fill'")
    change(engine, "UPDATE price_windows SET status = 'failed' WHERE status = 'filling'")
    look(engine, NOW + 42 * WINDOW + timedelta(seconds=5))
    spans = rows(engine, "SELECT first, last FROM price_chunks WHERE kind = 'fill'")
    assert spans == [(FIRST + 2 * WINDOW, FIRST + 3 * WINDOW)]
    do(engine, NOW + 42 * WINDOW + timedelta(seconds=10), kind="fill")
    look(engine, NOW + 42 * WINDOW + timedelta(seconds=15))
    assert rows(engine, "SELECT first, last FROM price_chunks WHERE kind = 'fill' ORDER BY first")[1:] == [
        (FIRST + 41 * WINDOW, FIRST + 42 * WINDOW)
    ]


def test_a_source_that_is_asked_window_by_window_is_filled_bit_by_bit(engine: Engine) -> None:
    source = GrandExchange("http://127.0.0.1:1", "tests")
    followed(engine, 3, "osrs")
    look(engine, NOW, source=source)
    do(engine, NOW)
    back = NOW + 101 * WINDOW
    look(engine, back, source=source)
    do(engine, back)
    lengths = []
    for number in range(1, 6):
        look(engine, back + 5 * number * timedelta(seconds=1), source=source)
        do(engine, back + 5 * number * timedelta(seconds=1), kind="fill")
    for first, last in rows(engine, "SELECT first, last FROM price_chunks WHERE kind = 'fill' ORDER BY first"):
        lengths.append((last - first) // WINDOW)
    assert sum(lengths) == 100
    assert max(lengths) <= 30
    assert {status for _, status in windows(engine)} == {"done", "filled"}


def test_closes_are_asked_for_once_a_day_when_they_are_settled(engine: Engine) -> None:
    followed(engine)
    midnight = datetime(2026, 3, 11, tzinfo=UTC)
    look(engine, midnight - timedelta(seconds=1))
    days = "SELECT first::date, last::date FROM price_chunks WHERE kind = 'closes' ORDER BY first"
    assert rows(engine, days) == [(date(2026, 3, 9), date(2026, 3, 10))]
    look(engine, midnight + BINANCE.terms.settled)
    look(engine, midnight + BINANCE.terms.settled + timedelta(hours=3))
    assert rows(engine, days)[1:] == [(date(2026, 3, 10), date(2026, 3, 11))]
    look(engine, midnight + timedelta(days=4))
    assert rows(engine, days)[2:] == [(date(2026, 3, 11), date(2026, 3, 14))], "three days at once, after three away"


def test_of_two_workers_with_the_same_message_one_gets_the_chunk(engine: Engine) -> None:
    followed(engine)
    look(engine, NOW)
    (chunk,) = [chunk for chunk in publish(engine, NOW) if chunk == 1]
    first, second = claim(engine, chunk, NOW, "w1"), claim(engine, chunk, NOW, "w2")
    assert first is not None
    assert second is None


def test_a_dead_workers_chunk_is_published_again_and_its_late_word_does_not_count(engine: Engine) -> None:
    followed(engine)
    look(engine, NOW)
    publish(engine, NOW)
    dead = claim(engine, 1, NOW)
    assert dead is not None
    later = dead.lease_until + timedelta(seconds=1)
    assert 1 in publish(engine, later)
    alive = claim(engine, 1, later, "w2")
    assert alive is not None
    with pytest.raises(StaleClaimError, match="chunk 1 of binance"), session_scope(engine) as session:
        finish_chunk(session, dead, now=later)
    with session_scope(engine) as session:
        finish_chunk(session, alive, now=later)


def test_a_lost_message_is_sent_again(engine: Engine) -> None:
    followed(engine)
    look(engine, NOW)
    assert 1 in publish(engine, NOW)
    assert publish(engine, NOW + timedelta(seconds=20)) == []
    assert 1 in publish(engine, NOW + timedelta(seconds=31))


def test_nobody_fetches_a_window_that_is_over(engine: Engine) -> None:
    followed(engine)
    look(engine, NOW)
    publish(engine, NOW)
    assert claim(engine, 1, NOW + WINDOW) is None


def test_a_chunk_that_failed_waits_longer_each_time_and_longer_still_if_the_source_says_so(engine: Engine) -> None:
    followed(engine)
    look(engine, NOW)
    publish(engine, NOW)
    moment, waits = NOW, []
    for wait in (None, None, None, 40.0):
        claimed = claim(engine, 1, moment)
        assert claimed is not None
        with session_scope(engine) as session:
            put_back(session, claimed, now=moment, error="503", wait=wait)
        due = scalar(engine, "SELECT not_before FROM price_chunks WHERE id = 1")
        waits.append((due - moment).total_seconds())
        assert 1 not in publish(engine, due - timedelta(seconds=1))
        moment = due + timedelta(milliseconds=1)
        assert 1 in publish(engine, moment)
    assert waits == [2, 4, 8, 40]


def test_a_long_fill_neither_fills_the_queue_nor_stands_before_the_next_window(engine: Engine) -> None:
    followed(engine, 2000)
    look(engine, NOW)
    do(engine, NOW)
    back = NOW + 3 * WINDOW
    look(engine, back)
    do(engine, back)
    assert look(engine, back + timedelta(seconds=5)).fills == 40
    with engine.begin() as connection:
        connection.execute(text("DELETE FROM price_chunks WHERE kind = 'closes'"))
    fills = publish(engine, back + timedelta(seconds=5))
    assert 0 < len(fills) < 10
    assert publish(engine, back + timedelta(seconds=10)) == []
    look(engine, back + WINDOW)
    kinds = rows(engine, "SELECT kind FROM price_chunks WHERE id = ANY(:ids)", ids=publish(engine, back + WINDOW))
    assert kinds[0] == ("live",)
