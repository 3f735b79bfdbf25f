"""The examples of docs/reprocessing.md, as they stand there: each mends what it is for, on real workers."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from datetime import date
from decimal import Decimal
from pathlib import Path

import pytest
from sqlalchemy import Engine

from core.database import make_engine
from tests.support.cli import Shell
from tests.support.corrections import close_of, contents
from tests.support.database import new_database
from tests.support.nights import LAST_SAMPLE_DAY, ROOT, Night, change, rows, sample_world, scalar, settings
from tests.support.workers import System, quick
from workers.embedded import ServerUrls

USERS = 200
PAGE = (ROOT / "docs" / "reprocessing.md").read_text(encoding="utf-8")
TAMPER = "UPDATE portfolio_days SET equity = equity + 1, cash = cash + 1 WHERE day >= :day AND "


@pytest.fixture(scope="module")
def system(servers: ServerUrls, tmp_path_factory: pytest.TempPathFactory) -> Iterator[System]:
    """A month of nights, and a group of workers that is at work."""
    home = tmp_path_factory.mktemp("examples")
    with new_database(servers.database_url, "examples") as url:
        engine = make_engine(url)
        try:
            sample_world(engine, USERS)
            Night(engine, settings(100)).run(LAST_SAMPLE_DAY)
            system = System(engine, ServerUrls(url, servers.redis_url), quick(home, 100))
            with system.worker():
                yield system
        finally:
            engine.dispose()


@pytest.fixture
def shell(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, system: System) -> Shell:
    """Works with the servers of the system."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NIGHTSHIFT_HOME", str(tmp_path))
    monkeypatch.setenv("NIGHTSHIFT_DATABASE_URL", system.urls.database_url)
    monkeypatch.setenv("NIGHTSHIFT_REDIS_URL", system.urls.redis_url)
    return Shell(capsys)


def example(title: str) -> list[tuple[str, str]]:
    """The blocks of an example, in order: their language and their lines."""
    section = PAGE.split(f"### {title}\n")[1].split("\n#")[0]
    return re.findall(r"```(sql|sh)\n(.*?)```", section, re.DOTALL)


def execute(title: str, engine: Engine, shell: Shell) -> None:
    """Do what the page says; every command must succeed."""
    blocks = example(title)
    assert blocks
    for language, block in blocks:
        if language == "sql":
            change(engine, block)
        else:
            for line in block.splitlines():
                name, *arguments = shlex.split(line)
                assert name == "nightshift"
                shell.ok(*arguments)


def test_a_corrected_close(system: System, shell: Shell) -> None:
    asset, day = scalar(system.engine, "SELECT id FROM assets WHERE symbol = 'XOM'"), date(2022, 12, 5)
    before, close = contents(system.engine), close_of(system.engine, asset, day)
    execute("A corrected close", system.engine, shell)
    assert close_of(system.engine, asset, day) == Decimal("107.25")
    assert contents(system.engine) != before
    shell.ok("prices", "correct", "XOM", day, close, "--reason", "it did not", "--wait")
    assert contents(system.engine) == before


def test_a_fixed_strategy_parameter(system: System, shell: Shell) -> None:
    before = contents(system.engine)
    wrong = "UPDATE simulations SET params[6] = 2 WHERE strategy = 4 AND params[6] = 20"
    change(system.engine, wrong)
    shell.ok("reprocess", "--from", "2022-12-05", "--strategy", "sma_cross", "--reason", "a mistake", "--wait")
    assert contents(system.engine) != before
    execute("A fixed strategy parameter", system.engine, shell)
    assert contents(system.engine) == before


@pytest.mark.parametrize(
    ("title", "whose", "day"),
    [
        ("One user", "user_id = 19", "2022-12-05"),
        ("All of a strategy", "simulation_id IN (SELECT id FROM simulations WHERE strategy = 5)", "2022-12-12"),
        ("A whole month after a bad deploy", "true", "2022-11-29"),
    ],
)
def test_whatever_was_written_wrong_is_replaced(system: System, shell: Shell, title: str, whose: str, day: str) -> None:
    before = contents(system.engine)
    change(system.engine, TAMPER + whose, day=day)
    assert contents(system.engine) != before
    execute(title, system.engine, shell)
    assert contents(system.engine) == before


def test_quarantined_users(system: System, shell: Shell) -> None:
    before = contents(system.engine)
    for user, simulation in rows(
        system.engine, "SELECT user_id, id FROM simulations WHERE id % 20 = 7 AND start_day < '2022-12-20'"
    ):
        for table in ("portfolio_days", "trades"):
            change(
                system.engine, f"DELETE FROM {table} WHERE simulation_id = :id AND day >= '2022-12-20'", id=simulation
            )
        change(
            system.engine,
            "INSERT INTO quarantine (user_id, simulation_id, day, reason, detail)"
            " VALUES (:user, :id, '2022-12-20', 'malformed', '')",
            user=user, id=simulation,
        )  # fmt: skip
    execute("Quarantined users", system.engine, shell)
    assert contents(system.engine) == before
