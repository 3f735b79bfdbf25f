"""What a run changed is on record, exact to the tick, and what shows newest or best follows it."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

from core.database import make_engine, session_scope
from services import batches, leaderboards
from services.completion import finish_runs
from services.digest import digest_of_day
from services.leaderboards import make_missing_boards
from services.reprocessing import retry_quarantined
from services.runs import cancel_run
from tests.support.cli import Shell
from tests.support.corrections import LAST, OWNERS, assert_same, close_of, correct, finish, status
from tests.support.database import new_database
from tests.support.nights import FIRST_NIGHT, Night, change, rows, scalar, settings
from workers.embedded import ServerUrls

ASSET, OTHER = 1, 2
MIDDLE = FIRST_NIGHT + timedelta(days=3)
REVISIONS = (
    "SELECT simulation_id, user_id, first_changed_day, last_day, old_equity, new_equity FROM portfolio_revisions"
    " WHERE run_id = :run ORDER BY simulation_id"
)
BOARDS = "SELECT day, simulation_id, user_id, equity, return_ppm FROM leaderboard_entries ORDER BY day, rank"
# Whole numbers of a division that knows nothing of ours.
BEST = """
SELECT day, simulation_id, user_id, equity, ppm FROM (
    SELECT p.*, ppm, row_number() OVER (PARTITION BY day ORDER BY ppm DESC, simulation_id) AS place
    FROM portfolio_days p JOIN simulations s ON s.id = p.simulation_id,
        LATERAL (SELECT floor(p.equity * 1000000::numeric / s.initial_cash)::bigint - 1000000 AS ppm) AS r
) AS ranked
WHERE place <= 100 ORDER BY day, place
"""
Equities = dict[tuple[int, int], dict[date, int]]
Revision = tuple[int, int, date, date, int | None, int | None]


@pytest.fixture(scope="module")
def nights(servers: ServerUrls, world: str) -> Iterator[str]:
    """The name of a database after eight nights, each of a run."""
    with new_database(servers.database_url, "night_eight", template=world) as url:
        engine = make_engine(url)
        Night(engine, settings(100)).run(LAST, each=True)
        engine.dispose()
        yield "night_eight"


@pytest.fixture
def night(servers: ServerUrls, nights: str, request: pytest.FixtureRequest) -> Iterator[Night]:
    """Whose closes are corrected after eight nights used them."""
    name = f"wrong_{abs(hash(request.node.nodeid)) % 10**9}"
    with new_database(servers.database_url, name, template=nights) as url:
        engine = make_engine(url)
        yield Night(engine, settings(100))
        engine.dispose()


@pytest.fixture
def right(servers: ServerUrls, world: str, request: pytest.FixtureRequest) -> Iterator[Night]:
    """Whose closes can be made right before its nights."""
    name = f"right_{abs(hash(request.node.nodeid)) % 10**9}"
    with new_database(servers.database_url, name, template=world) as url:
        engine = make_engine(url)
        yield Night(engine, settings(5000))
        engine.dispose()


def equities(engine: Engine) -> Equities:
    """A copy of every equity, by user and simulation, and day."""
    found: Equities = {}
    for user, simulation, day, equity in rows(engine, "SELECT user_id, simulation_id, day, equity FROM portfolio_days"):
        found.setdefault((user, simulation), {})[day] = equity
    return found


def slowly(before: Equities, after: Equities) -> list[Revision]:
    """The revisions between two copies."""
    found: list[Revision] = []
    for user, simulation in before.keys() | after.keys():
        old, new = (copy.get((user, simulation), {}) for copy in (before, after))
        changed = [day for day in old.keys() | new.keys() if old.get(day) != new.get(day)]
        if changed:
            last = max(old.keys() | new.keys())
            found.append((simulation, user, min(changed), last, old.get(last), new.get(last)))
    return sorted(found)


def revisions(night: Night, run: int | None) -> list[tuple[Any, ...]]:
    """What is on record."""
    return rows(night.engine, REVISIONS, run=run)


def retry(night: Night) -> int | None:
    """Whoever is in quarantine."""
    with session_scope(night.engine) as session:
        run = retry_quarantined(session, reason="mended", requested_by="tester", now=night.now, settings=night.settings)
    finish(night)
    return run


def test_every_run_has_what_it_changed_on_record(night: Night) -> None:
    for asset, day, factor in ((ASSET, MIDDLE, 3), (OTHER, LAST, Decimal("0.5")), (ASSET, MIDDLE, Decimal("1.001"))):
        before = equities(night.engine)
        run = correct(night, asset, day, (close_of(night.engine, asset, day) * factor).quantize(Decimal("1e-8"))).run
        finish(night)
        expected = slowly(before, equities(night.engine))
        assert revisions(night, run) == expected
        assert (
            20 < len(expected) <= scalar(night.engine, "SELECT count(*) FROM run_simulations WHERE run_id = :r", r=run)
        )
        assert {first for _, _, first, *_ in expected} >= {day}


def test_a_run_that_changes_nothing_leaves_nothing(night: Night) -> None:
    before, boards = equities(night.engine), rows(night.engine, BOARDS)
    old = close_of(night.engine, ASSET, MIDDLE)
    runs = [correct(night, ASSET, MIDDLE, price).run for price in (7, old)]
    finish(night)
    assert [status(night, run) for run in runs] == ["done", "done"]
    assert scalar(night.engine, "SELECT sum(rows) FROM runs WHERE id = ANY(:runs)", runs=runs) > 0
    assert equities(night.engine) == before
    assert scalar(night.engine, "SELECT count(*) FROM portfolio_revisions") == 0
    assert rows(night.engine, BOARDS) == boards


def test_who_appears_and_who_is_gone(fresh: Engine) -> None:
    """First nobody has a close of the asset; then the closes come; at last somebody's strategy is unknown."""
    night = Night(fresh, settings(100))
    change(fresh, "CREATE TABLE away AS SELECT * FROM closes WHERE asset_id = :asset", asset=ASSET)
    change(fresh, "DELETE FROM closes WHERE asset_id = :asset", asset=ASSET)
    night.run(LAST, each=True)
    before = equities(fresh)
    change(fresh, "INSERT INTO closes SELECT * FROM away")
    run = retry(night)
    healed = equities(fresh)
    assert revisions(night, run) == slowly(before, healed)
    assert len(healed) - len(before) == len(revisions(night, run)) > 20
    assert {(last, old) for *_, last, old, _ in revisions(night, run)} == {(LAST, None)}

    (lost,) = rows(fresh, OWNERS + " ORDER BY id LIMIT 1", asset=ASSET, day=FIRST_NIGHT)[0]
    change(fresh, "UPDATE simulations SET strategy = 999 WHERE id = :id", id=lost)
    run = correct(night, ASSET, MIDDLE, 7).run
    finish(night)
    found = revisions(night, run)
    assert found == slowly(healed, equities(fresh))
    assert [(simulation, first, last) for simulation, _, first, last, _, new in found if new is None] == [
        (lost, MIDDLE, LAST)
    ]
    payload = scalar(fresh, "SELECT payload FROM outbox WHERE key = :key", key=f"run:{run}:done")
    assert (payload["quarantined"], payload["changed"]) == (1, len(found))
    make_missing_boards(fresh)
    assert rows(fresh, BOARDS) == rows(fresh, BEST)


