"""Partitions go one at a time and nobody waits for it; old runs and rows go, and no counter goes back."""

from __future__ import annotations

import threading
from datetime import date, timedelta

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.exc import ProgrammingError

from core.database import session_scope
from models.partitions import day_partition, ensure_day_partitions, ensure_month_partitions
from services import retention_partitions
from services.metrics_batches import BatchHistory
from services.partitions import ensure_ahead
from services.retention import due, maintain
from services.retention_days import KeptDays
from services.retention_partitions import Going, drop_partition, partitions_to_drop
from services.runs import list_runs
from tests.support.cli import Shell
from tests.support.nights import LAST_SAMPLE_DAY, NOW, Night, change, rows, sample_world, scalar, settings
from tests.support.polling import wait_until
from tests.support.retention import partitions

OLD, NEW = date(2024, 1, 15), date(2024, 3, 1)
KEPT = KeptDays(date(2024, 2, 1))
NEVER = date(1, 1, 1)


def make_days(engine: Engine, *days: date) -> None:
    with engine.begin() as connection:
        ensure_day_partitions(connection, days)


def drop_all(engine: Engine) -> list[bool]:
    with engine.connect() as connection:
        going = partitions_to_drop(connection, KEPT, NEVER)
    return [drop_partition(engine, one, now=NOW) for one in going]


