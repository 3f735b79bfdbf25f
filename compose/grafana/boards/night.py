"""Night at a glance: is tonight all right, will it be in time, what do users feel, what should be done."""

from __future__ import annotations

from compose.grafana.boards.parts import (
    Dashboard,
    Panel,
    Row,
    alert_list,
    column,
    joined,
    lines,
    metric,
    now,
    renamed,
    rows_now,
    sql,
    stat,
    table,
)

FIRING = 'ALERTS{alertname=~"Nightshift.+", alertstate="firing"}'
RUN_LINK = "/d/nightshift-run?var-run=${__data.fields.run}"
_END = "(nightshift_night_finished_timestamp_seconds or nightshift_night_estimated_end_timestamp_seconds)"

TONIGHT: list[Panel] = [
    stat(
        "Night", "The oldest night that has not ended, else the newest one.", now("nightshift_night_running"),
        texts={"0": ("ended", "green"), "1": ("at work", "blue")}, width=3,
    ),
    stat(
        "Done", "Share of the night's users whose batch is done.", now("nightshift:users_done:ratio"),
        unit="percentunit", base="blue", steps=[(1, "green")], width=3, min=0, max=1,
    ),
    stat(
        "Users", "Users of the night, and those of them whose batch is done.",
        now("nightshift_users_planned", "planned"), now("nightshift_users_done", "done"), unit="locale",
    ),
    stat(
        "Speed", "Users done in a second since the night started, until it ended.",
        now("nightshift_night_users_per_second"), unit="suffix:/s", base="blue", width=3, decimals=0,
    ),
    stat(
        "Duration", "Since the night started, until it ended. Over 5 minutes is NightshiftNightTooLong.",
        now("nightshift_night_duration_seconds"), unit="s", steps=[(300, "orange")], width=3,
    ),
    stat(
        "Before its deadline",
        "How long before its deadline the night ended, or will end at its present speed. Below zero it is late.",
        now(f"nightshift_night_deadline_timestamp_seconds - {_END}"),
        unit="s", base="red", steps=[(0, "orange"), (300, "green")], noValue="not started",
    ),
    stat(
        "Alerts", "Alerts that fire.", now(f"count({FIRING}) or vector(0)"), steps=[(1, "red")],
    ),
    stat(
        "Fell due, started, ended", "By the wall clock, in UTC; the end is an estimate while the night is at work.",
        now("nightshift_night_due_timestamp_seconds * 1000", "due"),
        now("nightshift_night_started_timestamp_seconds * 1000", "started"),
        now(f"{_END} * 1000", "ended"),
        unit="dateTimeAsIso", width=12, base="blue",
    ),
    stat(
        "Failed", "Share of the night's users whose batch failed: over 1 % a warning, over 5 % a page.",
        now("nightshift_night_failed_ratio"), unit="percentunit", steps=[(0.01, "orange"), (0.05, "red")], width=3,
    ),
    stat(
        "In quarantine", "Users who are left out of the nights, whole or with some of their simulations.",
        now("nightshift_users_quarantined"), steps=[(1, "orange")], width=3,
    ),
    stat(
        "Overdue", "How long ago the oldest night that has not started fell due; 0 if there is none.",
        now("nightshift_night_start_delay_seconds"), unit="s", steps=[(60, "orange"), (600, "red")], width=3,
    ),
    stat(
        "Waits for closes", "Whether a night that is due waits for its closes.", now("nightshift_night_waiting"),
        texts={"0": ("no", "green"), "1": ("waits", "orange")}, width=3,
    ),
]  # fmt: skip

ALERTS: list[Panel] = [
    table(
        "What is wrong, and what to do",
        "Alerts that fire or are about to; the name leads to the runbook.",
        rows_now(
            "max by (alertname, severity, alertstate, kind, queue, source, cause, server)"
            ' (ALERTS{alertname=~"Nightshift.+"})'
        ),
        width=16,
        no_value="nothing",
        columns=[column("alert", link=("Runbook", "${runbooks}/${__data.fields.alert}.md"))],
        transformations=[
            renamed({"alertname": "alert", "severity": "severity", "alertstate": "state"}, ["Time", "Value"]),
        ],
    ),
    alert_list("Alerts", "Grafana's list of the same rules, with what it remembers of their state."),
]