def test_a_batch_that_is_tried_again_is_on_record_once(night: Night, monkeypatch: pytest.MonkeyPatch) -> None:
    before = equities(night.engine)
    run = correct(night, ASSET, MIDDLE, 7).run
    night.publish()
    with monkeypatch.context() as patch:
        patch.setattr(batches, "_complete", _die)
        for message in list(night.queue.messages):
            with pytest.raises(SystemExit):
                night.worker.advance(message.batch_id)
    assert scalar(night.engine, "SELECT count(*) FROM portfolio_revisions") == 0
    night.now += timedelta(minutes=1)
    finish(night)
    assert revisions(night, run) == slowly(before, equities(night.engine)) != []


def _die(*_: object) -> None:
    raise SystemExit


def test_of_a_run_that_was_cancelled_only_what_it_did(night: Night) -> None:
    before = equities(night.engine)
    run = correct(night, ASSET, MIDDLE, 7).run
    assert run is not None
    night.publish()
    night.worker.advance(night.queue.messages.pop(0).batch_id)
    with session_scope(night.engine) as session:
        cancel_run(session, run, night.now)
    finish_runs(night.engine, now=night.now)
    assert status(night, run) == "cancelled"
    found = revisions(night, run)
    assert found == slowly(before, equities(night.engine)) != []
    (done,) = rows(
        night.engine, "SELECT user_lo, user_hi FROM batches WHERE run_id = :run AND status = 'done'", run=run
    )
    assert all(done[0] <= user < done[1] for _, user, *_ in found)
    make_missing_boards(night.engine)
    assert rows(night.engine, BOARDS) == rows(night.engine, BEST)


