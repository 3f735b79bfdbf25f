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

from services import batches
from services.advance import Totals
from services.batches import Claim
from services.locks import Connection, unlock_batch
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
    complete = batches._complete

    def stop_and_complete(connection: Connection, claim: Claim, totals: Totals, now: datetime) -> None:
        if first_lets_go and claim.attempts == 1:
            unlock_batch(connection, claim.id)
        os.kill(os.getpid(), signal.SIGSTOP)
        complete(connection, claim, totals, now)

    batches._complete = stop_and_complete
