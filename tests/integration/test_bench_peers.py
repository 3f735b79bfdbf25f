"""`nightshift bench peers`: a tiny run agrees with Nightshift, and one in which a peer errs by a tick does not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import pytest
from sqlalchemy import Engine, text
from sqlalchemy.orm import Session

from benchmarks.peers import ledger, measure, strategies
from benchmarks.peers.money import afford
from benchmarks.peers.nights import advance_user, advance_users, load_night
from benchmarks.peers.orm import make_peer_engine
from benchmarks.peers.tables import check_same, digest_of_users, make_peer_tables
from core.database import make_engine
from core.errors import NightshiftError
from services.digest import digest_of_day
from tests.support.cli import Shell
from tests.support.database import new_database
from tests.support.nights import FIRST_NIGHT, Night, sample_world, settings
from workers.embedded import ServerUrls

USERS, COMPARED, ONE_BY_ONE = 90, 60, 20
SPREAD = {"min", "median", "max"}
MEASURED = {
    "nightshift_users_per_second", "task_per_user_users_per_second", "task_per_100_users_users_per_second",
    "empty_tasks_per_second", "ratio_to_task_per_user", "ratio_to_task_per_100_users", "ratio_to_empty_tasks",
}  # fmt: skip
DAYS = [FIRST_NIGHT + timedelta(days=number) for number in range(8)]
A_TRADE = "(day, user_id, asset_id) = (SELECT day, user_id, asset_id FROM trades ORDER BY 1, 2, 3 LIMIT 1)"
A_ROW = "(day, user_id) = (SELECT max(day), 7 FROM portfolio_days)"
BENCH = ("bench", "peers", "--users", 60, "--peer-users", 40, "--nights", 1, "--workers", 1, "--json")


@pytest.fixture
def shell(capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(capsys)


def test_a_tiny_run_measures_everything_and_agrees_with_nightshift(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared = []

    def check(url: str, schema: str, users: int) -> None:
        check_same(url, schema, users)
        compared.append((schema, users))

    monkeypatch.setattr(measure, "check_same", check)

    result = shell.ok(*BENCH).json

    assert compared == [("peer_user", 40), ("peer_users", 60)]
    assert (result["users"], result["peer_users"], result["peer_users_by_100"]) == (60, 40, 60)
    assert result["digests_equal"] is True
    assert len(result["digest"]) == 16
    assert set(result) >= MEASURED
    for name in MEASURED:
        assert set(result[name]) == SPREAD
        assert 0 < result[name]["min"] <= result[name]["median"] <= result[name]["max"], name


def test_a_measurement_of_nothing_is_refused(shell: Shell) -> None:
    assert "peer-users" in shell.refused("bench", "peers", "--peer-users", 0)
    assert "nights" in shell.refused("bench", "peers", "--nights", 0)


@pytest.fixture(scope="module")
def nights(servers: ServerUrls) -> Iterator[str]:
    """The URL of a database with some nights of Nightshift's."""
    with new_database(servers.database_url, "peers") as url:
        engine = make_engine(url)
        sample_world(engine, USERS, start=FIRST_NIGHT, spread_days=3)
        Night(engine, settings(50)).run(DAYS[-1], each=True)
        engine.dispose()
        yield url


@contextmanager
def advanced(database: str, schema: str) -> Iterator[Engine]:
    """An engine on the tables of a peer that has done the same nights, some users one by one, others at once."""
    make_peer_tables(database, schema, DAYS)
    peer = make_peer_engine(database, schema)
    try:
        for day in DAYS:
            with Session(peer) as session, session.begin():
                night = load_night(session, day, settings().max_stale_days)
                for user in range(1, ONE_BY_ONE + 1):
                    advance_user(session, night, user)
                advance_users(session, night, ONE_BY_ONE + 1, COMPARED)
        yield peer
    finally:
        peer.dispose()


def test_a_peer_that_errs_by_one_tick_is_found(nights: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def less(budget: int, price: int, fee_ppm: int) -> int:
        return afford(budget, price, fee_ppm) - 1

    for module in (ledger, strategies):
        monkeypatch.setattr(module, "afford", less)
    with (
        advanced(nights, "erring"),
        pytest.raises(NightshiftError, match="erring computed something else than Nightshift: portfolio_days of"),
    ):
        check_same(nights, "erring", COMPARED)


def test_any_difference_in_rows_or_trades_is_found(nights: str) -> None:
    with advanced(nights, "peer") as peer:
        check_same(nights, "peer", COMPARED)
        digests = [digest_of_users(nights, schema, COMPARED, DAYS[-1]) for schema in ("peer", "public")]
        assert digests == [digest_of_day(peer, DAYS[-1]).digest] * 2
        find_what_is_changed(nights, peer)


def find_what_is_changed(database: str, peer: Engine) -> None:
    """A tick, or a row, of a table that agrees."""

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
