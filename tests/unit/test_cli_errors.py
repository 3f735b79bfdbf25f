"""Wrong use and absent servers: one line, the right exit code, nothing begun. No server is needed to find that out."""

from __future__ import annotations

import errno
import os
import pwd
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer import Context
from typer.core import TyperGroup
from typer.main import get_command

from core.errors import UsageError
from scripts.cli import asker, parse_day
from scripts.errors import explain
from scripts.main import app
from tests.support.cli import ROOT, Shell, command, environment
from workers.server_process import free_port


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NIGHTSHIFT_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def shell(capsys: pytest.CaptureFixture[str]) -> Shell:
    return Shell(capsys)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("", "Missing command"),
        ("nonsense", "nonsense"),
        ("--nonsense status", "--nonsense"),
        ("status extra", "extra"),
        ("runs abc", "integer"),
        ("batches", "RUN"),
        ("cancel 1.5", "integer"),
        ("seed", "--users"),
        ("seed --users many", "integer"),
        ("seed --users 10 --start tomorrow", "YYYY-MM-DD"),
        ("prices import", "FILE"),
        ("prices latest", "SYMBOL"),
        ("run --day 2024-02-30", "2024-02-30"),
        ("run --day 20240105", "YYYY-MM-DD"),
        ("run --day 2024-1-5", "YYYY-MM-DD"),
        ("run --through 05.01.2024", "YYYY-MM-DD"),
        ("run --day 2024-01-05 --through 2024-01-06", "not both"),
        ("run --each", "--through"),
        ("db digest --day today", "today"),
        ("quarantine --limit 0", "limit"),
        ("report --out report.html", "--simulation or --run"),
        ("report --out report.html --run 1 --simulation 1", "--simulation or --run"),
        ("report --run 1", "--out"),
        ("report --run 1 --out .", "directory"),
        ("report --run 1 --out missing/report.html", "missing"),
        ("up --workers 0", "workers"),
        ("demo --users 0", "users"),
        ("bench", "Missing command"),
        ("bench night --users 0", "users"),
        ("bench night --nights 0", "nights"),
    ],
)
def test_wrong_use_is_one_line_and_starts_nothing(shell: Shell, home: Path, arguments: str, said: str) -> None:
    assert said.lower() in shell.refused(*arguments.split()).lower()
    assert not home.exists()


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("NIGHTSHIFT_BATCH_USERS", "few", "NIGHTSHIFT_BATCH_USERS"),
        ("NIGHTSHIFT_BATCH_SIZE", "10", "NIGHTSHIFT_BATCH_SIZE"),
        ("NIGHTSHIFT_DATABASE_URL", "not a url", "NIGHTSHIFT_DATABASE_URL"),
        ("NIGHTSHIFT_DATABASE_URL", "sqlite://", "NIGHTSHIFT_DATABASE_URL"),
        ("NIGHTSHIFT_DATABASE_URL", "postgresql://user:hush@host:port/x", "NIGHTSHIFT_DATABASE_URL"),
    ],
)
def test_a_malformed_setting_is_named(
    shell: Shell, home: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str, said: str
) -> None:
    monkeypatch.setenv("NIGHTSHIFT_REDIS_URL", "redis://127.0.0.1:1/0")
    monkeypatch.setenv(name, value)
    line = shell.refused("runs")
    assert said in line
    assert "hush" not in line
    assert not home.exists()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("NIGHTSHIFT_PRICE_SOURCES", "binanc"),
        ("NIGHTSHIFT_PRICE_LIMITS", "binance=many"),
        ("NIGHTSHIFT_NOTIFY_URLS", "hush"),
        ("NIGHTSHIFT_NOTIFY_URLS", "json://127.0.0.1/hush,slak://hush/hush"),
    ],
)
def test_up_refuses_what_would_merely_never_come(
    shell: Shell, home: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    line = shell.refused("up")
    assert name in line
    assert "NOTIFY" not in name or "hush" not in line
    assert not home.exists()


@pytest.mark.parametrize("arguments", ["db migrate", "db check", "status", "runs", "run", "health", "seed --users 1"])
def test_a_server_that_is_away_is_code_3_without_its_password(
    shell: Shell, home: Path, monkeypatch: pytest.MonkeyPatch, arguments: str
) -> None:
    port = free_port(None)
    monkeypatch.setenv("NIGHTSHIFT_DATABASE_URL", f"postgresql://user:hush@127.0.0.1:{port}/nightshift")
    monkeypatch.setenv("NIGHTSHIFT_REDIS_URL", f"redis://:hush@127.0.0.1:{port}/0")
    line = shell.refused(*arguments.split(), code=3)
    assert "PostgreSQL is out of reach" in line
    assert str(port) in line
    assert "hush" not in line
    assert not home.exists()


def test_an_unexpected_error_is_one_line_too_and_keeps_secrets() -> None:
    code, line = explain(RuntimeError("no luck with postgresql://user:hush@host/db\nand more"))
    assert code == 1
    assert "no luck" in line
    assert "hush" not in line
    assert "\n" not in line


def test_debug_shows_the_traceback(shell: Shell, home: Path) -> None:
    outcome = shell("--debug", "run", "--each")
    assert outcome.code == 2
    assert "Traceback" in outcome.err
    assert not home.exists()


def test_help_and_version_need_nothing_and_load_nothing_heavy(shell: Shell, home: Path) -> None:
    assert "quarantine" in shell.ok("--help").out
    assert shell.ok("--version").out.startswith("nightshift")
    heavy = "{'sqlalchemy', 'numpy', 'celery', 'matplotlib', 'redis', 'pydantic'} & set(sys.modules)"
    code = f"import sys; import scripts.main; sys.exit(str({heavy}) if {heavy} else 0)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not home.exists()


def test_a_reader_that_leaves_early_is_no_error(home: Path) -> None:
    process = subprocess.Popen(
        command("--help"), env=environment(home), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    with process, process.stderr as errors:
        assert errors.read() == ""
    assert process.returncode == 0


def test_streams_that_are_closed_are_no_error(home: Path) -> None:
    line = shlex.join(command("--help"))
    done = subprocess.run(["sh", "-c", f"{line} >&- 2>&-"], env=environment(home), check=False)
    assert done.returncode == 0


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("NIGHTSHIFT_PRICE_SOURCES", "coingecko,binanc", "unknown source 'binanc': there are binance,"),
        ("NIGHTSHIFT_PRICE_LIMITS", "osrs=often", "'osrs=often' is no limit"),
    ],
)
def test_a_stack_does_not_start_with_a_source_that_is_none(
    shell: Shell, home: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str, said: str
) -> None:
    monkeypatch.setenv(name, value)
    line = shell.refused("up")
    assert name in line
    assert said in line
    assert not home.exists()


