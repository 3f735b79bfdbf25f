"""Database and Redis: whether they answer, how full they are, who waits for whom, and how old the backups are."""

from __future__ import annotations

from compose.grafana.boards.parts import Dashboard, Panel, Row, lines, metric, now, stat

# An absent source has no sample. That it does not answer is known only while the exporter does.
_ANSWERS = 'nightshift_source_up{{source="{0}"}} or on (job, instance) 0 * (up{{job="nightshift"}} == 1)'

ANSWERS: list[Panel] = [
    stat(
        "Exporter", "Whether Prometheus can scrape it; while it is away, nothing else is known.",
        now('up{job="nightshift"}'), texts={"0": ("away", "red"), "1": ("answers", "green")},
    ),
    *(
        stat(
            title, "Whether it answered the last scrape.", now(_ANSWERS.format(source)),
            texts={"0": ("away", "red"), "1": ("answers", "green")},
        )
        for title, source in (("PostgreSQL", "database"), ("Redis", "redis"), ("Cache", "cache"), ("Disk", "disk"))
    ),
    stat("Scrape", "How long the last one took.", now('scrape_duration_seconds{job="nightshift"}'), unit="s",
         steps=[(1, "orange"), (5, "red")]),
    lines(
        "How long a scrape waits", "Seconds that it waits for a source; after 7 s it answers without that one.",
        metric("nightshift_source_seconds", "{{source}}"), unit="s", steps=[(7, "red")], width=24, height=6,
    ),
]  # fmt: skip

DATABASE: list[Panel] = [
    lines(
        "Connections", "Of clients, by state, against what the server accepts of ordinary users.",
        metric("nightshift_database_connections", "{{state}}"),
        metric("nightshift_database_connections_max", "limit"), width=8,
    ),
    lines(
        "Connections in use", "Share of what the server accepts; over 80 % is NightshiftDatabaseConnectionsHigh.",
        metric("nightshift:database_connections:ratio", "in use"), unit="percentunit", steps=[(0.8, "orange")],
        width=8, min=0, max=1,
    ),
    lines(
        "Size", "Of our database, at most a minute old.", metric("nightshift_database_size_bytes", "size"),
        unit="bytes", width=8,
    ),
    lines(
        "Slow statements", "Running for over 5 s; longer than 30 s is NightshiftDatabaseSlow.",
        metric("nightshift_database_slow_queries", "statements"), steps=[(1, "orange")], width=8,
    ),
    lines(
        "Longest statement", "How long it has been running.",
        metric("nightshift_database_longest_query_seconds", "seconds"), unit="s", steps=[(5, "orange")], width=8,
    ),
    lines(
        "Sessions that wait for a lock", "In our database. A night's batches wait here behind whoever replaces days.",
        metric("nightshift_database_locks_waiting", "sessions"), width=8,
    ),
]  # fmt: skip

REDIS: list[Panel] = [
    lines(
        "Memory", "That a server uses, against its limit.",
        metric("nightshift_redis_memory_used_bytes", "{{server}}"),
        metric("nightshift_redis_memory_max_bytes", "{{server}} limit"), unit="bytes", width=8,
    ),
    lines(
        "Memory in use", "Over 80 % is NightshiftRedisMemoryHigh: a full broker refuses messages.",
        metric("nightshift:redis_memory:ratio", "{{server}}"), unit="percentunit", steps=[(0.8, "orange")],
        width=8, min=0, max=1,
    ),
    lines(
        "Connections", "Of clients, by server.", metric("nightshift_redis_connected_clients", "{{server}}"), width=4,
    ),
    lines(
        "Evicted keys", "Because memory was short. A cache may; a broker must not.",
        metric("increase(nightshift_redis_evicted_keys_total[$__rate_interval])", "{{server}}"), bars=True, width=4,
    ),
]  # fmt: skip

DISK: list[Panel] = [
    lines(
        "Disk in use", "Over 85 % is NightshiftDiskFull.", metric("nightshift:disk_used:ratio", "{{directory}}"),
        unit="percentunit", steps=[(0.85, "orange")], min=0, max=1,
    ),
    lines(
        "Disk", "Size of the file system, and what of it is free for us.",
        metric("nightshift_disk_size_bytes", "{{directory}} size"),
        metric("nightshift_disk_free_bytes", "{{directory}} free"), unit="bytes",
    ),
]  # fmt: skip

BACKUPS: list[Panel] = [
    stat(
        "Newest backup", "How far back it goes, and how often one should be made.",
        now("time() - nightshift_backup_last_success_timestamp_seconds", "age"),
        now("nightshift_backup_interval_seconds", "interval"), unit="s", base="blue", width=6, noValue="none",
    ),
    stat(
        "Overdue", "By how much the newest backup is older than the interval; over an hour is NightshiftBackupOld.",
        now(
            "clamp_min(time() - nightshift_backup_last_success_timestamp_seconds"
            " - nightshift_backup_interval_seconds, 0)"
        ),
        unit="s", steps=[(60, "orange"), (3600, "red")], width=5, noValue="none",
    ),
    stat(
        "Newest proven backup",
        "How far back the newest goes that was restored and found equal; over the interval and two hours is"
        " NightshiftBackupUnverified.",
        now("time() - nightshift_backup_verified_timestamp_seconds"), unit="s", base="blue", width=5, noValue="none",
    ),
    stat(
        "Damaged", "Backups that are kept and did not stand their verification; one is NightshiftBackupUnverified.",
        now("nightshift_backups_damaged"), steps=[(1, "red")],
    ),
    stat(
        "Failed", "Backups that could not be made, within the shown time.",
        now("increase(nightshift_backups_failed_total[$__range])"), steps=[(0.5, "orange")], decimals=0,
    ),
    lines("Size of the newest backup", "Of all its files.", metric("nightshift_backup_size_bytes", "size"),
          unit="bytes"),
    lines(
        "How long backups take", "To make the newest one, and to restore and compare it.",
        metric("nightshift_backup_duration_seconds", "make"),
        metric("nightshift_backup_verify_duration_seconds", "verify"), unit="s",
    ),
]  # fmt: skip

SERVERS = Dashboard(
    uid="nightshift-servers",
    title="Database and Redis",
    description="Whether the servers answer, how full they are, who waits for whom, and how old the backups are.",
    rows=[
        Row("Who answers", ANSWERS), Row("PostgreSQL", DATABASE), Row("Redis", REDIS), Row("Disk", DISK),
        Row("Backups", BACKUPS),
    ],
)  # fmt: skip
