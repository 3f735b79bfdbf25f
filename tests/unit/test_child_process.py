"""What a process of the stack said last: a line that one can read, without secrets, however it died."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from core.log import configure_logging, get_logger
from tests.support.nights import settings
from workers.child_process import ChildProcess

CANARY = "hunter2-canary"


@pytest.fixture
def child(tmp_path: Path) -> ChildProcess:
    return ChildProcess("beat", (), {}, tmp_path / "beat.log", lifeline=0)


def test_of_a_traceback_the_event_and_what_was_raised_are_shown(
    child: ChildProcess, capsys: pytest.CaptureFixture[str]
) -> None:
    configure_logging(settings(log_format="json"))

    def fail() -> None:
        raise ConnectionError(f"postgresql://u:{CANARY}@h/db is away\n(where to read more)")

    try:
        try:
            fail()
        except ConnectionError as error:
            raise RuntimeError("no night") from error
    except RuntimeError as error:
        get_logger("test").error("process ends", exc_info=error.__cause__)
        get_logger("test").error("process ends", exc_info=error)
    first, second = capsys.readouterr().err.splitlines()
    assert all("Traceback" in line and len(line) > 300 for line in (first, second))
    child.log.write_text(f"earlier\n{first}\n", encoding="utf-8")
    assert child.last_log_line() == "process ends: ConnectionError: postgresql://u:********@h/db is away"
    child.log.write_text(f"{second}\n\n", encoding="utf-8")
    assert child.last_log_line() == "process ends: RuntimeError: no night"


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("", "it logged nothing"),
        ("Killed\n", "Killed"),
        (json.dumps({"event": "ready", "level": "info"}), "ready"),
        ("[1, 2]", "[1, 2]"),
        ('{"event": "cut', '{"event": "cut'),
    ],
)
def test_other_lines_are_shown_as_they_are(child: ChildProcess, written: str, shown: str) -> None:
    assert child.last_log_line() == "it has no log"
    child.log.write_text(written, encoding="utf-8")
    assert child.last_log_line() == shown


def test_a_long_line_is_cut_after_its_secrets_are_masked(child: ChildProcess) -> None:
    # The cut would go through the password, and leave of the URL what no longer looks like one.
    child.log.write_text(f"{'x' * 270} redis://:{CANARY}@host:6379/0 {'y' * 300_000}", encoding="utf-8")
    assert len(child.last_log_line()) == 300
    child.log.write_text(f"{'x' * 270} redis://:{CANARY}@host:6379/0 {'y' * 3000}", encoding="utf-8")
    line = child.last_log_line()
    assert (len(line), line[-1]) == (300, "…")
    assert "hunter2" not in line
