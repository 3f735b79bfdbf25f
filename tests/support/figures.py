"""What the exporter must show, by statements of our own over the tables, and what processes said in their logs."""

from __future__ import annotations

import json
from typing import Any

import pytest
from sqlalchemy import Engine

from tests.support.exporter import Samples
from tests.support.faulty_night import FaultyNight
from tests.support.nights import rows
from tests.support.polling import wait_until

ENDED = "b.status IN ('done', 'split', 'failed', 'cancelled')"
JOINED = "FROM batches b JOIN runs r ON r.id = b.run_id"
# The labels in the order of their names, then the value.
COUNTED = {
    "nightshift_runs": "SELECT kind, status, count(*) FROM runs GROUP BY 1, 2",
    "nightshift_batches": (
        "SELECT status, count(*) FROM batches WHERE run_id = (SELECT max(id) FROM runs) GROUP BY status"
    ),
    "nightshift_run_users": "SELECT id::text, users FROM runs",
    "nightshift_run_users_done": (
        "SELECT r.id::text, coalesce(sum(b.users) FILTER (WHERE b.status = 'done'), 0) FROM runs r"
        " LEFT JOIN batches b ON b.run_id = r.id GROUP BY r.id"
    ),
    "nightshift_run_batches": "SELECT run_id::text, status, count(*) FROM batches GROUP BY 1, 2",
    "nightshift_run_info": "SELECT day::text, kind, id::text, status, 1 FROM runs",
    "nightshift_run_simulations_quarantined": (
        "SELECT r.id::text, (SELECT count(*) FROM quarantine q WHERE q.run_id = r.id) FROM runs r"
    ),
    "nightshift_users_quarantined": "SELECT count(*) FROM (SELECT DISTINCT user_id FROM quarantine) q",
    "nightshift_users_planned": "SELECT users FROM runs ORDER BY id DESC LIMIT 1",
    "nightshift_users_done": (
        "SELECT sum(users) FROM batches WHERE run_id = (SELECT max(id) FROM runs) AND status = 'done'"
    ),
    "nightshift_night_failed_ratio": (
        "SELECT coalesce(sum(b.users) FILTER (WHERE b.status = 'failed'), 0)::float / max(r.users)"
        f" {JOINED} WHERE r.id = (SELECT max(id) FROM runs)"
    ),
    "nightshift_night_missed_timestamp_seconds": (
        "SELECT extract(epoch FROM max(created_at))::float FROM runs WHERE status = 'missed'"
    ),
    "nightshift_night_started_timestamp_seconds": (
        "SELECT extract(epoch FROM started_at)::float FROM runs ORDER BY id DESC LIMIT 1"
    ),
    "nightshift_batches_ended_total": f"SELECT r.kind, b.status, count(*) {JOINED} WHERE {ENDED} GROUP BY 1, 2",
    "nightshift_batch_attempts_total": f"SELECT r.kind, sum(b.attempts) {JOINED} WHERE {ENDED} GROUP BY 1",
    "nightshift_batch_publications_total": f"SELECT r.kind, sum(b.publications) {JOINED} WHERE {ENDED} GROUP BY 1",
    "nightshift_batch_republications_total": (
        f"SELECT r.kind, sum(b.publications - 1) {JOINED} WHERE {ENDED} AND b.publications > 1 GROUP BY 1"
    ),
    "nightshift_batch_users_done_total": f"SELECT r.kind, sum(b.users) {JOINED} WHERE b.status = 'done' GROUP BY 1",
    "nightshift_batch_duration_seconds_count": f"SELECT r.kind, count(*) {JOINED} WHERE b.status = 'done' GROUP BY 1",
    "nightshift_batch_queue_wait_seconds_count": f"SELECT r.kind, count(*) {JOINED} WHERE b.status = 'done' GROUP BY 1",
    "nightshift_batch_duration_seconds_sum": (
        f"SELECT r.kind, sum(extract(epoch FROM b.finished_at - b.started_at))::float {JOINED}"
        " WHERE b.status = 'done' GROUP BY 1"
    ),
    "nightshift_batch_stage_seconds_total": (
        "SELECT stage.key, sum(stage.value::numeric)::float FROM batches, jsonb_each(timings) AS stage"
        " WHERE status = 'done' GROUP BY 1"
    ),
    "nightshift_batches_put_back_total": "SELECT split_part(name, ':', 2), runs FROM beat_ticks WHERE name LIKE 'put%'",
    "nightshift_outbox_pending": (
        "SELECT kind, count(*) FROM outbox WHERE sent_at IS NULL AND given_up_at IS NULL GROUP BY 1"
    ),
    "nightshift_alerts_active": "SELECT kind, count(*) FROM alerts WHERE cleared_at IS NULL GROUP BY 1",
    "nightshift_nights_due": (
        "SELECT w.name, count(n.day) FROM windows w JOIN nights n ON n.deadline <= now()"
        " AND n.deadline > now() - w.length GROUP BY w.name"
    ),
    "nightshift_nights_in_time": (
        "SELECT w.name, count(n.day) FROM windows w JOIN nights n ON n.deadline <= now()"
        " AND n.deadline > now() - w.length JOIN runs r ON r.kind = 'nightly' AND r.day = n.day AND r.status = 'done'"
        " AND r.finished_at <= n.deadline GROUP BY w.name"
    ),
    "nightshift_price_windows_open": (
        "SELECT source, status, count(*) FROM price_windows WHERE status IN ('planned', 'failed', 'filling')"
        " GROUP BY 1, 2"
    ),
    "nightshift_held_prices": "SELECT count(*) FROM held_prices WHERE status = 'held'",
}
NIGHTS = """
WITH windows (name, length) AS (
    VALUES ('1d', interval '1 day'), ('7d', interval '7 days'), ('30d', interval '30 days')
),
nights AS (
    SELECT d::date AS day, (d AT TIME ZONE 'UTC') + interval '1 day 31 minutes' AS deadline
    FROM generate_series((SELECT min(day) FROM runs)::timestamp, now()::timestamp, interval '1 day') AS d
    WHERE (d AT TIME ZONE 'UTC') + interval '1 day 1 minute' >= (SELECT min(created_at) FROM runs)
) """


