"""A worker's session: who stands still loses it, and with it his lease; who is interrupted gives his batch back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any

import psycopg
import pytest
from sqlalchemy import Engine, text

from core.database import SessionLimits, make_engine
from core.settings import Settings
from engine.market import Market
from services.batches import BatchWorker, Outcome
from services.digest import digest_of_day
from services.market_data import MarketCache
from services.tick import tick
from tests.support.nights import LAST_SAMPLE_DAY, Night, rows, scalar, settings
from tests.support.polling import wait_until
from workers.process import session_limits

SOON = timedelta(milliseconds=200)


@pytest.fixture
def limited(fresh: Engine) -> Iterator[Engine]:
    """As a worker's engine, but that an idle session ends soon."""
    url = fresh.url.render_as_string(hide_password=False)
    engine = make_engine(url, application="stopped", limits=SessionLimits(idle_in_transaction=SOON))
    yield engine
    engine.dispose()


def session_ended(engine: Engine) -> None:
    """Wait until the worker's session is gone, as it would be while the worker stands still."""
    alive = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'stopped'"
    wait_until(lambda: scalar(engine, alive) == 0, what="the end of the session")


def another_does_it(night: Night) -> None:
    """The reconciler finds what the stopped worker had, and a worker that is well does it."""
    night.now += timedelta(seconds=30)
    tick(night.engine, night.queue, now=night.now, settings=night.settings)
    assert [outcome.outcome for outcome in night.drain()] == [Outcome.DONE]


def test_a_worker_that_stops_inside_of_its_transaction(month: Engine, fresh: Engine, limited: Engine) -> None:
    night = Night(fresh, settings())
    night.plan(LAST_SAMPLE_DAY)
    night.publish()
    batch = night.queue.messages.pop().batch_id

    class Stops(MarketCache):
        def get(self, *_: Any) -> Market:
            session_ended(fresh)
            another_does_it(night)
            return Market.__new__(Market)

    stopped = worker(limited, night)
    stopped.markets = Stops(5)
    assert stopped.advance(batch).outcome in {Outcome.RETRIED, Outcome.NOT_DUE}
    assert rows(fresh, "SELECT status, attempts FROM batches") == [("done", 2)]
    assert digest_of_day(fresh) == digest_of_day(month)


def test_a_worker_that_stops_between_two_transactions(month: Engine, fresh: Engine, limited: Engine) -> None:
    """It holds its lease then, too, though it is in no transaction."""
    night = Night(fresh, settings())
    night.plan(LAST_SAMPLE_DAY)
    night.publish()
    batch = night.queue.messages.pop().batch_id

    def stops() -> datetime:
        taken = "SELECT count(*) FROM pg_locks JOIN pg_stat_activity USING (pid) WHERE application_name = 'stopped'"
        assert scalar(fresh, f"{taken} AND locktype = 'advisory'") == 1
        session_ended(fresh)
        another_does_it(night)
        return night.now

    stopped = worker(limited, night)
    stopped.clock = stops
    with pytest.raises(Exception, match="idle-session timeout"):
        stopped.advance(batch)
    assert rows(fresh, "SELECT status, attempts FROM batches") == [("done", 1)]
    assert digest_of_day(fresh) == digest_of_day(month)


def worker(engine: Engine, night: Night) -> BatchWorker:
    """A second worker, on sessions of its own."""
    return BatchWorker(engine, night.settings, night.queue, lambda: night.now, "stopped", MarketCache(5))


def in_the_middle(connection: psycopg.Connection[Any]) -> None:
    """Begin a COPY and leave it there, as a signal does."""
    connection.pgconn.exec_(b"COPY (SELECT generate_series(1, 1000000)) TO STDOUT")


def lost(connection: psycopg.Connection[Any]) -> None:
    """End the session from outside."""
    connection.execute("SELECT pg_terminate_backend(pg_backend_pid())")


def between(_: psycopg.Connection[Any]) -> None:
    """Leave the session as it is."""


@pytest.mark.parametrize("session", [between, in_the_middle, lost])
@pytest.mark.parametrize("error", [SystemExit(-241), KeyboardInterrupt(), ConnectionResetError()], ids=repr)
def test_who_is_interrupted_gives_the_batch_back_uncounted(
    fresh: Engine, session: Callable[[psycopg.Connection[Any]], None], error: BaseException
) -> None:
    night = Night(fresh, settings())
    night.plan(LAST_SAMPLE_DAY)
    night.publish()
    batch = night.queue.messages.pop().batch_id

    class Interrupted(MarketCache):
        def get(self, connection: psycopg.Connection[Any], *_: Any) -> Market:
            with suppress(psycopg.Error):
                session(connection)
            raise error

    night.worker.markets = Interrupted(5)
    with suppress(SystemExit, KeyboardInterrupt):
        assert night.worker.advance(batch).outcome is Outcome.RETRIED
    assert rows(fresh, "SELECT status, attempts FROM batches") == [("planned", 0)]
    night.worker.markets = MarketCache(5)
    another_does_it(night)


def test_an_attempt_is_not_counted_though_the_reconciler_was_first(fresh: Engine) -> None:
    night = Night(fresh, settings())
    night.plan(LAST_SAMPLE_DAY)
    night.publish()
    batch = night.queue.messages.pop().batch_id

    class Lost(MarketCache):
        def get(self, connection: psycopg.Connection[Any], *_: Any) -> Market:
            with suppress(psycopg.Error):
                lost(connection)
            night.now += timedelta(seconds=30)
            assert tick(fresh, night.queue, now=night.now, settings=night.settings).abandoned == 1
            raise ConnectionResetError

    night.worker.markets = Lost(5)
    night.worker.advance(batch)
    assert rows(fresh, "SELECT status, attempts FROM batches") == [("queued", 0)]


def test_a_session_in_the_pool_may_wait(limited: Engine) -> None:
    night = Night(limited, settings())
    night.run(LAST_SAMPLE_DAY)
    with limited.connect() as connection:
        assert connection.execute(text("SHOW idle_session_timeout")).scalar_one() == "0"


def test_the_limits_of_a_worker(fresh: Engine) -> None:
    chosen = Settings(_env_file=None, soft_time_limit=100, hard_time_limit=150)
    url = fresh.url.render_as_string(hide_password=False)
    engine = make_engine(url, limits=session_limits(chosen))
    names = ("statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout", "tcp_keepalives_idle")
    with engine.connect() as connection:
        found = [connection.execute(text(f"SHOW {name}")).scalar_one() for name in names]
    engine.dispose()
    assert found == ["150s", "50s", "125s", "10"]
