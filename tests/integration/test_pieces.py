"""Nights that reach back over many days: done in pieces, to the same bytes, and nobody is blamed for being old."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

from benchmarks.row_hashes import contents_of
from core.database import make_engine, session_scope
from core.settings import Settings
from engine.market import Market
from services.batches import Outcome
from services.market_data import MarketCache
from services.planning import plan_due, plan_night
from tests.support.database import new_database
from tests.support.insiders import die_behind_pieces, inside
from tests.support.nights import FIRST_NIGHT, LAST_SAMPLE_DAY, NOW, Night, change, rows, scalar, settings
from tests.support.polling import wait_until
from tests.support.workers import System, quick
from workers.embedded import ServerUrls

DAYS = [FIRST_NIGHT + timedelta(days=number) for number in range(30)]
RUN = "SELECT rows, trades, simulations, quarantined, total_equity, total_fees, digest FROM runs"
ENDED = "SELECT count(*) = 0 FROM runs WHERE status IN ('planned', 'running')"
BATCHES = "SELECT status, attempts, came_to FROM batches ORDER BY id"


def due_night(engine: Engine, chosen: Settings) -> Night:
    """The newest due night, as beat plans it: over all days since the first start, with one day as its own."""
    change(engine, "UPDATE assets SET calendar = 'XNYS'")
    night = Night(engine, chosen)
    with session_scope(engine) as session:
        assert len(plan_due(session, now=NOW, settings=chosen).runs) == 1
    night.publish()
    return night


def in_pieces(monkeypatch: pytest.MonkeyPatch, days: int) -> None:
    """Of so many days."""
    monkeypatch.setattr("services.advance.PIECE_DAYS", days)


def test_pieces_give_the_bytes_of_days_run_one_by_one(
    month: Engine, fresh: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_pieces(monkeypatch, 4)
    outcomes = due_night(fresh, settings(500)).drain()
    assert [outcome.outcome for outcome in outcomes] == [Outcome.DONE] * 3
    assert contents_of(fresh) == contents_of(month)
    assert scalar(fresh, "SELECT count(DISTINCT xmin::text) FROM portfolio_days") == 3 * 8
    assert rows(fresh, BATCHES) == [("done", 1, DAYS[27])] * 3
    assert sum(outcome.rows for outcome in outcomes) == scalar(fresh, "SELECT rows FROM runs")


def test_all_that_a_run_says_of_itself_is_that_of_one_piece(
    servers: ServerUrls, world: str, fresh: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody has no close from a day in the middle on; others from the first day of a piece on."""

    def done(engine: Engine) -> list[Any]:
        for symbol, day in (("AAPL", DAYS[5]), ("MSFT", DAYS[3])):
            lost = "DELETE FROM closes USING assets WHERE id = asset_id AND symbol = :symbol AND day >= :day"
            change(engine, lost, symbol=symbol, day=day)
        due_night(engine, settings(500)).drain()
        return [rows(engine, query) for query in (RUN, "SELECT * FROM leaderboard_entries ORDER BY rank")]

    with new_database(servers.database_url, "one_piece", template=world) as url:
        engine = make_engine(url)
        whole = done(engine), quarantine(engine)
        engine.dispose()
    in_pieces(monkeypatch, 4)
    assert done(fresh) == whole[0]
    assert quarantine(fresh) == whole[1]
    assert len(whole[1]) > 20


def quarantine(engine: Engine) -> list[tuple[Any, ...]]:
    """Who is in it, since when and why."""
    return rows(engine, "SELECT user_id, simulation_id, day, reason, detail FROM quarantine ORDER BY 1, 2")


def test_a_batch_whose_time_is_up_goes_on_where_it_was(
    month: Engine, fresh: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At once: it is published again by who gave it back."""
    in_pieces(monkeypatch, 4)
    night = due_night(fresh, settings(2000).model_copy(update={"soft_time_limit": 0}))
    assert [outcome.outcome for outcome in night.drain()] == [Outcome.RETRIED] * 7 + [Outcome.DONE]
    assert contents_of(fresh) == contents_of(month)
    assert rows(fresh, BATCHES) == [("done", 1, DAYS[27])]
    assert scalar(fresh, "SELECT rows FROM runs") == scalar(fresh, "SELECT count(*) FROM portfolio_days")
    assert scalar(fresh, "SELECT (timings ->> 'compute')::float FROM batches") > 0


class Fails(MarketCache):
    """Every second market that is asked for."""

    asked = 0

    def get(self, *args: Any) -> Market:
        """Or RuntimeError."""
        self.asked += 1
        if self.asked % 2 == 0:
            raise RuntimeError("a test")
        return super().get(*args)


def test_attempts_that_come_to_something_count_against_nobody(
    month: Engine, fresh: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_pieces(monkeypatch, 4)
    night = due_night(fresh, settings(2000))
    night.worker.markets = Fails(5)
    outcomes: list[Outcome] = []
    while not outcomes or outcomes[-1] is Outcome.RETRIED:
        night.now += timedelta(minutes=3)
        night.publish()
        outcomes += [outcome.outcome for outcome in night.drain()]
    assert outcomes == [Outcome.RETRIED] * 7 + [Outcome.DONE]
    assert quarantine(fresh) == []
    assert contents_of(fresh) == contents_of(month)


def test_who_breaks_a_later_piece_is_found_and_nobody_else(fresh: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Halves of a batch go on where it was; his own days up to there stay."""
    in_pieces(monkeypatch, 4)
    night = due_night(fresh, settings(300, max_attempts=1))
    change(
        fresh, f"CREATE TABLE portfolio_days_{DAYS[9]:%Y%m%d} (LIKE portfolio_days INCLUDING ALL, CHECK (user_id <> 7))"
    )
    change(
        fresh,
        f"ALTER TABLE portfolio_days ATTACH PARTITION portfolio_days_{DAYS[9]:%Y%m%d}"
        f" FOR VALUES FROM ('{DAYS[9]}') TO ('{DAYS[10]}')",
    )
    night.drain()
    assert [(user, reason) for user, _, _, reason, _ in quarantine(fresh)] == [(7, "error")]
    assert scalar(fresh, "SELECT max(day) FROM portfolio_days WHERE user_id = 7") == DAYS[7]
    assert rows(fresh, "SELECT status, rows FROM runs") == [
        ("done", scalar(fresh, "SELECT count(*) FROM portfolio_days"))
    ]


def test_workers_that_are_killed_behind_their_pieces_end_with_the_same_days(
    month: Engine, fresh: Engine, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More often than a batch may be tried."""
    lives = [tmp_path / f"life {number}" for number in range(3)]
    for life in lives:
        life.touch()
    url = fresh.url.render_as_string(hide_password=False)
    system = System(fresh, ServerUrls(url, redis_url), quick(tmp_path, 2000))
    assert system.settings.max_attempts < len(lives)
    with session_scope(fresh) as session:
        plan_night(session, day=LAST_SAMPLE_DAY, now=NOW, settings=system.settings, requested_by="test")
    inside(tmp_path / "inside", monkeypatch, die_behind_pieces, 4, [str(life) for life in lives])
    with system.worker():
        wait_until(lambda: system.tick() and scalar(fresh, ENDED), seconds=60, what="the end of the night")
    assert not any(life.exists() for life in lives)
    assert quarantine(fresh) == []
    assert rows(fresh, BATCHES) == [("done", 1, DAYS[27])]
    assert contents_of(fresh) == contents_of(month)
    assert scalar(fresh, "SELECT rows FROM runs") == scalar(fresh, "SELECT count(*) FROM portfolio_days")
