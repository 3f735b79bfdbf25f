"""The command line as a person meets it: in this process where that is enough, as a process of its own where not."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from core.settings import get_settings
from scripts.main import call

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a command line came to."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """stdout, which must be one JSON document."""
        return json.loads(self.out)

    @property
    def line(self) -> str:
        """stderr, which must be one line that begins as an error does; without that beginning."""
        assert self.err.endswith("\n"), self.err
        assert self.err.count("\n") == 1, self.err
        assert self.err.startswith("nightshift: "), self.err
        return self.err.removeprefix("nightshift: ").rstrip("\n")


class Shell:
    """Runs command lines in this process."""

    def __init__(self, capture: pytest.CaptureFixture[str]) -> None:
        self._capture = capture

    def __call__(self, *arguments: object) -> Outcome:
        """One command line, whatever it comes to."""
        self._capture.readouterr()
        # A process of its own would read its settings anew.
        get_settings.cache_clear()
        with _own_logging():
            code = call([str(argument) for argument in arguments])
        out, err = self._capture.readouterr()
        return Outcome(code, out, err)

    def ok(self, *arguments: object) -> Outcome:
        """One command line that must succeed."""
        outcome = self(*arguments)
        assert outcome.code == 0, outcome.err
        return outcome

    def refused(self, *arguments: object, code: int = 2) -> str:
        """The one line of a command line that must fail with `code` and say nothing else."""
        outcome = self(*arguments)
        assert (outcome.code, outcome.out) == (code, ""), outcome
        return outcome.line


@contextmanager
def _own_logging() -> Iterator[None]:
    # A command sends logs to its stderr, which here is gone when the test ends.
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    try:
        yield
    finally:
        root.handlers[:] = handlers
        root.setLevel(level)


def environment(home: Path, **settings: object) -> dict[str, str]:
    """This process' environment with a home and settings of Nightshift's, by name without the prefix."""
    chosen = {f"NIGHTSHIFT_{name.upper()}": str(value) for name, value in {"home": home, **settings}.items()}
    return {**os.environ, "PYTHONPATH": str(ROOT), **chosen}


def command(*arguments: object) -> list[str]:
    """The command line of a process."""
    return [sys.executable, "-m", "scripts.main", *(str(argument) for argument in arguments)]


def run_process(env: dict[str, str], *arguments: object, seconds: float = 150) -> Outcome:
    """One command line as a process of its own, outside of the repository."""
    home = Path(env["NIGHTSHIFT_HOME"])
    done = subprocess.run(
        command(*arguments), env=env, cwd=home.parent, capture_output=True, text=True, timeout=seconds, check=False
    )
    return Outcome(done.returncode, done.stdout, done.stderr)
