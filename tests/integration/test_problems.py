"""What `nightshift status` finds wrong: conditions, names, severities and limits as Prometheus' alerts have them."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path

import pytest
import redis

from core.queues import Queue
from services.metrics_backups import BackupMetrics
from services.metrics_night import Night, NightMetrics
from services.metrics_outbox import OutboxMetrics
from services.metrics_prices import PriceMetrics
from services.metrics_redis import RedisServer
from services.metrics_runs import RunMetrics
from services.metrics_server import ServerMetrics
from services.observed import BrokerState, Observed
from services.problems import CHECKS, PAGE, find_problems
from services.queue_state import queue_key
from services.window_states import WindowState
from services.wording import counted, span
from services.worker_registry import WorkersState
from tests.support.cli import Shell
from tests.support.exporter import NOW
from tests.support.rules import ALERTS, alerts
from workers.server_process import free_port

WITHOUT_A_READING = {"NightshiftDatabaseAway"}
"""The command ends with code 3 and one line (test_runbooks.py)."""

NIGHT = Night(
    due=NOW - timedelta(minutes=2), deadline=NOW + timedelta(minutes=28), running=True,
    started=NOW - timedelta(minutes=1), finished=None, users=1000, done=500, failed=0, seconds=60.0,
    users_per_second=8.3, estimated_end=NOW + timedelta(minutes=1),
)  # fmt: skip
NIGHTS = NightMetrics(
    night=NIGHT, start_delay=0.0, waiting=False, missed_at=None, due={"1d": 1, "7d": 7, "30d": 30},
    in_time={"1d": 1, "7d": 7, "30d": 30},
)  # fmt: skip
REGISTRY = WorkersState(dict.fromkeys(Queue, 1), dict.fromkeys(Queue, 1), 0, {})
BROKER = BrokerState({}, {}, {}, RedisServer(10 * 2**20, 100 * 2**20, 0, 5), REGISTRY)
BACKUPS = BackupMetrics(
    interval=21_600.0, newest=NOW - timedelta(hours=5), proven=NOW - timedelta(hours=5), size=1, seconds=1.0,
    verify_seconds=1.0, failed=0, damaged=0,
)  # fmt: skip
WELL = Observed(
    now=NOW,
    night=NIGHTS,
    runs=RunMetrics({}, {}, 0, {"nightly": NOW - timedelta(seconds=1)}, []),
    prices=PriceMetrics(date(2024, 3, 4), [WindowState("binance", NOW - timedelta(minutes=6), {})], ["binance"], 0, {}),
    outbox=[OutboxMetrics("alert_raised", 1, 0, 10.0), OutboxMetrics("digest", 9, 0, 9999.0)],
    backups=BACKUPS,
    database=ServerMetrics({"active": 10}, 97, 0, 0.1, 0),
    put_back={"lost": NOW - timedelta(hours=1)},
    last_tick=NOW - timedelta(seconds=5),
    last_tick_result="nothing to do",
    broker=BROKER,
    redis_error=None,
    served=dict.fromkeys(Queue, 1),
    disk_used=0.5,
    visibility_timeout=900.0,
)
AGO = timedelta(seconds=1)
HOUR = timedelta(hours=1)
Change = Callable[[Observed], Observed]


def night(**changes: object) -> Change:
    return lambda seen: replace(seen, night=replace(NIGHTS, night=replace(NIGHT, **changes)))  # type: ignore[arg-type]


def nights(**changes: object) -> Change:
    return lambda seen: replace(seen, night=replace(NIGHTS, **changes))  # type: ignore[arg-type]


def broker(**changes: object) -> Change:
    return lambda seen: replace(seen, broker=replace(BROKER, **changes))  # type: ignore[arg-type]


def runs(**changes: object) -> Change:
    return lambda seen: replace(seen, runs=replace(seen.runs, **changes))  # type: ignore[arg-type]


def plain(**changes: object) -> Change:
    return lambda seen: replace(seen, **changes)  # type: ignore[arg-type]


def prices(**changes: object) -> Change:
    return lambda seen: replace(seen, prices=replace(seen.prices, **changes))  # type: ignore[arg-type]


def backups(**changes: object) -> Change:
    return lambda seen: replace(seen, backups=replace(BACKUPS, **changes))  # type: ignore[arg-type]


def stale(age: timedelta) -> Change:
    return prices(windows=[WindowState("binance", NOW - age, {}), WindowState("osrs", NOW - timedelta(days=9), {})])


# By name: what is just not wrong yet, what just is, and a part of the line that says so.
CASES: dict[str, tuple[Change, Change, str]] = {
    "NightshiftRedisAway": (plain(), plain(broker=None, redis_error="Redis is out of reach"), "Redis is out of reach"),
    "NightshiftExporterAbsent": (broker(), broker(registry=None), "no alert can fire"),
    "NightshiftQueueWithoutWorker": (
        plain(served=dict.fromkeys(Queue, 2)), plain(served=dict.fromkeys(Queue, 1) | {"prices": 0}),
        "nobody serves prices; no message waits",
    ),
    "NightshiftBeatSilent": (
        plain(last_tick=NOW - 90 * AGO), plain(last_tick=NOW - 91 * AGO), "the last tick was worked on 91 s ago",
    ),
    "NightshiftNightNotStarted": (
        nights(start_delay=700.0, waiting=True), nights(start_delay=601.0), "a night fell due 10 min ago",
    ),
    "NightshiftNightWaitsForCloses": (
        nights(start_delay=600.0, waiting=True), nights(start_delay=601.0, waiting=True), "waits for its closes",
    ),
    "NightshiftNightStalled": (
        runs(progress={"reprocess": NOW - 300 * AGO}), runs(progress={"reprocess": NOW - 301 * AGO}),
        "no batch of a running reprocess run has ended for 5 min",
    ),
    "NightshiftNightEndsLate": (
        night(estimated_end=NIGHT.deadline), night(estimated_end=NIGHT.deadline + 90 * AGO),
        "the night ends 90 s after its deadline",
    ),
    "NightshiftNightTooLong": (night(seconds=300.0), night(seconds=301.0), "running for 5 min"),
    "NightshiftNightFailures": (night(failed=10), night(failed=11), "11 of the night's 1,000 users (1.1%) failed"),
    "NightshiftNightFailuresMany": (night(failed=50), night(failed=51), "51 of the night's 1,000 users (5.1%) failed"),
    "NightshiftUsersQuarantined": (runs(quarantined=0), runs(quarantined=1), "1 user is in quarantine"),
    "NightshiftDayMissed": (
        nights(missed_at=NOW - timedelta(days=1)), nights(missed_at=NOW - timedelta(hours=3)), "3 h 0 min ago",
    ),
    "NightshiftErrorBudgetFastBurn": (
        nights(in_time={"1d": 1, "7d": 6, "30d": 29}), nights(in_time={"1d": 0, "7d": 6, "30d": 29}),
        "of the nights of the last day 1 was late",
    ),
    "NightshiftErrorBudgetSlowBurn": (
        nights(in_time={"1d": 1, "7d": 7, "30d": 29}), nights(in_time={"1d": 1, "7d": 6, "30d": 29}),
        "of the nights of the last 30 days 1 was late",
    ),
    "NightshiftDatabaseSlow": (
        plain(), plain(database=ServerMetrics({}, 97, 2, 7.0, 0)), "2 statements have run for over 5 s",
    ),
    "NightshiftDatabaseConnectionsHigh": (
        plain(database=ServerMetrics({"idle": 80}, 100, 0, 0, 0)),
        plain(database=ServerMetrics({"idle": 80, "active": 1}, 100, 0, 0, 0)), "81 of 100 connections",
    ),
    "NightshiftRedisMemoryHigh": (
        broker(server=RedisServer(80 * 2**20, 100 * 2**20, 0, 0)),
        broker(server=RedisServer(81 * 2**20, 100 * 2**20, 0, 0)), "Redis uses 81% of 100 MiB",
    ),
    "NightshiftDiskFull": (plain(disk_used=0.85), plain(disk_used=0.86), "86% of the disk"),
    "NightshiftWorkerLost": (broker(), broker(registry=replace(REGISTRY, lost=1)), "1 group of workers has"),
    "NightshiftQueueLong": (
        # Long, but it gets shorter.
        broker(waiting={"simulations": 900}), broker(waiting={"prices": 101}), "101 messages wait in prices",
    ),
    "NightshiftUnackedStale": (
        broker(oldest_taken={"prices": 900.0}), broker(oldest_taken={"prices": 901.0}), "a worker's hands for 15 min",
    ),
    "NightshiftMessagesPutBack": (
        plain(put_back={"lost": NOW - 300 * AGO}), plain(put_back={"lost": NOW - 299 * AGO}), "batches that were lost",
    ),
    "NightshiftOutboxStale": (
        plain(outbox=[OutboxMetrics("welcome", 1, 0, 60.0), OutboxMetrics("alert_raised", 3, 0, None)]),
        plain(outbox=[OutboxMetrics("welcome", 2, 0, 61.0)]), "2 notifications of kind welcome are not sent",
    ),
    "NightshiftBackupOld": (
        backups(newest=NOW - 7 * HOUR), backups(newest=NOW - 7 * HOUR - AGO),
        "the newest backup is 7 h 0 min old; one is due every 6 h 0 min",
    ),
    "NightshiftBackupUnverified": (
        backups(proven=NOW - 8 * HOUR), backups(proven=NOW - 8 * HOUR - AGO), "restored and found equal is 8 h 0 min",
    ),
    "NightshiftPriceStale": (stale(600 * AGO), stale(601 * AGO), "the newest prices of binance are 10 min old"),
    "NightshiftPriceProviderFailing": (
        prices(alerts={"prices_failed": 0, "closes_missing": 1}), prices(alerts={"prices_failed": 2}), "2 sources",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_a_problem_is_found_from_its_limit_on(name: str) -> None:
    before, wrong, said = CASES[name]
    assert name not in {problem.name for problem in find_problems(before(WELL))}
    (problem,) = (problem for problem in find_problems(wrong(WELL)) if problem.name == name)
    assert said in problem.detail
    assert problem.runbook == f"docs/runbooks/{name}.md"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"newest": None, "proven": None}, ["there is no backup", "no backup was ever restored and found equal"]),
        ({"interval": None, "newest": None, "proven": None}, []),
        ({"interval": None, "damaged": 2}, ["2 backups that are kept did not stand verification"]),
        # Those of an hour ago were whole: that one is damaged is worth a line all the same.
        ({"damaged": 1}, ["1 backup that is kept did not stand verification"]),
    ],
)
def test_backups_are_missed_only_where_they_are_wanted(changes: dict[str, object], said: list[str]) -> None:
    assert [problem.detail for problem in find_problems(backups(**changes)(WELL))] == said


def test_nothing_is_wrong_where_nothing_is() -> None:
    assert find_problems(WELL) == []


def test_pages_come_before_warnings() -> None:
    both = night(failed=100)(WELL)
    assert [(p.name, p.severity) for p in find_problems(both)] == [
        ("NightshiftNightFailuresMany", "page"), ("NightshiftNightFailures", "warning"),
    ]  # fmt: skip
    assert PAGE == "page"


def test_every_alert_has_a_problem_of_its_name_severity_and_limit() -> None:
    rules = {alert.name: alert.severity for alert in alerts()}
    assert {check.name: check.severity for check in CHECKS} == {
        name: severity for name, severity in rules.items() if name not in WITHOUT_A_READING
    }
    assert set(CASES) == {check.name for check in CHECKS}
    texts = re.split(r"^\s+- alert: ", ALERTS.read_text("utf-8"), flags=re.MULTILINE)[1:]
    for check in CHECKS:
        (text,) = (text for text in texts if text.startswith(check.name + "\n"))
        rule = text.split("for:")[0]
        limits = {float(number) for number in re.findall(r" [<>+] ([0-9.]+)", rule)}
        limits |= {60 * float(minutes) for minutes in re.findall(r"\[(\d+)m\]", rule)}
        if check.limit is not None:
            assert check.limit in limits, check.name


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.2, "0 s"), (119, "119 s"), (120, "2 min"), (7260, "2 h 1 min"), (200_000, "2 days")]
)
def test_spans_are_said_as_people_do(seconds: float, words: str) -> None:
    assert span(seconds) == words


@pytest.mark.parametrize(
    ("waiting", "said"),
    [(0, "no message waits"), (1, "1 message waits"), (2, "2 messages wait"), (1_000, "1,000 messages wait")],
)
def test_what_is_counted_is_said_as_people_do(waiting: int, said: str) -> None:
    assert counted(waiting, "message waits", "messages wait") == said


def test_nobody_knows_what_waits_in_a_redis_that_does_not_answer() -> None:
    silent = plain(served={}, broker=None, redis_error="Redis is out of reach")(WELL)
    assert "no worker answers" in [problem.detail for problem in find_problems(silent)]


@pytest.fixture
def shell(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, database: str, redis_url: str
) -> Shell:
    monkeypatch.chdir(tmp_path)
    for name, value in (("HOME", tmp_path / "home"), ("DATABASE_URL", database), ("REDIS_URL", redis_url)):
        monkeypatch.setenv(f"NIGHTSHIFT_{name}", str(value))
    return Shell(capsys)


def test_status_says_on_top_what_is_wrong_and_which_page_helps(shell: Shell, redis_url: str) -> None:
    with redis.Redis.from_url(redis_url) as client:
        client.lpush(queue_key(Queue.PRICES), *range(101))
    names = [problem["name"] for problem in shell.ok("status", "--json").json["problems"]]
    # A database in which nothing has happened yet, and nobody who works.
    assert names == [
        "NightshiftExporterAbsent", "NightshiftQueueWithoutWorker", "NightshiftBeatSilent", "NightshiftQueueLong",
    ]  # fmt: skip
    lines = shell.ok("status").out.splitlines()
    assert lines[0].split() == ["page", "NightshiftExporterAbsent:", *lines[0].split()[2:]]
    assert lines[1].strip() == "docs/runbooks/NightshiftExporterAbsent.md"
    assert lines[2] == "   page  NightshiftQueueWithoutWorker: no worker answers; 101 messages wait"
    assert "waiting  prices 101" in shell.ok("status").out


def test_status_without_redis_shows_the_rest_and_ends_with_code_3(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NIGHTSHIFT_REDIS_URL", f"redis://:hush@127.0.0.1:{free_port(None)}/0")
    document = shell("status", "--json")
    assert document.code == 3
    assert "Redis is out of reach" in document.line
    assert [problem["name"] for problem in document.json["problems"]] == ["NightshiftRedisAway", "NightshiftBeatSilent"]
    assert (document.json["queues"], document.json["served"], document.json["workers"]) == ({}, {}, [])
    shown = shell("status")
    assert shown.code == 3
    assert "queues  unknown: Redis is away" in shown.out
    assert "hush" not in document.out + shown.out + shown.err
