"""`nightshift operators`: accounts of the status page."""

from __future__ import annotations

import io

import pytest
from sqlalchemy import Engine

from tests.support.cli import Shell
from tests.support.nights import rows, scalar

SECRET = "correct horse battery"  # noqa: S105 - the test's own


@pytest.fixture
def shell(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, database: str, redis_url: str) -> Shell:
    """The command line, with this test's servers."""
    monkeypatch.setenv("NIGHTSHIFT_DATABASE_URL", database)
    monkeypatch.setenv("NIGHTSHIFT_REDIS_URL", redis_url)
    return Shell(capsys)


def test_accounts_come_and_go(shell: Shell, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    def typed(password: str) -> None:
        monkeypatch.setattr("sys.stdin", io.StringIO(password + "\n"))

    assert "operators add" in shell.ok("operators", "list").err
    typed(SECRET)
    made = shell.ok("operators", "add", "ada", "--role", "operator", "--password-stdin")
    assert made.err == "made ada, operator\n"
    typed(SECRET)
    assert "there is an operator ada already" in shell.refused("operators", "add", "ada", "--password-stdin")
    typed("short")
    assert "a password has 12 to 200 characters" in shell.refused("operators", "add", "bo", "--password-stdin")
    typed(SECRET)
    assert "is no role" in shell.refused("operators", "add", "bo", "--role", "king", "--password-stdin")
    typed(SECRET)
    assert "cannot be a name" in shell.refused("operators", "add", "Bo <b>", "--password-stdin")
    (listed,) = shell.ok("operators", "list", "--json").json
    assert (listed["name"], listed["role"], listed["sessions"]) == ("ada", "operator", 0)
    assert "ada" in shell.ok("operators", "list").out
    before = scalar(engine, "SELECT password_hash FROM operators")
    typed("another one that is long")
    shell.ok("operators", "password", "ada", "--password-stdin")
    assert scalar(engine, "SELECT password_hash FROM operators") != before
    shell.ok("operators", "remove", "ada")
    assert "there is no operator 'ada'" in shell.refused("operators", "remove", "ada")
    trail = rows(engine, "SELECT action, target, result, address FROM audit_trail ORDER BY id")
    assert trail == [(f"operators {done}", "ada", "done", None) for done in ("add", "password", "remove")]
    assert SECRET not in str(rows(engine, "SELECT * FROM audit_trail"))


def test_a_password_is_not_taken_from_the_command_line(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    assert "say --password-stdin" in shell.refused("operators", "add", "ada")
