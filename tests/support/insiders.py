"""What a test has done inside of worker processes: they find it on their PYTHONPATH, and production has no hook for it.

What is given to `inside` runs in every Python process that the test starts afterwards, before anything else.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pytest

from services import advance, batches, pieces
from services.advance import Totals
from services.batches import Claim
from services.locks import Connection, unlock_batch
from services.pieces import Fence
from tests.support.nights import ROOT
from workers.shutdown import Shutdown


def inside(directory: Path, monkeypatch: pytest.MonkeyPatch, call: Callable[..., None], *arguments: object) -> None:
    """Until the end of the test: every process that is started calls this first."""
    directory.mkdir()
    name = call.__name__
    code = f"from {__name__} import {name}\n\n{name}{arguments!r}\n"
    (directory / "sitecustomize.py").write_text(code, encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(directory), str(ROOT)]))


def grow_impatient(seconds: float) -> None:
    """A worker that is told to stop gives its batches this long to end, instead of a minute."""
    Shutdown.__init__.__defaults__ = (seconds,)


def stop_before_done(first_lets_go: bool) -> None:
    """Who has written a batch's rows and is about to mark it done stops, as by SIGSTOP.

    Args:
        first_lets_go: the first to claim a batch gives its lease away at that moment, and does not know.
    """
    commit = pieces.commit_piece

    def stop_and_commit(connection: Connection, fence: Fence, totals: Totals, now: datetime) -> Fence:
        if first_lets_go and fence.attempts == 1:
            unlock_batch(connection, fence.id)
        os.kill(os.getpid(), signal.SIGSTOP)
        return commit(connection, fence, totals, now)

    batches.commit_piece = stop_and_commit  # type: ignore[attr-defined]


def die_behind_pieces(days: int, lives: list[str]) -> None:
    """Pieces of a batch have so many days; who has committed one dies, as by SIGKILL, as long as there are `lives`.

    Args:
        lives: files, of which each death takes one.
    """
    advance.PIECE_DAYS = days
    work = batches.BatchWorker._work

    def work_and_die(self: batches.BatchWorker, connection: Connection, claim: Claim) -> tuple[Totals, Fence]:
        done = work(self, connection, claim)
        for life in lives:
            if Path(life).exists():
                Path(life).unlink()
                os.kill(os.getpid(), signal.SIGKILL)
        return done

    batches.BatchWorker._work = work_and_die  # type: ignore[method-assign]
