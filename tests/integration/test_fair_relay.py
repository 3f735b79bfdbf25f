"""Ad-hoc work in flight is limited and shared: no request waits for all of another, and a night for none of it."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, time, timedelta

import pytest
from sqlalchemy import Engine

from core.database import session_scope
from core.queues import Queue
from services import giving_way
from services.batches import Outcome
from services.reprocessing import retry_quarantined
from services.tick import tick
from tests.support.nights import FIRST_NIGHT, Night, change, rows, scalar, settings

IN_FLIGHT = 3
LEFT_OUT = (
    "INSERT INTO quarantine (user_id, simulation_id, day, reason, detail)"
    " SELECT user_id, id, start_day, 'malformed', '' FROM simulations WHERE start_day <= :day"
    " AND user_id >= :lo AND user_id < :hi"
)


@pytest.fixture
def night(fresh: Engine) -> Night:
    """A first night that left everybody out."""
    night = Night(fresh, settings(20, reprocess_in_flight=IN_FLIGHT))
    left_out(night, 1, 10_000)
    night.run(FIRST_NIGHT)
    change(fresh, "UPDATE quarantine SET cleared_at = :now", now=night.now)
    return night


def left_out(night: Night, lo: int, hi: int) -> None:
    """Put users into quarantine."""
    change(night.engine, LEFT_OUT, lo=lo, hi=hi, day=FIRST_NIGHT)


def request(night: Night, lo: int, hi: int) -> int:
    """Ask for the days of some users, in batches of twenty."""
    left_out(night, lo, hi)
    with session_scope(night.engine) as session:
        run = retry_quarantined(session, reason="x", requested_by="test", now=night.now, settings=night.settings)
    assert run is not None
    # Planning cuts a few users into one batch.
    change(night.engine, "DELETE FROM batches WHERE run_id = :run", run=run)
    change(
        night.engine, "INSERT INTO batches (run_id, seq, user_lo, user_hi, users, status)"
        " SELECT :run, n, :lo + 20 * n, least(:lo + 20 * (n + 1), :hi), 20, 'planned'"
        " FROM generate_series(0, (:hi - :lo - 1) / 20) AS n", run=run, lo=lo, hi=hi,
    )  # fmt: skip
    return run


def runs_in_flight(night: Night) -> Counter[int]:
    """How many batches of each run are queued or in work."""
    query = "SELECT run_id, count(*) FROM batches WHERE status IN ('queued', 'running') GROUP BY 1"
    return Counter(dict(rows(night.engine, query)))


def test_so_many_are_in_flight_and_each_that_ends_makes_room_for_one(night: Night) -> None:
    run = request(night, 1, 241)
    assert night.publish() == IN_FLIGHT
    assert night.publish() == 0
    done = 0
    while night.queue.messages:
        assert {message.queue for message in night.queue.messages} == {Queue.REPROCESS}
        assert night.worker.advance(night.queue.messages.pop(0).batch_id).outcome is Outcome.DONE
        done += 1
        assert runs_in_flight(night)[run] == min(IN_FLIGHT, 12 - done)
    assert done == 12
    assert scalar(night.engine, "SELECT status FROM runs WHERE id = :run", run=run) == "done"
    assert scalar(night.engine, "SELECT max(publications) FROM batches WHERE run_id = :run", run=run) == 1


def test_a_small_request_does_not_stand_behind_a_large_one(night: Night) -> None:
    request(night, 1, 401)
    night.publish()
    small = request(night, 401, 411)
    night.publish()
    outcomes = []
    while scalar(night.engine, "SELECT status FROM runs WHERE id = :run", run=small) != "done":
        outcomes.append(night.worker.advance(night.queue.messages.pop(0).batch_id).outcome)
    assert outcomes == [Outcome.DONE] * (IN_FLIGHT + 1)


def test_more_requests_than_room_take_turns_and_none_starves(night: Night) -> None:
    requests = [request(night, 1 + 100 * number, 101 + 100 * number) for number in range(5)]
    night.publish()
    done: list[int] = []
    while night.queue.messages:
        night.now += timedelta(seconds=1)
        batch = night.queue.messages.pop(0).batch_id
        done.append(scalar(night.engine, "SELECT run_id FROM batches WHERE id = :id", id=batch))
        assert night.worker.advance(batch).outcome is Outcome.DONE
    # Each had one before any had two, and so on to the end.
    turns = [done[start : start + 5] for start in range(0, 25, 5)]
    assert [sorted(turn) for turn in turns] == [requests] * 5


def test_a_clock_that_ran_ahead_starves_nobody(night: Night) -> None:
    requests = [request(night, 1 + 100 * number, 101 + 100 * number) for number in range(5)]
    night.publish()
    ahead = "UPDATE batches SET queued_at = :late WHERE run_id = :run AND queued_at IS NOT NULL"
    change(night.engine, ahead, late=night.now + timedelta(hours=1), run=requests[0])
    done: list[int] = []
    for _ in range(12):
        night.now += timedelta(seconds=1)
        batch = night.queue.messages.pop(0).batch_id
        done.append(scalar(night.engine, "SELECT run_id FROM batches WHERE id = :id", id=batch))
        assert night.worker.advance(batch).outcome is Outcome.DONE
    assert min(Counter(done)[run] for run in requests) >= 2


def test_a_night_is_published_at_once_and_first(night: Night) -> None:
    request(night, 1, 401)
    night.plan(FIRST_NIGHT + timedelta(days=1))
    total = scalar(night.engine, "SELECT count(*) FROM batches WHERE status = 'planned' AND run_id IN"
                   " (SELECT id FROM runs WHERE kind = 'nightly')")  # fmt: skip
    assert total > IN_FLIGHT
    assert night.publish() == total + IN_FLIGHT
    queues = [message.queue for message in night.queue.messages]
    assert queues == [Queue.SIMULATIONS] * total + [Queue.REPROCESS] * IN_FLIGHT


def test_what_waits_behind_a_night_is_not_taken_for_lost(night: Night) -> None:
    """Else every night that takes longer than a message may wait would tell of lost ones."""
    # At a noon at which no further night is due.
    noon = datetime.combine(FIRST_NIGHT + timedelta(days=2), time(12), UTC)
    night = Night(night.engine, settings(300, reprocess_in_flight=IN_FLIGHT, overdue_seconds=10), now=noon)

    def lost() -> int:
        return tick(night.engine, night.queue, now=night.now, settings=night.settings).lost

    request(night, 1, 401)
    night.plan(FIRST_NIGHT + timedelta(days=1))
    night.publish()
    nightly = [message for message in night.queue.messages if message.queue == Queue.SIMULATIONS]
    for message in nightly:
        night.now += timedelta(seconds=6)
        night.worker.advance(message.batch_id)
        assert lost() == 0
    night.now += timedelta(seconds=6)
    assert lost() == 0
    night.now += timedelta(seconds=6)
    assert lost() == IN_FLIGHT


def test_a_batch_of_a_night_looks_for_no_ad_hoc_work(night: Night) -> None:
    """Else each of its batches would cost two transactions more."""
    night.plan(FIRST_NIGHT + timedelta(days=1))
    night.publish()
    waiting = len(night.queue.messages)
    assert waiting > 1
    request(night, 1, 401)
    night.worker.advance(night.queue.messages.pop(0).batch_id)
    assert len(night.queue.messages) == waiting - 1


def test_whose_worker_died_is_replaced_by_the_next_tick(night: Night) -> None:
    """It committed, and died before it could publish the next one."""
    run = request(night, 1, 241)
    night.publish()
    change(night.engine, "UPDATE batches SET status = 'done' WHERE run_id = :run AND status = 'queued'", run=run)
    tick(night.engine, night.queue, now=night.now, settings=night.settings)
    assert runs_in_flight(night)[run] == IN_FLIGHT


def test_what_waits_for_its_next_attempt_keeps_nobody_from_working(night: Night) -> None:
    first, second = request(night, 1, 61), request(night, 101, 201)
    wait = "UPDATE batches SET not_before = :soon WHERE run_id = :run"
    change(night.engine, wait, soon=night.now + timedelta(seconds=30), run=first)
    assert night.publish() == IN_FLIGHT
    assert runs_in_flight(night) == {second: IN_FLIGHT}


def test_a_batch_gives_way_to_a_night_and_comes_again(night: Night, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(giving_way, "_EVERY_SECONDS", 0.0)
    run = request(night, 1, 61)
    night.publish()
    batch = night.queue.messages.pop(0).batch_id
    night.plan(FIRST_NIGHT + timedelta(days=1))
    night.publish()
    assert night.worker.advance(batch).outcome is Outcome.RETRIED
    # Nothing is written, and no attempt is counted against its users; its next message is behind those of the night.
    assert rows(night.engine, "SELECT status, attempts FROM batches WHERE id = :id", id=batch) == [("queued", 0)]
    assert scalar(night.engine, "SELECT count(*) FROM portfolio_days") == 0
    assert batch in {message.batch_id for message in night.queue.messages}
    night.queue.messages.sort(key=lambda message: message.queue is not Queue.SIMULATIONS)
    assert {outcome.outcome for outcome in night.drain()} == {Outcome.DONE}
    assert scalar(night.engine, "SELECT status FROM runs WHERE id = :run", run=run) == "done"
