"""Every metric that the exporter may show: its name, type, labels, meaning and source, once.

The collector makes its families from here and refuses other names; docs/metrics.md is this table. No label holds a
user, and none grows without end: `run` is one of the newest 20 runs, `worker` one that answered within the last hour.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

GAUGE, COUNTER, HISTOGRAM, SUMMARY = "gauge", "counter", "histogram", "summary"


@dataclass(frozen=True, slots=True)
class MetricSpec:
    """One metric. `name` is that of its samples: a counter's ends in `_total`."""

    name: str
    kind: str
    labels: tuple[str, ...]
    meaning: str
    source: str


def _specs(kind: str, source: str, *rows: tuple[str, str, str]) -> Iterator[MetricSpec]:
    for name, labels, meaning in rows:
        yield MetricSpec(f"nightshift_{name}", kind, tuple(labels.split()), meaning, source)


CATALOGUE: tuple[MetricSpec, ...] = (
    *_specs(
        GAUGE, "exporter",
        ("source_up", "source", "1 where the source (database, redis, cache, disk) answered; absent where not."),
        ("source_seconds", "source", "Seconds that this scrape waited for the source."),
        ("visibility_timeout_seconds", "", "Seconds after which Redis gives an unacknowledged message out again."),
    ),
    *_specs(
        GAUGE, "runs",
        ("runs", "kind status", "Runs, by kind and status."),
        ("run_last_progress_timestamp_seconds", "kind",
         "When a running run of this kind last ended a batch, or began; absent while none runs, or all are paused."),
        ("run_info", "run kind day status", "1, for each of the newest 20 runs."),
        ("run_users", "run", "Users of a run."),
        ("run_users_done", "run", "Users of a run whose batch is done."),
        ("run_batches", "run status", "Batches of a run, by status."),
        ("run_duration_seconds", "run", "Seconds since a run started, until it ended."),
        ("run_simulations_quarantined", "run", "Simulations that a run has quarantined so far."),
    ),
    *_specs(
        GAUGE, "runs: the night",
        ("users_planned", "", "Users of the night."),
        ("users_done", "", "Users of the night whose batch is done."),
        ("night_running", "", "1 while the night is planned or running, 0 when it has ended."),
        ("night_due_timestamp_seconds", "", "When the night fell due."),
        ("night_deadline_timestamp_seconds", "", "When the night should have ended: NIGHTSHIFT_NIGHT_DEADLINE_MINUTES after it fell due."),  # noqa: E501
        ("night_started_timestamp_seconds", "", "When the night started; absent before."),
        ("night_finished_timestamp_seconds", "", "When the night ended; absent before."),
        ("night_duration_seconds", "", "Seconds since the night started, until it ended."),
        ("night_users_per_second", "", "Users done in a second since the night started, until it ended."),
        ("night_estimated_end_timestamp_seconds", "", "When the night will end at that speed; absent unless it runs and something is done."),  # noqa: E501
        ("night_failed_ratio", "", "Share of the night's users whose batch failed, 0 to 1."),
    ),
    *_specs(
        GAUGE, "runs: the calendar",
        ("night_start_delay_seconds", "", "Seconds since the oldest night that is due and has not started fell due; 0 if there is none."),  # noqa: E501
        ("night_waiting", "", "1 while a night that is due waits for its closes."),
        ("night_missed_timestamp_seconds", "", "When a night was last marked as missed; absent if none ever was."),
        ("nights_due", "window", "Nights whose deadline passed within the window (1d, 7d, 30d)."),
        ("nights_in_time", "window", "Those of them that were done by their deadline."),
    ),
    *_specs(
        GAUGE, "batches, quarantine",
        ("batches", "status", "Batches of the unfinished runs and of the newest run, by status."),
        ("users_quarantined", "", "Users with an active entry in quarantine."),
    ),
    *_specs(
        HISTOGRAM, "batches",
        ("batch_duration_seconds", "kind", "Seconds from a batch's last claim to its end, of all batches that are done."),  # noqa: E501
        ("batch_queue_wait_seconds", "kind", "Seconds from a batch's last publication to its last claim, of all batches that are done."),  # noqa: E501
    ),
    *_specs(
        COUNTER, "batches",
        ("batches_ended_total", "kind status", "Batches that have ended, by status; `split` counts divisions."),
        ("batch_attempts_total", "kind", "Attempts at the batches that have ended."),
        ("batch_publications_total", "kind", "Messages sent for the batches that have ended."),
        ("batch_republications_total", "kind", "Messages sent for them beyond each one's first."),
        ("batch_users_done_total", "kind", "Users of the batches that are done."),
        ("batch_stage_seconds_total", "stage", "Seconds that batches spent in a stage (read, market, compute, encode, write and others)."),  # noqa: E501
    ),
    *_specs(
        COUNTER, "beat_ticks",
        ("batches_put_back_total", "cause", "Batches that the reconciler put back: `lost` message, or `abandoned` by a worker that died."),  # noqa: E501
    ),
    *_specs(
        GAUGE, "beat_ticks",
        ("beat_last_tick_timestamp_seconds", "", "When beat's last tick was worked on, in seconds since 1970."),
        ("desired_workers", "group", "Workers (pods or hosts with one group each) that are wanted; absent before the first tick."),  # noqa: E501
    ),
    *_specs(
        SUMMARY, "workers, through Redis",
        ("worker_commit_seconds", "", "Seconds that a batch's commit took; no row can hold it."),
    ),
    *_specs(
        COUNTER, "workers, through Redis",
        ("duplicates_absorbed_total", "", "Messages that found their batch done, cancelled or in other hands."),
        ("messages_dropped_total", "reason", "Messages refused at a worker's door."),
    ),
    *_specs(
        GAUGE, "workers, through Redis",
        ("workers", "queue", "Groups of workers that serve the queue and answered within the last 30 s."),
        ("worker_processes", "queue", "Pool processes of those groups."),
        ("workers_lost", "", "Groups that answered within the last hour but not within the last 30 s, and did not say goodbye."),  # noqa: E501
        ("worker_last_answer_timestamp_seconds", "worker", "When a group of workers last answered."),
    ),
    *_specs(
        GAUGE, "redis",
        ("queue_length", "queue", "Messages that wait, over all priority steps."),
        ("unacked", "queue", "Messages that a worker has taken and not acknowledged."),
        ("unacked_oldest_age_seconds", "queue", "Seconds since the oldest of them was taken; 0 if there is none."),
        ("redis_memory_used_bytes", "server", "Memory that the server (broker, cache) uses."),
        ("redis_memory_max_bytes", "server", "Its limit: maxmemory, or without one the machine's memory."),
        ("redis_connected_clients", "server", "Its connections."),
    ),
    *_specs(
        COUNTER, "redis",
        ("redis_evicted_keys_total", "server", "Keys that it evicted because memory was short."),
    ),
    *_specs(
        GAUGE, "outbox",
        ("outbox_pending", "kind", "Notifications that are neither sent nor given up, by kind."),
        ("outbox_given_up", "kind", "Notifications that were given up, by kind."),
        ("outbox_oldest_age_seconds", "kind", "Seconds since the oldest pending one was written, 0 if there is none; absent if nobody is to be told anything."),  # noqa: E501
    ),
    *_specs(
        GAUGE, "backups",
        ("backup_interval_seconds", "", "Seconds between two backups; absent where none are made by themselves."),
        ("backup_last_success_timestamp_seconds", "", "The moment to which the newest backup goes back; absent if there never was one."),  # noqa: E501
        ("backup_verified_timestamp_seconds", "", "The moment to which the newest backup goes back that was restored and found equal."),  # noqa: E501
        ("backup_size_bytes", "", "Size of the newest backup."),
        ("backup_duration_seconds", "", "Seconds that making it took."),
        ("backup_verify_duration_seconds", "", "Seconds that restoring and comparing it took; absent before."),
        ("backups_damaged", "", "Backups that are kept and did not stand their verification."),
    ),
    *_specs(
        COUNTER, "backups",
        ("backups_failed_total", "", "Backups that could not be made."),
    ),
    *_specs(
        GAUGE, "database",
        ("database_connections", "state", "Connections of clients to the server, by state."),
        ("database_connections_max", "", "Connections that it accepts from ordinary users."),
        ("database_slow_queries", "", "Statements in our database that have been running for over 5 s."),
        ("database_longest_query_seconds", "", "Seconds that the longest running statement has been running; 0 if there is none."),  # noqa: E501
        ("database_locks_waiting", "", "Sessions in our database that wait for a lock."),
        ("database_size_bytes", "", "Size of our database, at most a minute old."),
    ),
    *_specs(
        GAUGE, "disk",
        ("disk_size_bytes", "directory", "Size of the file system below the directory (home)."),
        ("disk_free_bytes", "directory", "What of it is free for us."),
    ),
    *_specs(
        GAUGE, "prices",
        ("price_age_seconds", "", "Seconds since the day of the newest close ended (00:00 UTC of the day after it)."),
        ("price_window_age_seconds", "source", "Seconds since the newest window that was fetched began, by source."),
        ("price_source_enabled", "source", "1 for each source that NIGHTSHIFT_PRICE_SOURCES names."),
        ("price_windows_open", "source status", "Windows that are not fetched, by source and status."),
        ("held_prices", "", "Prices that wait for confirmation."),
        ("alerts_active", "kind", "Alerts of the application that are raised, by kind."),
    ),
    *_specs(
        COUNTER, "cache",
        ("price_cache_hits_total", "", "Prices that were found in the cache."),
        ("price_cache_misses_total", "", "Prices that were not found in the cache."),
    ),
)  # fmt: skip

BY_NAME = {spec.name: spec for spec in CATALOGUE}


def metrics_table() -> list[str]:
    """The rows of docs/metrics.md."""
    return [
        f"| `{spec.name}` | {spec.kind} | {', '.join(f'`{label}`' for label in spec.labels)} | {spec.meaning} | {spec.source} |"  # noqa: E501
        for spec in CATALOGUE
    ]
