"""Samples of what the database says."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta

from prometheus_client.core import Metric

from models.tables import BATCH_STATUSES, RUN_KINDS, RUN_STATUSES
from models.tables_ingestion import WINDOW_OPEN
from services.metrics import DatabaseMetrics
from services.metrics_backups import BackupMetrics
from services.metrics_batches import BATCH_ENDED, BatchCounts
from services.metrics_night import Night, NightMetrics
from services.metrics_outbox import OutboxMetrics
from services.metrics_prices import PriceMetrics, price_age
from services.metrics_runs import RunMetrics
from services.metrics_server import ServerMetrics
from workers.exporter.families import histograms, many, one


def database_samples(metrics: DatabaseMetrics, now: datetime, clock_offset: timedelta) -> Iterator[Metric]:
    """All of them. Moments are shown by the wall clock, to which Prometheus compares them."""
    moments = Moments(clock_offset)
    yield from _runs(metrics.runs, moments)
    yield from _nights(metrics.night, moments)
    yield from _batches(metrics.batches)
    yield many("batches_put_back_total", dict(metrics.put_back))
    yield from one("beat_last_tick_timestamp_seconds", moments.wall(metrics.last_tick))
    yield many("desired_workers", dict(metrics.desired_workers))
    yield from _prices(metrics.prices, now)
    yield from _outbox(metrics.outbox)
    yield from _backups(metrics.backups, moments)
    yield from _server(metrics.server, metrics.size)


class Moments:
    """Takes `NIGHTSHIFT_CLOCK_OFFSET` off."""

    def __init__(self, clock_offset: timedelta) -> None:
        self._offset = clock_offset

    def wall(self, moment: datetime | None) -> float | None:
        """Seconds since 1970 by the wall clock."""
        return None if moment is None else (moment - self._offset).timestamp()


def _runs(runs: RunMetrics, moments: Moments) -> Iterator[Metric]:
    yield many("runs", {(k, s): runs.runs.get((k, s), 0) for k in RUN_KINDS for s in RUN_STATUSES})
    yield many("batches", {status: runs.batches.get(status, 0) for status in BATCH_STATUSES})
    yield from one("users_quarantined", runs.quarantined)
    yield many("run_last_progress_timestamp_seconds", {k: moments.wall(at) or 0.0 for k, at in runs.progress.items()})
    newest = runs.newest
    yield many("run_info", {(str(run.id), run.kind, run.day, run.status): 1 for run in newest})
    yield many("run_users", {str(run.id): run.users for run in newest})
    yield many("run_users_done", {str(run.id): run.users_done for run in newest})
    yield many("run_batches", {(str(run.id), status): count for run in newest for status, count in run.batches.items()})
    yield many("run_duration_seconds", {str(run.id): run.seconds for run in newest if run.seconds is not None})
    yield many("run_simulations_quarantined", {str(run.id): run.quarantined for run in newest})


def _nights(nights: NightMetrics, moments: Moments) -> Iterator[Metric]:
    yield from one("night_start_delay_seconds", nights.start_delay)
    yield from one("night_waiting", nights.waiting)
    yield from one("night_missed_timestamp_seconds", moments.wall(nights.missed_at))
    yield many("nights_due", dict(nights.due))
    yield many("nights_in_time", dict(nights.in_time))
    if nights.night is not None:
        yield from _night(nights.night, moments)


def _night(night: Night, moments: Moments) -> Iterator[Metric]:
    yield from one("users_planned", night.users)
    yield from one("users_done", night.done)
    yield from one("night_running", night.running)
    yield from one("night_due_timestamp_seconds", moments.wall(night.due))
    yield from one("night_deadline_timestamp_seconds", moments.wall(night.deadline))
    yield from one("night_started_timestamp_seconds", moments.wall(night.started))
    yield from one("night_finished_timestamp_seconds", moments.wall(night.finished))
    yield from one("night_duration_seconds", night.seconds)
    yield from one("night_users_per_second", night.users_per_second)
    yield from one("night_estimated_end_timestamp_seconds", moments.wall(night.estimated_end))
    yield from one("night_failed_ratio", night.failed / night.users if night.users else 0.0)


def _batches(counts: BatchCounts) -> Iterator[Metric]:
    yield histograms("batch_duration_seconds", counts.duration)
    yield histograms("batch_queue_wait_seconds", counts.wait)
    yield many("batches_ended_total", {(k, s): counts.ended[k, s] for k in RUN_KINDS for s in BATCH_ENDED})
    for name, by_kind in (
        ("batch_attempts_total", counts.attempts),
        ("batch_publications_total", counts.publications),
        ("batch_republications_total", counts.republications),
        ("batch_users_done_total", counts.users_done),
    ):
        yield many(name, {kind: by_kind[kind] for kind in RUN_KINDS})
    yield many("batch_stage_seconds_total", dict(sorted(counts.stages.items())))


def _prices(prices: PriceMetrics, now: datetime) -> Iterator[Metric]:
    if prices.newest_close is not None:
        yield from one("price_age_seconds", price_age(prices.newest_close, now).total_seconds())
    yield many(
        "price_window_age_seconds",
        {w.source: max((now - w.newest_done).total_seconds(), 0) for w in prices.windows if w.newest_done is not None},
    )
    yield many("price_source_enabled", dict.fromkeys(prices.enabled, 1))
    yield many(
        "price_windows_open", {(w.source, status): w.open[status] for w in prices.windows for status in WINDOW_OPEN}
    )
    yield from one("held_prices", prices.held)
    yield many("alerts_active", dict(sorted(prices.alerts.items())))


def _outbox(kinds: list[OutboxMetrics]) -> Iterator[Metric]:
    yield many("outbox_pending", {kind.kind: kind.pending for kind in kinds})
    yield many("outbox_given_up", {kind.kind: kind.given_up for kind in kinds})
    yield many("outbox_oldest_age_seconds", {kind.kind: kind.age for kind in kinds if kind.age is not None})


def _backups(backups: BackupMetrics, moments: Moments) -> Iterator[Metric]:
    yield from one("backup_interval_seconds", backups.interval)
    yield from one("backup_last_success_timestamp_seconds", moments.wall(backups.newest))
    yield from one("backup_verified_timestamp_seconds", moments.wall(backups.proven))
    yield from one("backup_size_bytes", backups.size)
    yield from one("backup_duration_seconds", backups.seconds)
    yield from one("backup_verify_duration_seconds", backups.verify_seconds)
    yield from one("backups_damaged", backups.damaged)
    yield many("backups_failed_total", {(): backups.failed})


def _server(server: ServerMetrics, size: int) -> Iterator[Metric]:
    yield many("database_connections", dict(server.connections))
    yield from one("database_connections_max", server.limit)
    yield from one("database_slow_queries", server.slow)
    yield from one("database_longest_query_seconds", server.longest)
    yield from one("database_locks_waiting", server.waiting)
    yield from one("database_size_bytes", size)
