"""A database of its own in which a night or two are missing, and the command line of whoever looks after it."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine

from scripts.demo import iso_seconds
from services.tick import tick
from tests.support.cli import Outcome, Shell
from tests.support.nights import LAST_SAMPLE_DAY, Night, change, rows, scalar, settings
from tests.support.polling import wait_until
from tests.support.runbooks import Command, Runbook
from tests.support.workers import OFFSET, now

LAST = LAST_SAMPLE_DAY
BATCH_USERS = 20
USERS = 60
DAY = timedelta(days=1)


@dataclass
class Scene:
    """`words`: what the words in capitals of a page stand for."""

    engine: Engine
    database_url: str
    redis_url: str
    home: Path
    shell: Shell
    patch: pytest.MonkeyPatch
    words: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.set(
            home=self.home, database_url=self.database_url, redis_url=self.redis_url, batch_users=BATCH_USERS,
            clock_offset=iso_seconds(OFFSET),
        )  # fmt: skip
        self.patch.chdir(self.home)

    def set(self, **values: object) -> None:
        """Settings of the command line."""
        for name, value in values.items():
            self.patch.setenv(f"NIGHTSHIFT_{name.upper()}", str(value))

    def change(self, statement: str, **values: object) -> None:
        """Execute and commit."""
        change(self.engine, statement, **values)

    def scalar(self, statement: str, **values: object) -> Any:
        """The first column of the first row."""
        return scalar(self.engine, statement, **values)

    def night(self, **changes: object) -> Night:
        """A worker in this process at the scene's time."""
        return Night(self.engine, settings(BATCH_USERS, **changes), now=now())

    def tick(self, **changes: object) -> None:
        """What beat does, with nobody at the other end of the queue."""

        def lose(_: object, /) -> None:
            """The message."""

        tick(self.engine, lose, now=now(), settings=settings(BATCH_USERS, **changes))

    @contextmanager
    def worker(self) -> Iterator[None]:
        """Somebody who does whatever batch is queued, as long as the block."""
        over = threading.Event()
        thread = threading.Thread(target=self._work, args=(over,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()

    def _work(self, over: threading.Event) -> None:
        night = self.night()
        while not over.wait(0.02):
            for (batch,) in rows(self.engine, "SELECT id FROM batches WHERE status = 'queued' ORDER BY id"):
                night.worker.advance(batch)

    def problems(self) -> dict[str, str]:
        """What `nightshift status` says is wrong: the details by name."""
        status = self.shell("status", "--json").json
        assert all(problem["runbook"] == f"docs/runbooks/{problem['name']}.md" for problem in status["problems"])
        return {problem["name"]: problem["detail"] for problem in status["problems"]}

    def wait_gone(self, *names: str, seconds: float = 30.0) -> None:
        """Wait until none of these is wrong any more."""
        wait_until(lambda: not set(names) & set(self.problems()), seconds=seconds, what=f"the end of {names}")

    def execute(self, page: Runbook, part: str) -> list[Outcome]:
        """Do what a part of the page says; every command must end as the page says. Not `nightshift up`."""
        return [
            outcome for command in page.commands[part] if not command.text.startswith("nightshift up")
            for outcome in self.do(command)
        ]  # fmt: skip

    def do(self, command: Command) -> list[Outcome]:
        """One command, its words in capitals replaced."""
        text = re.sub(r"\b[A-Z]{3,}\b", lambda word: self.words.get(word[0], word[0]), command.text)
        if command.language == "sql":
            change(self.engine, text)
            return []
        if not text.startswith("nightshift "):
            subprocess.run(["sh", "-c", text], env=dict(os.environ), check=True, capture_output=True)
            return []
        outcome = self.shell(*shlex.split(text)[1:])
        assert outcome.code == command.code, f"{text}: {outcome}"
        return [outcome]


def plan_last(scene: Scene, *, day_before: bool = True) -> int:
    """The night of the last day, planned and never published; the run's number."""
    if day_before:
        scene.night().run(LAST - DAY)
    (run,) = scene.night().plan(LAST)
    return run