def test_a_closed_stdin_has_nothing_to_be_read(home: Path) -> None:
    line = shlex.join(command("reprocess", "--users-from", "-", "--from", "2022-12-01", "--reason", "x"))
    done = subprocess.run(
        ["sh", "-c", f"{line} <&-"], env=environment(home), check=False, capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (2, "nightshift: --users-from: there is no id in stdin\n")


def test_who_has_a_number_and_no_name_is_told_apart_by_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def nameless(uid: int) -> object:
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", nameless)
    assert asker() == f"uid {os.getuid()}"
    monkeypatch.setenv("LOGNAME", "ad\udcffa")
    assert asker() == "ad?a"


def test_an_output_that_finds_no_room_is_one_line() -> None:
    code, line = explain(OSError(errno.ENOSPC, "No space left on device"))
    assert code == 1
    assert line == "what this printed was not written whole: No space left on device"


def _groups(group: TyperGroup, path: str = "nightshift") -> Iterator[tuple[str, TyperGroup]]:
    yield path, group
    for name, command_ in group.commands.items():
        if isinstance(command_, TyperGroup):
            yield from _groups(command_, f"{path} {name}")


def test_the_lists_of_commands_say_whole_sentences(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    whole = get_command(app)
    assert isinstance(whole, TyperGroup)
    lists = {path: group.get_help(Context(group, info_name=path)) for path, group in _groups(whole)}
    assert {"nightshift", "nightshift prices"} <= set(lists)
    cut = [
        line for text in lists.values() for line in text.splitlines() if line.startswith("  ") and line.endswith("...")
    ]
    assert cut == [], "the first sentence of a command's docstring fits on a line"


def test_days_are_written_one_way() -> None:
    day = parse_day("2024-02-29", "--day")
    assert day is not None
    assert day.isoformat() == "2024-02-29"
    assert parse_day(None, "--day") is None
    with pytest.raises(UsageError, match="--day"):
        parse_day(" 2024-02-29", "--day")
