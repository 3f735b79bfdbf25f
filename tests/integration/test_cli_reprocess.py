"""`nightshift reprocess` as a person meets it: what it plans, what it says before, and what it refuses."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from core.database import make_engine
from scripts import reprocess
from tests.support.cli import Shell
from tests.support.corrections import contents
from tests.support.database import new_database
from tests.support.nights import FIRST_NIGHT, Night, rows, scalar, settings
from workers.embedded import ServerUrls

LAST = FIRST_NIGHT + timedelta(days=3)
DAY = FIRST_NIGHT + timedelta(days=2)
RUNS = "SELECT count(*) FROM runs WHERE kind = 'reprocess'"


@pytest.fixture(scope="module")
def template(servers: ServerUrls, world: str) -> Iterator[str]:
    """The name of a database after four nights."""
    with new_database(servers.database_url, "four_nights", template=world) as url:
        engine = make_engine(url)
        Night(engine, settings(400)).run(LAST)
        engine.dispose()
        yield "four_nights"


@pytest.fixture
def night(servers: ServerUrls, template: str) -> Iterator[Night]:
    """Four nights, of this test alone."""
    with new_database(servers.database_url, "four_nights_alone", template=template) as url:
        engine = make_engine(url)
        yield Night(engine, settings(400))
        engine.dispose()


@pytest.fixture
def shell(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, night: Night, redis_url: str
) -> Shell:
    """Works with the test's servers, where four nights have been."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NIGHTSHIFT_HOME", str(tmp_path / "home"))
    url = night.engine.url.set(drivername="postgresql").render_as_string(hide_password=False)
    monkeypatch.setenv("NIGHTSHIFT_DATABASE_URL", url)
    monkeypatch.setenv("NIGHTSHIFT_REDIS_URL", redis_url)
    return Shell(capsys)


def why(*options: object) -> tuple[object, ...]:
    """The command with a day and a reason."""
    return ("reprocess", "--from", DAY, "--reason", "a test", *options)


def test_users_of_the_command_line_of_a_file_and_of_stdin(
    shell: Shell, night: Night, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ids").write_text("\ufeff# two of them\n10\n\n 11 \n", encoding="utf-8")
    asked = shell.ok(*why("--users-from", "ids", "--user", 13, "--json")).json
    users = "SELECT DISTINCT user_id FROM run_simulations WHERE run_id = :run ORDER BY 1"
    assert rows(night.engine, users, run=asked["run"]) == [(10,), (11,), (13,)]
    assert (asked["users"], asked["first_day"], asked["through"]) == (3, str(DAY), str(LAST))
    assert asked["totals"] is None
    monkeypatch.setattr(sys, "stdin", io.StringIO("14\n"))
    outcome = shell.ok(*why("--users-from", "-", "--json"))
    assert rows(night.engine, users, run=outcome.json["run"]) == [(14,)]
    assert "1 simulation of 1 user, " in outcome.err


def test_a_dry_run_tells_and_writes_nothing(shell: Shell, night: Night) -> None:
    before = contents(night.engine)
    figures: dict[str, Any] = shell.ok(*why("--all", "--dry-run", "--json")).json
    assert (figures["dry_run"], figures["run"], figures["rows_counted"]) == (True, None, True)
    assert figures["simulations"] == scalar(
        night.engine, "SELECT count(*) FROM simulations WHERE start_day <= :day", day=LAST
    )
    assert figures["days"] == 2
    assert len(figures["sample"]) == 10
    table = shell.ok(*why("--all", "--dry-run")).out
    for part in ("nothing was written", f"{figures['simulations']:,}", "rows replaced, counted", "estimated seconds"):
        assert part in table
    assert scalar(night.engine, RUNS) == 0
    assert contents(night.engine) == before


def test_nothing_missing_is_nothing_to_do(shell: Shell, night: Night) -> None:
    outcome = shell.ok(*why("--all", "--only", "missing", "--json"))
    assert outcome.json == {"run": None}
    assert "nobody of them is missing a day: nothing to do" in outcome.err
    assert scalar(night.engine, RUNS) == 0


def test_a_large_scope_wants_a_yes(shell: Shell, night: Night, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reprocess, "LARGE", 100)
    assert "say --yes" in shell.refused(*why("--all"))
    shell.ok(*why("--all", "--only", "missing"))
    shell.ok(*why("--user", 13))
    assert scalar(night.engine, RUNS) == 1

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr(sys.stderr.__class__, "isatty", lambda _: True, raising=False)
    for answer, runs in (("n\n", 1), ("y\n", 2)):
        monkeypatch.setattr(sys, "stdin", Terminal(answer))
        outcome = shell(*why("--all"))
        assert "user-days/s" in outcome.err
        assert outcome.code == (0 if runs == 2 else 2), outcome.err
        assert scalar(night.engine, RUNS) == runs
    shell.ok(*why("--all", "--yes"))
    assert scalar(night.engine, RUNS) == 3


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--from", DAY, "--reason", "x"), "say what to reprocess: --user"),
        (("--reason", "x", "--user", 13), "--from is missing"),
        (("--from", DAY, "--user", 13), "--reason"),
        (("--from", DAY, "--user", 13, "--reason", " "), "--reason must not be empty"),
        (("--from", "12/1/2022", "--user", 13, "--reason", "x"), "--from: '12/1/2022' is not a day"),
        (("--from", DAY, "--user", 0, "--reason", "x"), "--user"),
        (("--from", DAY, "--user", 999_999, "--reason", "x"), "there is no user 999999"),
        (("--from", DAY, "--run", 99, "--reason", "x"), "there is no run 99"),
        (("--from", DAY, "--all", "--user", 13, "--reason", "x"), "--all is everybody, --user is not"),
        (("--from", DAY, "--all", "--only", "some", "--reason", "x"), "--only: 'some' is none of missing"),
        (("--from", DAY, "--quarantined", "--only", "missing", "--reason", "x"), "leave out --only missing"),
        (("--from", DAY, "--all", "--dry-run", "--wait", "--reason", "x"), "leave out --wait"),
        (("--from", "2099-01-01", "--all", "--reason", "x"), "the newest is that of"),
        (("--from", "2000-01-01", "--all", "--reason", "x"), "no simulation of the scope begins before"),
        (("--from", DAY, "--failed", "--reason", "x"), "nobody is in the scope (--failed)"),
        (("--from", DAY, "--users-from", "none", "--reason", "x"), "--users-from: none: No such file"),
        (("--from", DAY, "--users-from", "bad", "--reason", "x"), "--users-from, line 2: '1x' is no id of a user"),
        (("--from", DAY, "--users-from", "empty", "--reason", "x"), "there is no id in empty"),
        (("--from", DAY, "--users-from", "binary", "--reason", "x"), "binary is not a text in UTF-8"),
    ],
)
def test_wrong_use_is_one_line_and_does_nothing(
    shell: Shell, night: Night, tmp_path: Path, arguments: tuple[object, ...], said: str
) -> None:
    for name, content in (("bad", b"1\n1x\n"), ("empty", b"\n# none\n"), ("binary", b"\xff\xfe")):
        (tmp_path / name).write_bytes(content)
    assert said in shell.refused("reprocess", *arguments)
    assert scalar(night.engine, RUNS) == 0
