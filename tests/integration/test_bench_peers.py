"""`nightshift bench peers`: a tiny run agrees with Nightshift, and one in which a peer errs by a tick does not."""

from __future__ import annotations

import os
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.orm import Session

from benchmarks.peers.nights import advance_user, advance_users, load_night
from benchmarks.peers.orm import make_peer_engine
from benchmarks.peers.tables import check_same, digest_of_users, make_peer_tables
from core.errors import NightshiftError
from services.digest import digest_of_day
from tests.support.cli import ROOT, Shell
from tests.support.nights import FIRST_NIGHT, Night, sample_world, settings

USERS, COMPARED, ONE_BY_ONE = 90, 60, 20
SPREAD = {"min", "median", "max"}
MEASURED = {
    "nightshift_users_per_second", "task_per_user_users_per_second", "task_per_100_users_users_per_second",
    "empty_tasks_per_second", "ratio_to_task_per_user", "ratio_to_task_per_100_users", "ratio_to_empty_tasks",
}  # fmt: skip
A_TRADE = "(day, user_id, asset_id) = (SELECT day, user_id, asset_id FROM trades ORDER BY 1, 2, 3 LIMIT 1)"
A_ROW = "(day, user_id) = (SELECT max(day), 7 FROM portfolio_days)"
BENCH = ("bench", "peers", "--users", 60, "--peer-users", 40, "--nights", 1, "--workers", 1, "--json")


@pytest.fixture
def shell(capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(capsys)


def test_a_tiny_run_measures_everything_and_agrees_with_nightshift(shell: Shell) -> None:
    result = shell.ok(*BENCH).json

    assert (result["users"], result["peer_users"], result["peer_users_by_100"]) == (60, 40, 60)
    assert result["digests_equal"] is True
    assert len(result["digest"]) == 16
    assert set(result) >= MEASURED
    for name in MEASURED:
        assert set(result[name]) == SPREAD
        assert 0 < result[name]["min"] <= result[name]["median"] <= result[name]["max"], name


def test_a_peer_that_errs_by_one_tick_is_found(shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Python runs it at the start of every process, so also of the peers' worker; nobody else uses this function.
    (tmp_path / "sitecustomize.py").write_text(
        "import benchmarks.peers.money as money\n"
        "exact = money.afford\n"
        "money.afford = lambda budget, price, fee_ppm: exact(budget, price, fee_ppm) - 1\n"
    )
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), str(ROOT)]))

    outcome = shell("bench", "peers", "--users", 50, "--nights", 1, "--workers", 1)

    assert (outcome.code, outcome.out) == (1, "")
    assert "peer_user computed something else than Nightshift: portfolio_days of" in outcome.err


def test_a_measurement_of_nothing_is_refused(shell: Shell) -> None:
    assert "peer-users" in shell.refused("bench", "peers", "--peer-users", 0)
    assert "nights" in shell.refused("bench", "peers", "--nights", 0)


def test_any_difference_in_rows_or_trades_is_found(engine: Engine, database: str) -> None:
    sample_world(engine, USERS, start=FIRST_NIGHT, spread_days=3)
    days = [FIRST_NIGHT + timedelta(days=number) for number in range(8)]
    Night(engine, settings(50)).run(days[-1], each=True)
    make_peer_tables(database, "peer", days)
    peer = make_peer_engine(database, "peer")
    for day in days:
        with Session(peer) as session, session.begin():
            night = load_night(session, day, settings().max_stale_days)
            for user in range(1, ONE_BY_ONE + 1):
                advance_user(session, night, user)
            advance_users(session, night, ONE_BY_ONE + 1, COMPARED)

    check_same(database, "peer", COMPARED)
    digests = [digest_of_users(database, schema, COMPARED, days[-1]) for schema in ("peer", "public")]
    assert digests == [digest_of_day(peer, days[-1]).digest] * 2

    def change(statement: str) -> None:
        with peer.begin() as connection:
            assert connection.execute(text(statement)).rowcount == 1

    for table, column, where in (("trades", "realised", A_TRADE), ("portfolio_days", "peak", A_ROW)):
        change(f"UPDATE {table} SET {column} = {column} + 1 WHERE {where}")
        with pytest.raises(NightshiftError, match=f"peer computed something else than Nightshift: {table} of"):
            check_same(database, "peer", COMPARED)
        change(f"UPDATE {table} SET {column} = {column} - 1 WHERE {where}")
        check_same(database, "peer", COMPARED)
    for table, where in (("trades", A_TRADE), ("portfolio_days", A_ROW)):
        change(f"DELETE FROM {table} WHERE {where}")
        with pytest.raises(NightshiftError, match=f"{table} of"):
            check_same(database, "peer", COMPARED)
    peer.dispose()
