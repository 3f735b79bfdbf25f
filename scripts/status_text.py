"""The picture that `nightshift status` shows on a terminal: what is wrong on top, then what there is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from rich.markup import escape

from scripts.cli import cell, console
from scripts.status import state

if TYPE_CHECKING:
    from services.problems import Problem
    from services.runs import RunView
    from services.status import Status
    from services.window_states import WindowState

_BAR = 30
_STYLES = {"page": "bold red", "warning": "yellow"}


def print_status(status: Status) -> None:
    """Print it on stdout."""
    out = console()
    for problem in status.problems:
        for line in _wrong(problem):
            out.print(line, soft_wrap=True)
    if not status.problems:
        out.print("[green]nothing is wrong[/]")
    lines = list(_lines(status))
    width = max(len(name) for name, _ in lines)
    out.print()
    for name, text in lines:
        out.print(f"{name:>{width}}  {text}", markup=False, soft_wrap=True)


def _wrong(problem: Problem) -> Iterator[str]:
    style = _STYLES[problem.severity]
    yield f"[{style}]{problem.severity:>7}[/]  [bold]{problem.name}[/]: {escape(problem.detail)}"
    yield f"         {problem.runbook}"


def _lines(status: Status) -> Iterator[tuple[str, str]]:
    yield "now", f"{status.now:%Y-%m-%d %H:%M:%S} UTC"
    yield from _night(status.night, status)
    for run in status.adhoc:
        done = f"{run.users_done:,} of {run.users:,} users"
        yield "ad hoc", f"run {run.id} · {state(run)} · {done}" + (f" · {run.reason}" if run.reason else "")
    yield "next night", f"{status.next_day}, due {status.next_due:%Y-%m-%d %H:%M} UTC"
    yield "population", f"about {status.users:,} users, {status.simulations:,} simulations"
    if status.redis_error is None:
        yield "waiting", _counted(status.queues)
        yield "unacked", _counted(status.unacked)
        yield "workers", ", ".join(status.workers) or "none answers"
        yield "serve", _counted(status.served)
    else:
        yield "queues", "unknown: Redis is away"
    yield "prices", f"newest close {status.newest_close or '–'}, {status.held_prices:,} held"
    for source in status.windows:
        yield "source", _source(source)
    yield "quarantine", f"{status.quarantined:,}"
    for alert in status.alerts:
        yield "alert", f"{alert.kind} since {cell(alert.raised_at)}: {alert.detail}"
    yield "beat", f"last tick {cell(status.last_tick)}" + (f": {status.last_tick_result}" if status.last_tick else "")


def _night(run: RunView | None, status: Status) -> Iterator[tuple[str, str]]:
    if run is None:
        yield "night", "none yet"
        return
    yield "night", f"{run.day} · run {run.id} · {run.status}"
    share = run.users_done / run.users if run.users else None
    speed = f" · {run.users_per_second:,.0f} users/s" if run.users_per_second else ""
    done = f"{run.users_done:,} of {run.users:,} users{speed}"
    yield "", f"{_bar(share)} {share:4.0%}  {done}" if share is not None else done
    if run.batches_failed:
        yield "failed", f"{run.batches_failed:,} of {run.batches:,} batches"
    if run.estimated_end:
        deadline = f", deadline {status.deadline:%H:%M:%S}" if status.deadline else ""
        yield "done at", f"{run.estimated_end:%H:%M:%S} UTC (estimated{deadline})"


def _bar(share: float) -> str:
    full = int(min(max(share, 0.0), 1.0) * _BAR)
    return "█" * full + "░" * (_BAR - full)


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.items() if count) or "nothing"


def _source(source: WindowState) -> str:
    waiting = ", ".join(f"{count:,} {status}" for status, count in source.open.items() if count)
    return f"{source.source} · newest window {cell(source.newest_done)}" + (f" · {waiting}" if waiting else "")
