"""Queues and workers: where messages wait, who works, how long a batch takes, and what went wrong on the way."""

from __future__ import annotations

from compose.grafana.boards.parts import Dashboard, Panel, Row, choice, heatmap, lines, metric, now, stat

_QUEUE = 'queue=~"$queue"'

QUEUES: list[Panel] = [
    lines(
        "Waiting messages", "Over all priority steps. Over 100 for 20 minutes is NightshiftQueueLong.",
        metric(f"nightshift_queue_length{{{_QUEUE}}}", "{{queue}}"), steps=[(100, "orange")], width=8,
    ),
    lines(
        "Messages in work", "Taken by a worker and not acknowledged.",
        metric(f"nightshift_unacked{{{_QUEUE}}}", "{{queue}}"), width=8,
    ),
    lines(
        "Oldest message in work",
        "Since it was taken. Over the visibility timeout it should have been given to another worker.",
        metric(f"nightshift_unacked_oldest_age_seconds{{{_QUEUE}}}", "{{queue}}"),
        metric("nightshift_visibility_timeout_seconds", "visibility timeout"), unit="s", width=8,
    ),
]  # fmt: skip

WORKERS: list[Panel] = [
    stat(
        "Workers", "Groups that serve a queue and answered within 30 s. None is NightshiftQueueWithoutWorker.",
        now(f"nightshift_workers{{{_QUEUE}}}", "{{queue}}"), base="red", steps=[(1, "green")], width=12,
    ),
    stat(
        "Lost", "Groups that do not answer any more and did not say goodbye.", now("nightshift_workers_lost"),
        steps=[(1, "orange")],
    ),
    stat(
        "Beat", "Since its last tick was worked on. Over 90 s is NightshiftBeatSilent.",
        now("time() - nightshift_beat_last_tick_timestamp_seconds"), unit="s", steps=[(30, "orange"), (90, "red")],
    ),
    stat(
        "Duplicates", "Messages within the shown time that found nothing to do: harmless.",
        now("increase(nightshift_duplicates_absorbed_total[$__range])"), base="blue", decimals=0,
    ),
    lines(
        "Pool processes", "Of the groups that answered, by queue.",
        metric(f"nightshift_worker_processes{{{_QUEUE}}}", "{{queue}}"), width=8,
    ),
    lines(
        "Workers wanted", "Groups that serve simulations, and how many are wanted: KEDA starts and ends them so.",
        metric("nightshift_desired_workers", "wanted: {{group}}"),
        metric('nightshift_workers{queue="simulations"}', "there"), width=8,
    ),
    lines(
        "Since a worker last answered", "They are asked every 5 s; after 30 s one counts as lost.",
        metric("time() - nightshift_worker_last_answer_timestamp_seconds", "{{worker}}"),
        unit="s", steps=[(30, "orange")], width=8,
    ),
]  # fmt: skip

BATCHES: list[Panel] = [
    heatmap(
        "Duration of batches", "From a batch's last claim to its end, of batches that are done.",
        metric("sum by (le) (increase(nightshift_batch_duration_seconds_bucket[$__rate_interval]))", "{{le}}"),
    ),
    lines(
        "Duration of batches", "Of the last hour.",
        metric("nightshift:batch_duration_seconds:p50_rate1h", "{{kind}} median"),
        metric("nightshift:batch_duration_seconds:p95_rate1h", "{{kind}} 95 %"), unit="s",
    ),
    lines(
        "Wait of batches", "From a batch's last publication to its last claim; 95 % of the last hour waited less.",
        metric("nightshift:batch_queue_wait_seconds:p95_rate1h", "{{kind}} 95 %"),
        metric("sum by (kind) (rate(nightshift_batch_queue_wait_seconds_sum[$__rate_interval]))"
               " / sum by (kind) (rate(nightshift_batch_queue_wait_seconds_count[$__rate_interval]))",
               "{{kind}} mean"), unit="s",
    ),
    lines(
        "Where the time goes", "Seconds that batches spent in a stage, a second.",
        metric("rate(nightshift_batch_stage_seconds_total[$__rate_interval])", "{{stage}}"), stacked=True,
    ),
    lines(
        "Commit", "Seconds that a batch's commit took, on average. A slow disk shows here first.",
        metric("rate(nightshift_worker_commit_seconds_sum[$__rate_interval])"
               " / rate(nightshift_worker_commit_seconds_count[$__rate_interval])", "mean"), unit="s",
    ),
    lines(
        "Batches that ended", "By kind of run and status; `split` counts divisions.",
        metric("increase(nightshift_batches_ended_total[$__rate_interval])", "{{kind}} {{status}}"), bars=True,
    ),
]  # fmt: skip

FAULTS: list[Panel] = [
    lines(
        "Attempts and messages",
        "Of batches that ended, within the shown time. Without faults all three are the number of batches.",
        metric("sum by (kind) (increase(nightshift_batch_attempts_total[$__rate_interval]))", "{{kind}} attempts"),
        metric("sum by (kind) (increase(nightshift_batch_publications_total[$__rate_interval]))", "{{kind}} messages"),
        metric("sum by (kind) (increase(nightshift_batch_republications_total[$__rate_interval]))",
               "{{kind}} messages beyond the first"),
    ),
    lines(
        "Put back",
        "Batches whose message was lost or whose worker died, which the reconciler put back.",
        metric("increase(nightshift_batches_put_back_total[$__rate_interval])", "{{cause}}"), bars=True, width=6,
    ),
    lines(
        "Refused", "Messages refused at a worker's door, by reason.",
        metric("increase(nightshift_messages_dropped_total[$__rate_interval])", "{{reason}}"), bars=True, width=6,
    ),
]  # fmt: skip

NOTIFICATIONS: list[Panel] = [
    lines(
        "Waiting notifications", "Neither sent nor given up.", metric("nightshift_outbox_pending", "{{kind}}"), width=8,
    ),
    lines(
        "Oldest notification", "Since it was written; over 60 s is NightshiftOutboxStale. Empty where nobody is told.",
        metric("nightshift_outbox_oldest_age_seconds", "{{kind}}"), unit="s", steps=[(60, "orange")], width=8,
    ),
    lines(
        "Given up", "Notifications that nobody tries to send any more.",
        metric("nightshift_outbox_given_up", "{{kind}}"), steps=[(1, "orange")], width=8,
    ),
]  # fmt: skip

WORK = Dashboard(
    uid="nightshift-work",
    title="Queues and workers",
    description="Where messages wait, who works, how long a batch takes, and what went wrong on the way.",
    rows=[
        Row("Queues", QUEUES), Row("Workers", WORKERS), Row("Batches", BATCHES), Row("Faults", FAULTS),
        Row("Notifications", NOTIFICATIONS),
    ],
    variables=[
        choice(
            "queue", "Queue", {"query": "label_values(nightshift_queue_length, queue)", "refId": "queues"},
            several=True, description="The queues that are shown.",
        ),
    ],
)  # fmt: skip
