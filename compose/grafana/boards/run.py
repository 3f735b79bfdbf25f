"""Run: one run, its batches, its faults and its time. Its rows come from PostgreSQL, so it may be years old."""

from __future__ import annotations

from compose.grafana.boards.parts import Dashboard, Panel, Row, choice, column, lines, metric, sql, stat, table

_SERIES = '{run="$run"}'

SUMMARY: list[Panel] = [
    table(
        "Run", "What was asked for, by whom, and how it ended. Its digest is a fingerprint of the rows it wrote.",
        sql("""
SELECT kind, first_day, day, status, reason, requested_by, created_at, started_at, finished_at, users, simulations,
    rows, trades, quarantined, total_equity * 1e-8 AS equity, total_fees * 1e-8 AS fees, to_hex(digest) AS digest,
    paused, cancel_requested, error
FROM runs WHERE id = '$run'::bigint"""),
        width=24, height=4,
    ),
    stat(
        "Duration", "Since it started, until it ended.",
        sql("SELECT extract(epoch FROM coalesce(finished_at, now()) - started_at)::float AS seconds FROM runs"
            " WHERE id = '$run'::bigint"), unit="s", steps=[(300, "orange")],
    ),
    stat(
        "Users done", "Share of the run's users whose batch is done.",
        sql("SELECT coalesce(sum(b.users) FILTER (WHERE b.status = 'done'), 0)::float / nullif(max(r.users), 0) AS done"
            " FROM runs r LEFT JOIN batches b ON b.run_id = r.id WHERE r.id = '$run'::bigint"),
        unit="percentunit", base="orange", steps=[(1, "green")],
    ),
    stat(
        "Attempts beyond the first", "Of batches that were begun more than once.",
        sql("SELECT coalesce(sum(greatest(attempts - 1, 0)), 0)::bigint AS attempts FROM batches"
            " WHERE run_id = '$run'::bigint"),
        steps=[(1, "orange")],
    ),
    stat(
        "Messages beyond the first", "Of batches that were published more than once.",
        sql("SELECT coalesce(sum(greatest(publications - 1, 0)), 0)::bigint AS messages FROM batches"
            " WHERE run_id = '$run'::bigint"),
        steps=[(1, "orange")],
    ),
    stat(
        "Divisions", "Batches that were divided to find who breaks them.",
        sql("SELECT count(*) AS divisions FROM batches WHERE run_id = '$run'::bigint AND status = 'split'"),
        steps=[(1, "orange")],
    ),
    stat(
        "Quarantined", "Simulations and users that this run put into quarantine.",
        sql("SELECT count(*) AS entries FROM quarantine WHERE run_id = '$run'::bigint"), steps=[(1, "orange")],
    ),
]  # fmt: skip

PROGRESS: list[Panel] = [
    lines(
        "Users done", "As the exporter saw it; it shows the newest 20 runs.",
        metric(f"nightshift_run_users_done{_SERIES}", "done"), metric(f"nightshift_run_users{_SERIES}", "users"),
        unit="locale",
    ),
    lines(
        "Batches", "By status, as the exporter saw it.", metric(f"nightshift_run_batches{_SERIES}", "{{status}}"),
        stacked=True,
    ),
    table(
        "Batches by status", "With what they wrote.",
        sql("SELECT status, count(*) AS batches, sum(users) AS users, sum(rows) AS rows, sum(trades) AS trades,"
            " sum(attempts) AS attempts, sum(publications) AS messages FROM batches"
            " WHERE run_id = '$run'::bigint GROUP BY status ORDER BY status"),
        width=8,
    ),
    table(
        "Where the time went", "Seconds of all batches by stage, and their share.",
        sql("SELECT stage.key AS stage, sum(stage.value::float) AS seconds, sum(stage.value::float)"
            " / sum(sum(stage.value::float)) OVER () AS share FROM batches, jsonb_each_text(timings) AS stage"
            " WHERE run_id = '$run'::bigint AND timings IS NOT NULL GROUP BY stage.key ORDER BY seconds DESC"),
        columns=[column("seconds", unit="s"), column("share", unit="percentunit")], width=8,
    ),
    table(
        "Workers", "Who did the batches, and how fast.",
        sql("SELECT worker, count(*) AS batches, sum(users) AS users,"
            " avg(extract(epoch FROM finished_at - started_at))::float AS seconds FROM batches"
            " WHERE run_id = '$run'::bigint AND status = 'done' GROUP BY worker ORDER BY worker"),
        columns=[column("seconds", unit="s")], width=8,
    ),
]  # fmt: skip

FAULTS: list[Panel] = [
    table(
        "Batches with a history", "Begun or published more than once, divided, failed, or with an error.",
        sql("""
SELECT id, parent_id, user_lo, user_hi, status, attempts, publications, worker, queued_at, started_at, finished_at,
    error
FROM batches
WHERE run_id = '$run'::bigint
    AND (attempts > 1 OR publications > 1 OR status IN ('split', 'failed') OR error IS NOT NULL)
ORDER BY id LIMIT 200"""),
        width=24,
    ),
    table(
        "Quarantine", "Who was left out by this run, and why.",
        sql("SELECT user_id, simulation_id, day, reason, detail, created_at, cleared_at FROM quarantine"
            " WHERE run_id = '$run'::bigint ORDER BY id LIMIT 200"),
        width=24,
    ),
    table(
        "Slowest batches", "From their last claim to their end.",
        sql("""
SELECT id, user_lo, user_hi, users, rows, trades, worker,
    extract(epoch FROM finished_at - started_at)::float AS seconds,
    extract(epoch FROM started_at - queued_at)::float AS waited
FROM batches WHERE run_id = '$run'::bigint AND status = 'done' ORDER BY finished_at - started_at DESC LIMIT 20"""),
        columns=[column("seconds", unit="s"), column("waited", unit="s")], width=24,
    ),
]  # fmt: skip

RUN = Dashboard(
    uid="nightshift-run",
    title="Run",
    description="One run, its batches, its faults and where its time went.",
    rows=[Row("Run $run", SUMMARY), Row("Progress", PROGRESS), Row("Faults", FAULTS)],
    variables=[
        choice(
            "run", "Run",
            "SELECT concat_ws(' ', id, kind, day, status) AS __text, id AS __value FROM runs"
            " WHERE status <> 'missed' ORDER BY id DESC LIMIT 500",
            description="The newest 500 runs; the number of an older one may be typed.",
        ),
    ],
)  # fmt: skip
