"""A paused run publishes nothing and begins nothing; a cancelled one leaves whole batches, and says which."""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta
from pathlib import Path

import pytest
from sqlalchemy import Engine

from core.database import session_scope
from core.errors import UsageError
from services.batches import Outcome
from services.completion import finish_runs
from services.run_control import Replaced, pause_run, replaced_by, resume_run
from services.runs import RunView, cancel_run, run_view
from services.tick import tick
from tests.support.cli import Shell
from tests.support.corrections import ASSET, LAST, MIDDLE, PRICE, contents, correct, finish, status
from tests.support.nights import Night, rows, scalar, settings

IN_FLIGHT = 2
STATUSES = "SELECT status, count(*) FROM batches WHERE run_id = :run GROUP BY 1 ORDER BY 1"


@pytest.fixture
def night(after_week: Engine) -> Night:
    """A week of nights."""
    # At a noon at which no further night is due.
    noon = datetime.combine(LAST + timedelta(days=1), time(12), UTC)
    return Night(after_week, settings(50, reprocess_in_flight=IN_FLIGHT), now=noon)


def pause(night: Night, run: int) -> RunView:
    """Pause and commit."""
    with session_scope(night.engine) as session:
        return pause_run(session, run, night.now)


def resume(night: Night, run: int) -> RunView:
    """Resume and commit."""
    with session_scope(night.engine) as session:
        return resume_run(session, run, night.now)


def correction(night: Night) -> int:
    """The run of a corrected close, of at least four batches."""
    run = correct(night, ASSET, MIDDLE, PRICE).run
    assert run is not None
    assert scalar(night.engine, "SELECT count(*) FROM batches WHERE run_id = :run", run=run) >= 4
    return run


def test_a_paused_run_begins_nothing_until_it_is_resumed(night: Night) -> None:
    run = correction(night)
    night.publish()
    assert pause(night, run).paused
    old = contents(night.engine)
    # The messages that are on their way wake nobody, and nothing is published any more.
    assert [outcome.outcome for outcome in night.drain()] == [Outcome.NOT_DUE] * IN_FLIGHT
    assert night.publish() == 0
    assert tick(night.engine, night.queue, now=night.now, settings=night.settings).published == 0
    assert (contents(night.engine), status(night, run)) == (old, "running")
    assert not resume(night, run).paused
    assert night.publish() == IN_FLIGHT
    finish(night)
    assert status(night, run) == "done"
    assert contents(night.engine)["portfolio_days"] != old["portfolio_days"]


def test_what_is_in_work_when_a_run_is_paused_ends_as_always(night: Night) -> None:
    run = correction(night)
    night.publish()
    batch = night.queue.messages.pop(0).batch_id
    worker, meanwhile = night.worker, night.worker.markets.get

    def pausing(*args: object) -> object:
        pause(night, run)
        night.worker.markets.get = meanwhile  # type: ignore[method-assign]
        return meanwhile(*args)  # type: ignore[arg-type]

    worker.markets.get = pausing  # type: ignore[method-assign,assignment]
    assert worker.advance(batch).outcome is Outcome.DONE
    assert dict(rows(night.engine, STATUSES, run=run))["done"] == 1
    assert "queued" not in dict(rows(night.engine, STATUSES, run=run))


def test_a_run_that_is_paused_before_it_starts_starts_when_it_is_resumed(night: Night) -> None:
    run = correction(night)
    pause(night, run)
    assert night.publish() == 0
    assert status(night, run) == "planned"
    resume(night, run)
    finish(night)
    assert status(night, run) == "done"


def test_nobody_foresees_the_end_of_a_paused_run(night: Night) -> None:
    run = correction(night)
    night.publish()
    night.now += timedelta(seconds=10)
    night.worker.advance(night.queue.messages.pop(0).batch_id)
    with session_scope(night.engine) as session:
        assert run_view(session, run, night.now).estimated_end is not None
    assert pause(night, run).estimated_end is None
    assert resume(night, run).estimated_end is not None
    with session_scope(night.engine) as session:
        assert cancel_run(session, run, night.now).estimated_end is None


def test_a_paused_run_takes_no_room_from_others(night: Night) -> None:
    first = correction(night)
    night.publish()
    pause(night, first)
    second = correct(night, 2, MIDDLE, PRICE).run
    assert night.publish() == IN_FLIGHT
    query = "SELECT DISTINCT run_id FROM batches WHERE status = 'queued'"
    assert rows(night.engine, query) == [(second,)]


