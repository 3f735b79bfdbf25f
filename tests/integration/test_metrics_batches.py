"""Counters of batches equal the tables, whoever read them and however often he began anew, and never go back."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Engine

from core.database import session_scope
from services.metrics_batches import BUCKETS, BatchCounts, BatchHistory
from services.reconciler import reconcile
from tests.support.exporter import Samples, exporter, scrape
from tests.support.nights import LAST_SAMPLE_DAY, NOW, Night, change, rows, sample_world, scalar, settings

LONG_AGO = NOW - timedelta(minutes=1)
DONE = "FROM batches JOIN runs ON runs.id = run_id WHERE kind = 'nightly' AND batches.status = 'done'"
ENDED = "FROM batches WHERE batches.status IN ('done', 'split', 'failed', 'cancelled')"


def expected_from_tables(engine: Engine) -> dict[tuple[str, tuple[str, ...]], Any]:
    """What the counters must be, by other statements than the exporter's."""
    values: dict[tuple[str, tuple[str, ...]], Any] = {
        ("nightshift_batch_attempts_total", ("nightly",)): scalar(engine, f"SELECT sum(attempts) {ENDED}"),
        ("nightshift_batch_publications_total", ("nightly",)): scalar(engine, f"SELECT sum(publications) {ENDED}"),
        ("nightshift_batch_republications_total", ("nightly",)): scalar(
            engine, f"SELECT sum(publications - 1) {ENDED} AND publications > 0"
        ),
        ("nightshift_batch_users_done_total", ("nightly",)): scalar(engine, f"SELECT sum(batches.users) {DONE}"),
        ("nightshift_batch_duration_seconds_count", ("nightly",)): scalar(engine, f"SELECT count(*) {DONE}"),
        ("nightshift_users_quarantined", ()): scalar(
            engine, "SELECT count(DISTINCT user_id) FROM quarantine WHERE cleared_at IS NULL"
        ),
    }
    for status, count in rows(engine, f"SELECT status, count(*) {ENDED} GROUP BY status"):
        values["nightshift_batches_ended_total", ("nightly", status)] = count
    for stage, seconds in rows(
        engine, f"SELECT key, sum(value::numeric) FROM (SELECT timings {DONE}) t, jsonb_each(timings) GROUP BY key"
    ):
        values["nightshift_batch_stage_seconds_total", (stage,)] = pytest.approx(float(seconds))
    return values


def counters(samples: Samples) -> Samples:
    """What must never decrease."""
    parts = ("_total", "_bucket", "_count", "_sum")
    return {key: value for key, value in samples.items() if "_batch" in key[0] and key[0].endswith(parts)}


def test_counters_equal_the_tables_after_a_night_with_faults_and_never_go_back(engine: Engine, redis_url: str) -> None:
    sample_world(engine, 60)
    night = Night(engine, settings(10), NOW)
    patient = exporter(engine, redis_url, clock=lambda: NOW)
    before = counters(scrape(patient))
    assert set(before.values()) == {0}
    night.plan(LAST_SAMPLE_DAY)
    night.publish()
    # The first message is lost, a worker died over the second, and the third batch breaks until it stands divided.
    lost, abandoned, broken = (message.batch_id for message in night.queue.messages[:3])
    del night.queue.messages[:2]
    change(engine, "UPDATE batches SET status = 'running', attempts = 1, started_at = :at WHERE id = :id",
           id=abandoned, at=LONG_AGO)  # fmt: skip
    change(engine, "UPDATE batches SET queued_at = :at WHERE id = :id", id=lost, at=LONG_AGO)
    change(engine, "UPDATE batches SET attempts = 2 WHERE id = :id", id=broken)
    put_back = reconcile(engine, now=NOW, settings=night.settings)
    assert (put_back.abandoned, put_back.lost) == (1, 1)
    night.publish()
    while night.queue.messages:
        night.worker.advance(night.queue.messages.pop(0).batch_id)
        now = counters(scrape(patient))
        assert {key: value for key, value in before.items() if value > now[key]} == {}
        before = now
    assert scalar(engine, "SELECT status FROM runs") == "done"
    expected = expected_from_tables(engine)
    assert expected["nightshift_batches_ended_total", ("nightly", "split")] == 1
    for one in (patient, exporter(engine, redis_url, clock=lambda: NOW)):
        samples = scrape(one)
        assert {key: samples.get(key) for key in expected} == expected
        assert samples["nightshift_batches_put_back_total", ("lost",)] == 1
        assert samples["nightshift_batches_put_back_total", ("abandoned",)] == 1


def read(engine: Engine, history: BatchHistory) -> BatchCounts:
    with session_scope(engine) as session:
        return history.read(session)


def a_night(engine: Engine, *, number: int, status: str = "done", seconds: float = 1.0) -> None:
    """A run with one batch that waited and worked for so long."""
    change(
        engine,
        "INSERT INTO runs (id, kind, first_day, day, status, scope, requested_by, batch_users) OVERRIDING SYSTEM VALUE"
        " VALUES (:id, 'nightly', :day, :day, :status, '{}', 'beat', 10)",
        id=number, day=LAST_SAMPLE_DAY + timedelta(days=number), status=status,
    )  # fmt: skip
    change(
        engine,
        "INSERT INTO batches (run_id, seq, user_lo, user_hi, users, status, attempts, publications, queued_at,"
        " started_at, finished_at) VALUES (:id, 0, 1, 11, 10, 'done', 1, 1, :start - :wait, :start, :start + :wait)",
        id=number, start=NOW, wait=timedelta(seconds=seconds),
    )  # fmt: skip


def test_a_histogram_counts_each_batch_below_its_bounds(engine: Engine) -> None:
    for number, seconds in enumerate((0.05, 0.051, 0.25, 60.0, 61.0), start=1):
        a_night(engine, number=number, seconds=seconds)
    # A clock that was set back: no time at all.
    a_night(engine, number=6, seconds=-3.0)
    counts = read(engine, BatchHistory())
    for histogram in (counts.duration["nightly"], counts.wait["nightly"]):
        assert dict(zip(BUCKETS, histogram.buckets, strict=True)) == {
            0.05: 2, 0.1: 3, 0.25: 4, 0.5: 4, 1.0: 4, 2.5: 4, 5.0: 4, 10.0: 4, 25.0: 4, 60.0: 5,
        }  # fmt: skip
        assert histogram.count == 6
        assert histogram.total == pytest.approx(0.05 + 0.051 + 0.25 + 60 + 61)


def test_runs_that_are_over_are_read_once_and_none_is_forgotten(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.metrics_batches._REMEMBERED", 3)
    history = BatchHistory()
    a_night(engine, number=1, status="running")
    for number in (2, 3, 5, 6, 7, 8, 9, 10):
        a_night(engine, number=number)
        assert read(engine, history) == read(engine, BatchHistory())
    # Its number is older than those that are read already, because its transaction took longer.
    a_night(engine, number=4)
    change(engine, "UPDATE runs SET status = 'done' WHERE id = 1")
    assert read(engine, history) == read(engine, BatchHistory())
    assert read(engine, history).attempts["nightly"] == 10
    # Over is over: what was read once is not asked for again.
    change(engine, "UPDATE batches SET attempts = 5 WHERE run_id = 2")
    assert read(engine, history).attempts["nightly"] == 10
    assert read(engine, BatchHistory()).attempts["nightly"] == 14
