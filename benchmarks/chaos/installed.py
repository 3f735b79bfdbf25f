"""What the stack's processes find on their PYTHONPATH: the agent, and a distribution that offers poisonous strategies.

The processes inherit the environment of the one that starts them, so that they need not know.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from signal import Signals

from benchmarks.chaos import agent

_METADATA = "Metadata-Version: 2.1\nName: nightshift-chaos\nVersion: 0\n"
_STRATEGIES = ("Raises", "Crashes", "EatsMemory", "Hangs", "HangsStubbornly")


class Moments:
    """Arms moments of the night in the stack's processes, and tells who reached them."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        for name in (agent.ARMED, agent.FIRED):
            (directory / name).mkdir()

    def arm(self, moment: str, signal: Signals) -> None:
        """The next process that reaches `moment` sends `signal` to itself."""
        new = self._directory / f"{moment}.new"
        new.write_text(signal.name, encoding="ascii")
        new.rename(self._directory / agent.ARMED / moment)

    def disarm(self, moment: str) -> None:
        """Nobody does any more."""
        (self._directory / agent.ARMED / moment).unlink(missing_ok=True)

    def reached(self, moment: str) -> int | None:
        """The process that reached it, told once; None: nobody so far."""
        for file in (self._directory / agent.FIRED).glob(f"{moment}.*"):
            with suppress(FileNotFoundError):
                file.unlink()
                return int(file.suffix.removeprefix("."))
        return None

    def triple(self) -> None:
        """From now on every message is sent three times."""
        (self._directory / agent.TRIPLE).touch()


@contextmanager
def installed(directory: Path) -> Iterator[Moments]:
    """Write the agent into `directory` and have every process that is started inside of the block load it."""
    directory.mkdir()
    information = directory / "nightshift_chaos-0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text(_METADATA, encoding="utf-8")
    points = [f"{name.lower()} = benchmarks.chaos.poison:{name}" for name in _STRATEGIES]
    (information / "entry_points.txt").write_text("\n".join(["[nightshift.strategies]", *points, ""]), encoding="utf-8")
    (directory / "sitecustomize.py").write_text(
        "from benchmarks.chaos.agent import install\n\ninstall()\n", encoding="utf-8"
    )
    # A source tree that was not installed is found from here too, wherever the command was called.
    root = str(Path(__file__).resolve().parents[2])
    before = {name: os.environ.get(name) for name in ("PYTHONPATH", agent.VARIABLE)}
    paths = [str(directory), *filter(None, [before["PYTHONPATH"]]), root]
    os.environ["PYTHONPATH"] = os.pathsep.join(paths)
    os.environ[agent.VARIABLE] = str(directory)
    try:
        yield Moments(directory)
    finally:
        for name, value in before.items():
            _restore(name, value)


def _restore(name: str, value: str | None) -> None:
    change: Callable[[], object] = (
        (lambda: os.environ.pop(name, None)) if value is None else (lambda: os.environ.__setitem__(name, value))
    )
    change()
