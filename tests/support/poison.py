"""A way to break a worker that chaos does not know: it leaves, and says that all is well."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NoReturn

from engine.night import Night
from engine.params import Parameters
from engine.strategies.base import Strategy


class Leaves(Strategy):
    """Ends the process with the exit code of success: no exception, no signal, no word."""

    name = "test_leaves"
    code = 1101
    Parameters = Parameters

    def orders(self, night: Night) -> NoReturn:  # noqa: ARG002 - a strategy's signature
        """Never."""
        os._exit(0)


def offer(directory: Path) -> None:
    """A distribution in `directory`, which must be on the PYTHONPATH, that offers the strategy."""
    information = directory / "nightshift_tests-0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: nightshift-tests\nVersion: 0\n", "utf-8")
    point = f"{Leaves.name} = {__name__}:{Leaves.__name__}"
    (information / "entry_points.txt").write_text(f"[nightshift.strategies]\n{point}\n", "utf-8")