@pytest.mark.parametrize(
    ("factor", "lookups"),
    [(Decimal(30), 20_000), (Decimal("0.5"), 20_000), (Decimal("0.5"), 300), (Decimal("0.5"), 0)],
    ids=["up, all looked up", "down, all looked up", "down, some", "down, none"],
)
def test_leaderboards_are_those_of_a_history_that_was_right_from_the_start(
    night: Night, right: Night, factor: Decimal, lookups: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leaderboards, "_MOST_LOOKUPS", lookups)
    wrong = rows(night.engine, BOARDS)
    price = (close_of(night.engine, ASSET, MIDDLE) * factor).quantize(Decimal("1e-8"))
    correct(right, ASSET, MIDDLE, price)
    right.run(LAST, each=True)
    correct(night, ASSET, MIDDLE, price)
    finish(night)
    expected = rows(right.engine, BOARDS)
    assert expected != wrong
    # The newest at once; no other is wrong, but may be away for a while.
    boards = {day: [row for row in rows(night.engine, BOARDS) if row[0] == day] for day, *_ in expected}
    for day, board in boards.items():
        assert board == [row for row in expected if row[0] == day] or (day < LAST and board == [])
    missing = sum(not board for board in boards.values())
    assert make_missing_boards(night.engine, 60) == missing
    assert make_missing_boards(night.engine, 60) == 0
    assert rows(night.engine, BOARDS) == expected == rows(right.engine, BEST)