THROUGH: list[Panel] = [
    lines(
        "Users done", "Users of the night whose batch is done, against all of them.",
        metric("nightshift_users_done", "done"), metric("nightshift_users_planned", "planned"), unit="locale",
    ),
    lines(
        "Batches", "Of the unfinished runs and of the newest run, by status.",
        metric("nightshift_batches", "{{status}}"), stacked=True,
    ),
    lines(
        "Speed", "Users of batches that were done, a second.",
        metric("sum by (kind) (rate(nightshift_batch_users_done_total[$__rate_interval]))", "{{kind}}"),
        unit="suffix:/s",
    ),
    lines(
        "Since the last progress",
        "Since a running run last ended a batch; over 5 minutes is NightshiftNightStalled. Empty while none runs.",
        metric("time() - nightshift_run_last_progress_timestamp_seconds", "{{kind}}"),
        unit="s", steps=[(300, "red")],
    ),
]  # fmt: skip

USERS: list[Panel] = [
    stat(
        "Nights late",
        "Nights whose deadline passed within a day, a week and a month without being done.",
        now("nightshift_nights_due - nightshift_nights_in_time", "{{window}}"),
        steps=[(1, "red")], width=6,
    ),
    stat(
        "Nights in time", "Share of the nights whose deadline passed; the promise is 99.9 %.",
        now("1 - nightshift:nights_late:ratio", "{{window}}"),
        unit="percentunit", base="red", steps=[(0.999, "green")], width=6,
    ),
    stat(
        "Error budget burn",
        "How many times too fast the budget of one late night in a thousand is spent; 1 spends it just so.",
        now("nightshift:nights_error_budget:burn", "{{window}}"), steps=[(1, "orange"), (14.4, "red")], width=6,
    ),
    stat(
        "Age of the newest close", "Portfolios are valued with it: over a day, users see old prices.",
        now("nightshift_price_age_seconds"), unit="s", steps=[(129_600, "orange"), (432_000, "red")], width=6,
    ),
    table(
        "Leaderboard", "The best simulations of the last night, as users see them.",
        sql("SELECT rank, user_id, simulation_id, strategy, equity::float, total_return FROM leaderboard"
            " ORDER BY rank LIMIT 20"),
        columns=[column("total_return", unit="percentunit"), column("equity", unit="locale")],
    ),
    lines(
        "Users in quarantine", "Users who are left out of the nights, whole or with some of their simulations.",
        metric("nightshift_users_quarantined", "users"), steps=[(1, "orange")],
    ),
]  # fmt: skip

RUNS: list[Panel] = [
    table(
        "The newest runs", "A run's number leads to its page.",
        rows_now("max by (run, kind, day, status) (nightshift_run_info)"),
        rows_now("max by (run) (nightshift_run_duration_seconds)"),
        rows_now("max by (run) (nightshift_run_users)"),
        rows_now("max by (run) (nightshift_run_users_done)"),
        rows_now("max by (run) (nightshift_run_simulations_quarantined)"),
        width=16, height=10,
        columns=[
            column("run", link=("Run", RUN_LINK)), column("duration", unit="s", steps=[(300, "orange")]),
            column("quarantined", steps=[(1, "orange")]),
        ],
        transformations=joined(
            "run",
            {"run": "run", "kind": "kind", "day": "day", "status": "status",
             "Value #B": "duration", "Value #C": "users", "Value #D": "done", "Value #E": "quarantined"},
            ["Value #A", "Time", *(f"Time {number}" for number in range(1, 6))],
        ),
    ),
    lines(
        "Runs", "All runs, by kind and status.",
        metric("nightshift_runs > 0", "{{kind}} {{status}}"), width=8, height=10,
    ),
]  # fmt: skip

NIGHT = Dashboard(
    uid="nightshift-night",
    title="Night at a glance",
    description="Whether tonight is all right and will be in time, what users feel of it, and what should be done.",
    rows=[
        Row("Tonight", TONIGHT), Row("Alerts", ALERTS), Row("Through the night", THROUGH),
        Row("What users feel", USERS), Row("Runs", RUNS),
    ],
)  # fmt: skip