def test_a_cancelled_run_leaves_whole_batches_and_says_how_many(night: Night) -> None:
    run = correction(night)
    query = "SELECT day, user_id, simulation_id, equity FROM portfolio_days"
    old = rows(night.engine, query)
    night.publish()
    batch = night.queue.messages.pop(0).batch_id
    night.worker.advance(batch)
    with session_scope(night.engine) as session:
        cancel_run(session, run, night.now)
    assert finish_runs(night.engine, now=night.now) == [run]
    told = "SELECT user_lo, user_hi, users FROM batches WHERE run_id = :run ORDER BY id = :id DESC"
    (lo, hi, users), *others = rows(night.engine, told, run=run, id=batch)
    left = sum(other[2] for other in others)
    with session_scope(night.engine) as session:
        assert replaced_by(session, run) == Replaced(1, users, 0, 0, len(others), left)
    changed = {row[1] for row in set(rows(night.engine, query)) ^ set(old)}
    assert changed
    assert all(lo <= user < hi for user in changed)


def test_a_paused_run_can_be_cancelled(night: Night) -> None:
    run = correction(night)
    night.publish()
    pause(night, run)
    with session_scope(night.engine) as session:
        cancel_run(session, run, night.now)
    assert finish_runs(night.engine, now=night.now) == [run]
    assert status(night, run) == "cancelled"


def test_orders_that_cannot_be_meant_are_refused(night: Night) -> None:
    run = correction(night)
    nightly = scalar(night.engine, "SELECT min(id) FROM runs")
    for order in (pause, resume):
        with pytest.raises(UsageError, match="is a night: only ad-hoc work can be paused"):
            order(night, nightly)
        with pytest.raises(UsageError, match="no run 999"):
            order(night, 999)
    with pytest.raises(UsageError, match="is not paused"):
        resume(night, run)
    pause(night, run)
    with pytest.raises(UsageError, match="is paused already"):
        pause(night, run)
    with session_scope(night.engine) as session:
        cancel_run(session, run, night.now)
    with pytest.raises(UsageError, match="is being cancelled"):
        resume(night, run)
    finish_runs(night.engine, now=night.now)
    with pytest.raises(UsageError, match=r"is over \(cancelled\): there is nothing to pause"):
        pause(night, run)


def test_the_commands(
    night: Night, redis_url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = correction(night)
    nightly = scalar(night.engine, "SELECT min(id) FROM runs")
    url = night.engine.url.render_as_string(hide_password=False)
    for name, value in {"HOME": tmp_path, "DATABASE_URL": url, "REDIS_URL": redis_url}.items():
        monkeypatch.setenv(f"NIGHTSHIFT_{name}", str(value))
    shell = Shell(capsys)
    batches = scalar(night.engine, "SELECT count(*) FROM batches WHERE run_id = :run", run=run)
    assert "keep their old ones; nightshift resume" in shell.ok("pause", run).err
    assert "is paused already" in shell.refused("pause", run)
    assert "is a night" in shell.refused("pause", nightly)
    assert f"run {run} · planned, paused · 0 of " in shell.ok("status").out
    night.now += timedelta(days=21)
    night.plan(LAST + timedelta(days=21), each=True)
    listed = shell.ok("runs")
    assert "planned, paused" in listed.out, "behind three weeks of nights to come, it is out of sight"
    resumed = shell.ok("resume", run).err
    assert f"0 of {batches} batches" in resumed
    assert "no worker answers" in resumed
    queued = "SELECT count(*) FROM batches WHERE run_id = :run AND status = 'queued'"
    assert scalar(night.engine, queued, run=run) > 0
    assert "is not paused" in shell.refused("resume", run, "--json")
    paused = shell.ok("pause", run, "--json").json
    assert (paused["paused"], paused["replaced"]["batches"], paused["replaced"]["batches_left"]) == (True, 0, batches)
    cancelled = shell.ok("cancel", run).err
    assert f"0 of {batches} batches were done" in cancelled
    assert f"keep their old ones (nightshift batches {run} shows which)" in cancelled
    assert "no run 999" in shell.refused("resume", 999)
    first = scalar(night.engine, "SELECT min(id) FROM runs WHERE kind = 'nightly' AND status IN ('planned', 'running')")
    again = f"nightshift reprocess --from {LAST + timedelta(days=1)} --all --only missing-and-failed"
    assert again in shell.ok("cancel", first).err
    refused = shell("run", "--day", LAST + timedelta(days=1))
    assert refused.code == 1
    assert again in refused.err