def test_a_reader_delays_a_drop_and_nobody_waits_for_it(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Interrupted while it waits for a reader, maintenance leaves a partition half detached, and finishes it later."""
    monkeypatch.setattr(retention_partitions, "_PATIENT", "SET lock_timeout = '150ms'")
    monkeypatch.setattr("services.partitions._PAUSE_SECONDS", 0.0)
    make_days(engine, OLD, NEW)
    with engine.begin() as reader:
        reader.execute(text("SELECT count(*) FROM portfolio_days"))
        assert drop_all(engine) == [False]
        pending = "SELECT count(*) FROM pg_inherits WHERE inhdetachpending"
        assert scalar(engine, pending) == 1
        with engine.begin() as other:
            other.execute(text("SET LOCAL lock_timeout = '100ms'"))
            other.execute(text("SELECT count(*) FROM portfolio_days"))
            other.execute(text(f"LOCK TABLE {day_partition(NEW).name} IN ROW EXCLUSIVE MODE"))
            ensure_day_partitions(other, [NEW + timedelta(days=1)])
    assert drop_all(engine) == [True]
    assert scalar(engine, "SELECT to_regclass(:name)", name=day_partition(OLD).name) is None
    assert scalar(engine, "SELECT count(dropped_at) FROM partition_drops") == 1


def test_what_was_detached_but_not_dropped_is_and_what_a_person_detached_is_not(engine: Engine) -> None:
    mine, theirs = day_partition(OLD).name, day_partition(OLD + timedelta(days=1)).name
    make_days(engine, OLD, OLD + timedelta(days=1), NEW)
    for name in (mine, theirs):
        change(engine, f"ALTER TABLE portfolio_days DETACH PARTITION {name}")
    change(
        engine,
        "INSERT INTO partition_drops (name, parent, bytes, planned_at) VALUES (:name, 'portfolio_days', 0, now())",
        name=mine,
    )  # fmt: skip
    assert drop_all(engine) == [True]
    assert scalar(engine, "SELECT to_regclass(:name)", name=mine) is None
    assert scalar(engine, "SELECT to_regclass(:name)::text", name=theirs) == theirs
    assert drop_all(engine) == []


def test_a_default_partition_is_no_obstacle(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.partitions._PAUSE_SECONDS", 0.0)
    make_days(engine, OLD, NEW)
    change(engine, "CREATE TABLE everything_else PARTITION OF portfolio_days DEFAULT")
    with engine.begin() as reader:
        reader.execute(text("SELECT count(*) FROM portfolio_days"))
        assert drop_all(engine) == [False]
    assert drop_all(engine) == [True]
    assert partitions(engine) == ["everything_else", day_partition(NEW).name]


def test_partitions_are_made_ahead_while_others_are_at_work_and_left_where_they_hold_the_locks(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.partitions._PAUSE_SECONDS", 0.0)
    with engine.begin() as busy:
        busy.execute(text("LOCK TABLE trades IN ROW EXCLUSIVE MODE"))
        busy.execute(text("LOCK TABLE portfolio_days IN SHARE UPDATE EXCLUSIVE MODE"))
        made = ensure_ahead(engine, now=NOW)
        assert [name for name in made if name.startswith("portfolio_days")] == []
        assert len([name for name in made if name.startswith("trades")]) == 3
    assert len(ensure_ahead(engine, now=NOW)) == 8
    assert ensure_ahead(engine, now=NOW) == []


def test_months_of_ticks_go_when_the_newest_price_is_that_far_ahead(engine: Engine) -> None:
    with engine.begin() as connection:
        ensure_month_partitions(connection, "price_ticks", [date(2021, 10, 1), date(2021, 11, 1), date(2021, 12, 1)])
        ensure_month_partitions(connection, "trades", [date(2021, 10, 1)])
    change(engine, "INSERT INTO assets (id, symbol) OVERRIDING SYSTEM VALUE VALUES (1, 'BTC')")
    newest = "INSERT INTO latest_prices (asset_id, ts, price, source) VALUES (1, :ts, 1, 'test')"
    change(engine, newest, ts=NOW - timedelta(days=100))
    before = partitions(engine, "price_ticks")
    maintain(engine, now=NOW, settings=settings())
    assert set(before) <= set(partitions(engine, "price_ticks"))
    # 400 days before 29 December 2022 is 24 November 2021.
    change(engine, "UPDATE latest_prices SET ts = :ts", ts=NOW)
    assert maintain(engine, now=NOW, settings=settings()).dropped == ["price_ticks_202110"]
    assert "trades_202110" in partitions(engine, "trades")


def test_maintenance_gives_way_to_a_night_and_is_alone(fresh: Engine) -> None:
    night = Night(fresh, settings())
    night.plan(LAST_SAMPLE_DAY)
    did = maintain(fresh, now=NOW, settings=settings())
    assert did.made != []
    assert did.stopped == "a night is at work"
    with fresh.connect() as other:
        other.execute(text("SELECT pg_advisory_lock(:key)"), {"key": 0x4E53_4D41_494E})
        assert maintain(fresh, now=NOW, settings=settings()).stopped == "another maintenance is at work"
    assert scalar(fresh, "SELECT last_result FROM beat_ticks WHERE name = 'maintain'").endswith("a night is at work")


def test_what_will_not_change_any_more_is_frozen(engine: Engine) -> None:
    sample_world(engine, 30, start=LAST_SAMPLE_DAY - timedelta(days=5), spread_days=1)
    Night(engine, settings()).run(LAST_SAMPLE_DAY)
    settled = [day_partition(LAST_SAMPLE_DAY - timedelta(days=back)).name for back in (5, 4, 3, 2)]
    did = maintain(engine, now=NOW, settings=settings())
    assert did.frozen == settled
    query = "SELECT count(*) FROM pg_class WHERE relname = ANY(:names) AND relallfrozen = relpages AND relpages > 0"
    assert scalar(engine, query, names=settled) == len(settled)

    def nothing_left() -> bool:
        # What was counted before the vacuum may be reported after it.
        return maintain(engine, now=NOW, settings=settings()).frozen == []

    assert wait_until(nothing_left, what="frozen partitions to be seen as such")
    change(engine, f"UPDATE {settled[0]} SET nights = nights")
    assert wait_until(
        lambda: settled[0] in maintain(engine, now=NOW, settings=settings()).frozen, what="a changed partition"
    )


def history_of_runs(engine: Engine, number: int) -> None:
    """Nights of two batches, one of which was divided, and a reprocess."""
    for run in range(1, number + 1):
        kind = "reprocess" if run % 5 == 0 else "nightly"
        ended = NOW - timedelta(days=200 - run)
        change(
            engine,
            "INSERT INTO runs (id, kind, first_day, day, status, scope, requested_by, batch_users, users, started_at,"
            " finished_at) OVERRIDING SYSTEM VALUE"
            " VALUES (:id, :kind, :day, :day, 'done', '{}', 'beat', 10, 20, :at, :at)",
            id=run, kind=kind, day=ended.date(), at=ended,
        )  # fmt: skip
        for seq, status in enumerate(("split", "done", "done")):
            change(
                engine,
                "INSERT INTO batches (run_id, seq, user_lo, user_hi, users, status, attempts, publications, queued_at,"
                " started_at, finished_at, timings) VALUES (:run, :seq, 1, 11, 10, :status, 1, 2, :at,"
                " CAST(:at AS timestamptz) + interval '0.1 s', CAST(:at AS timestamptz) + :took, '{\"read\": 0.1}')",
                run=run, seq=seq, status=status, at=ended, took=timedelta(seconds=0.1 * run, microseconds=run),
            )  # fmt: skip
        if kind == "reprocess":
            change(
                engine,
                "INSERT INTO run_simulations (run_id, user_id, simulation_id, first_day)"
                " VALUES (:run, 1, 1, :day), (:run, 2, 2, :day)",
                run=run, day=ended.date(),
            )  # fmt: skip


def test_old_runs_become_one_row_and_no_counter_goes_back(engine: Engine) -> None:
    history_of_runs(engine, 60)
    patient = BatchHistory()

    def seen(history: BatchHistory) -> object:
        with session_scope(engine) as session:
            return history.read(session)

    before = seen(patient)
    with session_scope(engine) as session:
        shown = list_runs(session, NOW, limit=60)
    change(
        engine,
        "INSERT INTO quarantine (user_id, day, reason, detail) VALUES (2, '2022-07-01', 'worker_lost', 'a test')",
    )
    did = maintain(engine, now=NOW, settings=settings(keep_run_days=150))
    # Runs end on the days 199, 198, … before: those of the newest twenty stay, and those that are not old enough.
    assert did.summarised == 40
    assert did.deleted["batches"] == 120
    assert scalar(engine, "SELECT count(*) FROM batches") == 60
    assert seen(patient) == before
    assert seen(BatchHistory()) == before
    with session_scope(engine) as session:
        assert list_runs(session, NOW, limit=60) == shown
    # A whole user in quarantine is owed what was done for others.
    named = "SELECT run_id, user_id FROM run_simulations WHERE run_id <= 40 ORDER BY 1"
    assert rows(engine, named) == [(run, 2) for run in range(5, 41, 5)]
    change(engine, "UPDATE quarantine SET cleared_at = now()")
    assert maintain(engine, now=NOW, settings=settings(keep_run_days=150)).summarised == 0
    assert rows(engine, named) == []
    assert maintain(engine, now=NOW + timedelta(days=300), settings=settings()).summarised == 0


def test_a_scrape_beside_maintenance_sees_no_run_twice_and_none_missing(engine: Engine) -> None:
    history_of_runs(engine, 60)
    histories = [BatchHistory() for _ in range(3)]
    seen: list[object] = []
    stop = threading.Event()

    def scrape() -> None:
        while not stop.is_set():
            for history in (*histories, BatchHistory()):
                with session_scope(engine) as session:
                    session.connection(execution_options={"isolation_level": "REPEATABLE READ"})
                    seen.append(history.read(session))

    reader = threading.Thread(target=scrape)
    reader.start()
    try:
        wait_until(lambda: len(seen) > 3, what="a first scrape")
        maintain(engine, now=NOW, settings=settings())
        last = len(seen)
        wait_until(lambda: len(seen) > last + 4, what="a scrape after it")
    finally:
        stop.set()
        reader.join()
    assert scalar(engine, "SELECT count(*) FROM batches") == 60
    assert all(one == seen[0] for one in seen)


def test_rows_that_are_of_no_use_go_and_what_others_go_on_from_stays(engine: Engine) -> None:
    old = NOW - timedelta(days=100)
    for number, sent in enumerate((old, None, NOW)):
        change(
            engine,
            "INSERT INTO outbox (kind, key, payload, created_at, sent_at)"
            " VALUES ('run_finished', :key, '{}', :at, :sent)",
            key=str(number), at=old, sent=sent,
        )  # fmt: skip
    change(engine, "INSERT INTO outbox (kind, key, payload, created_at, given_up_at)"
           " VALUES ('digest', 'given up', '{}', :at, :at)", at=old)  # fmt: skip
    for day, status in ((0, "failed"), (1, "done"), (2, "done"), (3, "failed")):
        start = old + timedelta(days=day)
        change(
            engine,
            "INSERT INTO price_windows (source, starts_at, status, finished_at) VALUES ('binance', :at, :status, :at)",
            at=start, status=status,
        )  # fmt: skip
        change(
            engine,
            "INSERT INTO price_chunks (source, kind, first, last, seq, asset_ids, status) VALUES"
            " ('binance', 'closes', :at, :at + interval '1 day', 0, '{1}', :status)",
            at=start, status=status,
        )  # fmt: skip
    history_of_runs(engine, 60)
    for run in (5, 60):
        change(engine, "INSERT INTO portfolio_revisions (run_id, user_id, simulation_id, first_changed_day, last_day)"
               " VALUES (:run, 1, 1, '2022-01-01', '2022-01-01')", run=run)  # fmt: skip
    chosen = settings(keep_revision_days=150)
    expected = {"outbox": 2, "price_windows": 2, "price_chunks": 3, "portfolio_revisions": 1}
    look = due(engine, now=NOW, settings=chosen)
    assert look.expired == expected
    assert look.summarise == 40
    did = maintain(engine, now=NOW, settings=chosen)
    assert {table: did.deleted[table] for table in expected} == expected
    assert rows(engine, "SELECT key FROM outbox ORDER BY id") == [("1",), ("2",)]
    # Planning goes on from the newest window and from the newest closes that were asked for.
    assert rows(engine, "SELECT status FROM price_windows ORDER BY starts_at") == [("done",), ("failed",)]
    assert rows(engine, "SELECT status FROM price_chunks") == [("failed",)]
    assert rows(engine, "SELECT run_id FROM portfolio_revisions") == [(60,)]


def test_the_command_says_what_it_would_do_and_does_it(
    database: str, engine: Engine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("NIGHTSHIFT_DATABASE_URL", database)
    monkeypatch.setenv("NIGHTSHIFT_KEEP_DAYS", "7")
    shell = Shell(capsys)
    sample_world(engine, 20, start=LAST_SAMPLE_DAY - timedelta(days=9), spread_days=1)
    Night(engine, settings()).run(LAST_SAMPLE_DAY)
    going = [day_partition(LAST_SAMPLE_DAY - timedelta(days=back)).name for back in (9, 8, 7)]
    looked = shell.ok("maintain", "--dry-run", "--json").json
    assert [one["name"] for one in looked["drop"]] == going
    assert looked["horizon"]["possible"] == str(LAST_SAMPLE_DAY - timedelta(days=6))
    assert "portfolio_days" in shell.ok("maintain", "--dry-run").out
    assert set(going) < set(partitions(engine))
    did = shell.ok("maintain", "--json").json
    assert did["dropped"] == going
    assert not set(going) & set(partitions(engine))
    table = shell.ok("maintain")
    assert table.err.startswith("every day from 2022-12-22 on is kept")


def test_what_is_not_a_lock_is_not_swallowed(engine: Engine) -> None:
    make_days(engine, OLD)
    change(engine, "DROP TABLE partition_drops")
    with engine.connect() as connection, pytest.raises(ProgrammingError, match="partition_drops"):
        partitions_to_drop(connection, KEPT, NEVER)
    going = Going(day_partition(OLD).name, "portfolio_days", 0)
    with pytest.raises(ProgrammingError, match="partition_drops"):
        drop_partition(engine, going, now=NOW)
    assert partitions(engine) == [going.name]