def test_a_night_that_ends_after_its_day_was_done_again(fresh: Engine, right: Night) -> None:
    """Half of its batches are before the correction, and say what is no more."""
    night = Night(fresh, settings(100))
    night.run(LAST - timedelta(days=1), each=True)
    night.plan(LAST)
    night.publish()
    for _ in range(len(night.queue.messages) // 2):
        night.worker.advance(night.queue.messages.pop(0).batch_id)
    price = close_of(fresh, ASSET, MIDDLE) * 30
    correct(right, ASSET, MIDDLE, price)
    right.run(LAST, each=True)
    correct(night, ASSET, MIDDLE, price)
    night.publish()
    # What was published last goes first.
    night.queue.messages.reverse()
    finish(night)
    make_missing_boards(fresh, 60)
    assert_same(fresh, right.engine)
    assert rows(fresh, BOARDS) == rows(right.engine, BOARDS)


def test_a_digest_says_who_has_done_the_day_again(night: Night) -> None:
    told = {day: f"{digest % 2**64:016x}" for day, digest in rows(night.engine, "SELECT day, digest FROM runs")}
    run = correct(night, ASSET, MIDDLE, 7).run
    finish(night)
    for day, digest in told.items():
        found = digest_of_day(night.engine, day)
        assert (found.digest == digest) == (day < MIDDLE)
        assert found.reprocessed_by == (() if day < MIDDLE else (run,))
    night.now += timedelta(hours=1)
    night.run(LAST + timedelta(days=1))
    assert digest_of_day(night.engine).reprocessed_by == ()


@pytest.fixture
def shell(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, night: Night, redis_url: str
) -> Shell:
    """Works with the test's servers."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NIGHTSHIFT_HOME", str(tmp_path / "home"))
    url = night.engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
    monkeypatch.setenv("NIGHTSHIFT_DATABASE_URL", url)
    monkeypatch.setenv("NIGHTSHIFT_REDIS_URL", redis_url)
    return Shell(capsys)


def test_the_command_shows_and_exports_what_changed(shell: Shell, night: Night, tmp_path: Path) -> None:
    (lost,) = rows(night.engine, OWNERS + " ORDER BY id LIMIT 1", asset=ASSET, day=FIRST_NIGHT)[0]
    change(night.engine, "UPDATE simulations SET strategy = 999 WHERE id = :id", id=lost)
    run = correct(night, ASSET, MIDDLE, 7).run
    finish(night)
    expected = {row[0]: row for row in revisions(night, run)}
    scope = scalar(night.engine, "SELECT count(*) FROM run_simulations WHERE run_id = :run", run=run)
    together = sum(new - old for *_, old, new in expected.values() if new is not None)

    document = shell.ok("runs", run, "--changes", "--json", "--limit", 5).json
    assert document["totals"] == {
        "run": run, "status": "done", "changed": len(expected), "appeared": 0, "gone": 1,
        "unchanged": scope - len(expected), "kept": 0, "difference": f"{Decimal(together).scaleb(-8):f}",
    }  # fmt: skip
    assert len(document["changes"]) == 5

    shell.ok("runs", run, "--changes", "--csv", "changes.csv")
    lines = list(csv.DictReader(io.StringIO((tmp_path / "changes.csv").read_text("utf-8"))))
    told = shell.ok("runs", run, "--changes", "--csv", "-")
    assert list(csv.DictReader(io.StringIO(told.out))) == lines
    assert f"{len(expected):,} simulations changed" in told.err
    assert {line["run_id"] for line in lines} == {str(run)}
    assert {int(line["simulation_id"]): _revision(line) for line in lines} == expected
    differences = [abs(Decimal(line["difference"])) for line in lines if line["difference"]]
    assert differences == sorted(differences, reverse=True)
    assert (len(lines) - len(differences), lines[-1]["simulation_id"], lines[-1]["percent"]) == (1, str(lost), "")
    largest = lines[0]
    percent = 100 * Decimal(largest["difference"]) / Decimal(largest["old_equity"])
    assert abs(Decimal(largest["percent"]) - percent) <= Decimal("0.00005")
    assert {name: largest[name] for name in ("old_equity", "difference")} == {
        name: document["changes"][0][name] for name in ("old_equity", "difference")
    }
    table = shell.ok("runs", run, "--changes", "--limit", 1).out
    assert largest["simulation_id"] in table
    assert lines[-1]["user_id"] not in table.split()


def _revision(line: dict[str, str]) -> tuple[Any, ...]:
    """A line as it is on record."""
    days = (date.fromisoformat(line[name]) for name in ("first_changed_day", "last_day"))
    ticks = (int(Decimal(line[name]).scaleb(8)) if line[name] else None for name in ("old_equity", "new_equity"))
    return (int(line["simulation_id"]), int(line["user_id"]), *days, *ticks)


def test_wrong_use_of_changes_is_one_line(shell: Shell, night: Night) -> None:
    nightly = scalar(night.engine, "SELECT max(id) FROM runs")
    for arguments, said in (
        ((nightly, "--changes"), f"run {nightly} is a night"),
        ((99_999, "--changes"), "no run 99999"),
        (("--changes",), "of which run"),
        ((nightly, "--limit", 3), "add --changes"),
        ((nightly, "--csv", "-"), "add --changes"),
        ((nightly, "--changes", "--csv", "-", "--json"), "--csv writes all changes"),
    ):
        assert said in shell.refused("runs", *arguments)