def from_tables(engine: Engine, name: str) -> Samples:
    """What the metric must be; a count of 0 is none."""
    statement = COUNTED[name] if "windows w" not in COUNTED[name] else NIGHTS + COUNTED[name]
    found = ((tuple(row[:-1]), row[-1]) for row in rows(engine, statement))
    return {(name, labels): float(value) for labels, value in found if value}


def differences(night: FaultyNight) -> dict[str, tuple[Samples, Samples]]:
    """By metric: what the tables say, and what the exporter shows instead."""
    shown = night.scrape()
    found = {}
    for name in COUNTED:
        expected = from_tables(night.engine, name)
        is_shown = {key: value for key, value in shown.items() if key[0] == name and value}
        if is_shown != pytest.approx(expected, rel=1e-6, abs=1e-5):
            found[name] = (expected, is_shown)
    return found


def agree(night: FaultyNight, when: str) -> None:
    """All of them do at one moment: prices and mail go on while the night stands still."""
    last: dict[str, Any] = {}

    def nothing() -> bool:
        last.clear()
        last.update(differences(night))
        return not last

    try:
        wait_until(nothing, seconds=15)
    except AssertionError:
        pytest.fail(f"{when}: {last}")


def logged(night: FaultyNight, log: str, *events: str) -> list[dict[str, Any]]:
    """What the processes of a group said themselves."""
    path = night.system.settings.nightshift_home() / "log" / f"{log}.log"
    lines = [line for line in path.read_text("utf-8").splitlines() if line.startswith("{")]
    return [line for line in map(json.loads, lines) if line["event"] in events]
