"""The commands on real servers whose URLs are set: what they print, what they refuse, what they leave undone."""

from __future__ import annotations

import socket
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import Engine, text

from core.database import session_scope
from services.prices import import_closes
from services.seeding import seed
from tests.support.cli import Shell
from workers.server_process import free_port

FIRST = date(2024, 3, 1)
DAYS = 20


@pytest.fixture
def shell(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, database: str, redis_url: str
) -> Shell:
    """Works with a database and a Redis of its own, in an empty directory."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NIGHTSHIFT_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NIGHTSHIFT_DATABASE_URL", database)
    monkeypatch.setenv("NIGHTSHIFT_REDIS_URL", redis_url)
    return Shell(capsys)


@pytest.fixture
def prices(tmp_path: Path) -> Path:
    """Three symbols with a close on each of DAYS days."""
    days = [FIRST + timedelta(days=offset) for offset in range(DAYS)]
    rows = [
        f"{symbol},{day},{10 * number + index}"
        for index, day in enumerate(days)
        for number, symbol in enumerate("ABC", 1)
    ]
    file = tmp_path / "prices.csv"
    file.write_text("\n".join(["symbol,day,close", *rows, ""]))
    return file


@pytest.fixture
def seeded(engine: Engine, prices: Path) -> Engine:
    """Prices, and ten users who begin on the third day."""
    with session_scope(engine) as session:
        import_closes(session, prices, now=datetime(2026, 1, 1, tzinfo=UTC), strict=True)
    seed(engine, users=10, start=FIRST + timedelta(days=2))
    return engine


def test_from_a_file_to_a_planned_night(shell: Shell, prices: Path, engine: Engine) -> None:
    assert shell.ok("prices", "import", prices, "--json").json["inserted"] == 3 * DAYS
    assert shell.ok("prices", "import", prices, "--json").json["unchanged"] == 3 * DAYS
    latest = shell.ok("prices", "latest", "B", "--json").json
    assert (latest["day"], latest["close"]) == ("2024-03-20", "39.00000000")
    assert "39.00000000" in shell.ok("prices", "latest", "B").out
    assert "10 users" in shell.ok("seed", "--users", 10, "--start", "2024-03-03").err
    assert "10 users exist" in shell.refused("seed", "--users", 1)
    shell.ok("seed", "--users", 2, "--append", "--start", "2024-03-03")

    planned = shell.ok("run", "--through", "2024-03-05", "--each", "--json")
    assert [run["day"] for run in planned.json["runs"]] == ["2024-03-03", "2024-03-04", "2024-03-05"]
    assert "no worker answers" in planned.err
    again = shell.ok("run", "--day", "2024-03-05", "--json")
    assert again.json["planned"]
    assert len(again.json["runs"]) == 3
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT count(*) FROM runs")) == 3

    status = shell.ok("status", "--json").json
    assert (status["night"]["day"], status["night"]["users"]) == ("2024-03-03", 12)
    assert status["queues"]["simulations"] == 1
    assert "2024-03-03" in shell.ok("status").out


def test_a_run_is_cancelled_once(shell: Shell, seeded: Engine) -> None:
    shell.ok("run", "--day", "2024-03-03")
    (run,) = shell.ok("runs", "--json").json
    assert run["status"] == "running"
    assert shell.ok("cancel", run["id"], "--json").json["status"] == "cancelled"
    assert "is over (cancelled)" in shell.refused("cancel", run["id"])
    assert [batch["status"] for batch in shell.ok("batches", run["id"], "--json").json] == ["cancelled"]
    assert "cancelled" in shell("run", "--day", "2024-03-03").err
    assert shell("run", "--day", "2024-03-03").code == 1
    with seeded.connect() as connection:
        assert connection.scalar(text("SELECT count(*) FROM runs")) == 1


def test_what_there_is_nothing_of_is_shown_as_nothing(shell: Shell) -> None:
    assert shell.ok("runs", "--json").json == []
    assert shell.ok("quarantine", "--json").json == []
    status = shell.ok("status", "--json").json
    assert (status["night"], status["newest_close"], status["workers"]) == (None, None, [])
    for arguments in (["status"], ["runs"], ["quarantine"], ["schedule"]):
        shell.ok(*arguments)
    assert {line["name"] for line in shell.ok("schedule", "--json").json["schedules"]} >= {"nightly", "tick"}


def test_health_names_what_is_ill(shell: Shell) -> None:
    outcome = shell("health", "--json")
    assert outcome.code == 1
    assert {check["name"]: check["ok"] for check in outcome.json["checks"]} == {
        "database": True, "redis": True, "workers": False, "beat": False, "prices": False,
    }  # fmt: skip
    assert "workers" in outcome.line


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("runs 99", "no run 99"),
        ("batches 99", "no run 99"),
        ("cancel 99", "no run 99"),
        ("report --run 99 --out report.html", "no run 99"),
        ("report --simulation 99 --out report.html", "no simulation 99"),
        ("prices latest NONE", "unknown symbol"),
        ("prices import missing.csv", "missing.csv"),
        ("prices import .", "directory"),
        ("seed --users 1", "no prices"),
        ("run --day 2024-03-05", "no prices"),
        ("db digest", "no portfolio days"),
    ],
)
def test_what_is_unknown_is_refused_in_one_line(shell: Shell, tmp_path: Path, arguments: str, said: str) -> None:
    assert said in shell.refused(*arguments.split())
    assert not (tmp_path / "report.html").exists()


def test_a_night_that_cannot_be_is_refused_and_not_planned(shell: Shell, seeded: Engine) -> None:
    assert "there are no prices on 2024-02-29 or before" in shell.refused("run", "--day", "2024-02-29")
    assert "too old for 2024-03-26" in shell.refused("run", "--day", "2024-03-26")
    assert "too old" in shell.refused("run")
    assert "2024-03-03" in shell.refused("run", "--day", "2024-03-02")
    with seeded.begin() as connection:
        connection.execute(text("INSERT INTO assets (symbol) VALUES ('NOBODYS')"))
        connection.execute(
            text(
                "INSERT INTO closes (day, asset_id, close, source)"
                " SELECT '2024-03-26', id, 1, 'test' FROM assets WHERE symbol = 'NOBODYS'"
            )
        )
    line = shell.refused("run", "--through", "2024-03-26")
    assert "no asset of any simulation has a price from 2024-03-21 to 2024-03-26: their newest prices are of" in line
    with seeded.connect() as connection:
        assert connection.scalar(text("SELECT count(*) FROM runs")) == 0


def test_bad_rows_are_reported_and_the_rest_is_kept(shell: Shell, tmp_path: Path) -> None:
    file = tmp_path / "mixed.csv"
    file.write_text("symbol,day,close\nA,2024-03-01,10\nB,2024-03-01,-1\nC,2024-03-01,NaN\n")
    line = shell("prices", "import", file, "--strict")
    assert line.code == 1
    assert "nothing imported" in line.err
    assert "unknown symbol" in shell.refused("prices", "latest", "A")
    kept = shell.ok("prices", "import", file)
    assert "line 3:" in kept.err
    assert "line 4:" in kept.err
    assert shell.ok("prices", "latest", "A", "--json").json["close"] == "10.00000000"


def test_redis_away_is_code_3_and_nothing_is_planned(
    shell: Shell, seeded: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NIGHTSHIFT_REDIS_URL", f"redis://:hush@127.0.0.1:{free_port(None)}/0")
    for arguments in (["run", "--day", "2024-03-03"], ["up"]):
        line = shell.refused(*arguments, code=3)
        assert "Redis is out of reach" in line
        assert "hush" not in line
    assert shell("health").code == 3
    assert shell("status").code == 3
    with seeded.connect() as connection:
        assert connection.scalar(text("SELECT count(*) FROM runs")) == 0
    monkeypatch.setenv("NIGHTSHIFT_REDIS_URL", "not a url")
    assert "NIGHTSHIFT_REDIS_URL" in shell.refused("run", "--day", "2024-03-03")


def test_a_database_of_another_version_is_refused(shell: Shell, engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = 'ffff'"))
    for arguments in (["runs"], ["seed", "--users", 1], ["db", "check"], ["db", "migrate"], ["up"]):
        assert "ffff" in shell.refused(*arguments, code=1)


def test_an_empty_database_says_how_to_fill_it(
    shell: Shell, empty_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NIGHTSHIFT_DATABASE_URL", empty_database)
    for arguments in (["runs"], ["seed", "--users", 1]):
        assert "nightshift db migrate" in shell.refused(*arguments, code=1)
    assert "(was: empty)" in shell.ok("db", "migrate").err
    assert "(was:" not in shell.ok("db", "migrate").err
    shell.ok("db", "check")


@pytest.mark.parametrize("part", ["flower", "exporter"])
def test_a_port_in_use_is_named(shell: Shell, monkeypatch: pytest.MonkeyPatch, part: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        monkeypatch.setenv("NIGHTSHIFT_FLOWER_PORT", "0")
        monkeypatch.setenv("NIGHTSHIFT_EXPORTER_PORT", "0")
        monkeypatch.setenv(f"NIGHTSHIFT_{part.upper()}_PORT", str(port))
        outcome = shell("up")
    assert outcome.code == 1
    assert f"port {port}" in outcome.err
    assert f"NIGHTSHIFT_{part.upper()}_PORT" in outcome.err
