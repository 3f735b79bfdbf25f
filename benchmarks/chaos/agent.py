"""Inside of the stack's processes: crashes at exact moments, without a line in the code of production.

`sitecustomize` of the chaos home calls `install`. It wraps functions of the night as their modules are imported. A
wrapped function looks for a file of its moment's name in `armed/`; whoever renames it away, which only one process can,
sends the signal that the file names to itself. Also shortens what would otherwise take minutes: session timeouts.
"""

from __future__ import annotations

import functools
import importlib.abc
import importlib.machinery
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

VARIABLE = "_CHAOS_DIRECTORY"
ARMED, FIRED = "armed", "fired"
TRIPLE = "triple"
IDLE_SECONDS, LOCK_SECONDS = 3, 1
_OPTIONS = f" -c idle_in_transaction_session_timeout={IDLE_SECONDS}s -c lock_timeout={LOCK_SECONDS}s"

# Module, function, the moment before it, the moment after it.
_MOMENTS = (
    ("services.batches", "_claim", "before_claim", "after_claim"),
    ("services.advance", "_read", "", "after_read"),
    ("services.advance", "write_portfolio_days", "before_copy", "after_copy"),
    ("services.batches", "_complete", "before_done", "before_commit"),
    ("services.batches", "BatchWorker._work", "", "after_commit"),
    ("services.batches", "BatchWorker.advance", "", "before_ack"),
    ("workers.publisher", "CeleryPublisher.__call__", "before_publish", "after_publish"),
    ("services.batches", "publish_planned", "", "after_mark"),
    ("services.tick", "publish_planned", "", "after_mark"),
    ("services.completion", "_write_leaderboard", "while_finishing", ""),
)


def install() -> None:
    """Wrap the moments of this process, if the environment names a chaos home."""
    directory = os.environ.get(VARIABLE)
    if directory:
        sys.meta_path.insert(0, _Finder(Path(directory)))


class _Finder(importlib.abc.MetaPathFinder):
    """Finds modules as everybody else does, and wraps functions of some after they were executed."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._names = {module for module, *_ in _MOMENTS} | {"core.database"}

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """The spec that another finder has, with a loader that wraps."""
        if fullname not in self._names:
            return None
        for finder in sys.meta_path:
            if finder is self:
                continue
            spec = finder.find_spec(fullname, path, target)
            if spec is not None and spec.loader is not None:
                self._wrap_loader(spec.loader)
                return spec
        return None

    def _wrap_loader(self, loader: Any) -> None:
        execute = loader.exec_module

        def exec_module(module: ModuleType) -> None:
            execute(module)
            _wrap_module(module, self._directory)

        loader.exec_module = exec_module


def _wrap_module(module: ModuleType, directory: Path) -> None:
    if module.__name__ == "core.database":
        _shorten_timeouts(module)
    if module.__name__ == "workers.publisher":
        _triple(module, directory)
    for name, path, before, after in _MOMENTS:
        if name != module.__name__:
            continue
        *owners, attribute = path.split(".")
        owner: Any = functools.reduce(getattr, owners, module)
        setattr(owner, attribute, _wrapped(getattr(owner, attribute), directory, before, after))


def _wrapped(function: Callable[..., Any], directory: Path, before: str, after: str) -> Callable[..., Any]:
    @functools.wraps(function)
    def moment(*arguments: Any, **keywords: Any) -> Any:
        if before:
            _reach(directory, before)
        result = function(*arguments, **keywords)
        # Of publish_planned, 0 means that nothing was published, so nothing marked.
        if after and result != 0:
            _reach(directory, after)
        return result

    return moment


def _reach(directory: Path, moment: str) -> None:
    armed = directory / ARMED / moment
    if not armed.exists():
        return
    try:
        name = armed.read_text(encoding="ascii")
        armed.rename(directory / FIRED / f"{moment}.{os.getpid()}")
    except FileNotFoundError:
        return
    os.kill(os.getpid(), signal.Signals[name])


def _shorten_timeouts(module: ModuleType) -> None:
    create = module.create_engine

    def create_engine(*arguments: Any, connect_args: dict[str, Any], **keywords: Any) -> Any:
        options = connect_args.get("options", "") + _OPTIONS
        return create(*arguments, connect_args=connect_args | {"options": options}, **keywords)

    module.create_engine = create_engine  # type: ignore[attr-defined]


def _triple(module: ModuleType, directory: Path) -> None:
    publisher = module.CeleryPublisher
    send = publisher._send  # noqa: SLF001 - a crash test reaches inside

    def _send(self: Any, messages: Sequence[Any]) -> None:
        send(self, [*messages] * 3 if (directory / TRIPLE).exists() else messages)

    publisher._send = _send  # noqa: SLF001 - as above
