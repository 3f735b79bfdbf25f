"""`nightshift bench scaling`: what the function of services/scaling.py would have done, without starting anything.

How long batches take is recorded: scaling_nights.json, real nights and a real reprocess. When they come is each
scenario's; they wait, are taken by the first process that is free, and done. Workers are wanted by the function under
the settings' limits, every five seconds as the tick does, and begin to work half a minute later.

Two figures judge it. Flaps: changes that were taken back within twice the cool-down. Lag: the longest time that what
waited was over its target while more workers were allowed and had not been asked for.
"""

from __future__ import annotations

import heapq
import itertools
import json
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from core.settings import Settings
from services.scaling import Limits, Signals, State, wanted
from services.scaling_inputs import limits_of

RECORDED = Path(__file__).with_name("scaling_nights.json")
_BEGIN = datetime(2024, 1, 1, tzinfo=UTC)
_TICK = 5.0
_START_SECONDS = 30.0  # from the wish for a pod to its first batch
_PROCESSES = 2  # of a worker
_PLOT_SECONDS = 60.0
_HOUR, _DAY = 3600.0, 86_400.0

Arrivals = Iterator[tuple[float, float]]
"""Batches by (second at which it comes, seconds that it takes), in order."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """What comes when, for how long it is watched, and how many batches may be in work at once."""

    name: str
    seconds: float
    arrivals: Callable[[list[float], list[float]], Arrivals]
    at_once: int | None = None


@dataclass(slots=True)
class Outcome:
    """What a scenario came to; see `as_json` for the names of the figures."""

    changes: list[tuple[float, int]] = field(default_factory=list)
    flaps: int = 0
    lag: float = 0.0
    done: float = 0.0
    longest_wait: float = 0.0
    worker_hours: float = 0.0
    most: int = 0
    plot: list[tuple[int, int, int]] = field(default_factory=list)


def measure_scaling(*, settings: Settings, tell: Callable[[str], None] = lambda _: None) -> dict[str, Any]:
    """Every scenario with the function, with the fewest workers all the time and with the most.

    Returns:
        Figures by scenario; `plot`: (second, batches that wait, workers wanted), once a minute and at each change.
    """
    limits = limits_of(settings)
    recorded = json.loads(RECORDED.read_text(encoding="utf-8"))
    night, again = recorded["nightly_seconds"], recorded["reprocess_seconds"]
    result: dict[str, Any] = {}
    for scenario in scenarios():
        tell(f"{scenario.name}: {scenario.seconds / _HOUR:.0f} h")
        bounds = {
            "wanted": limits,
            "fewest": replace(limits, maximum=limits.minimum),
            "most": replace(limits, minimum=limits.maximum),
        }
        runs = {name: simulate(scenario, its, night, again) for name, its in bounds.items()}
        result[scenario.name] = _as_json(runs, limits)
    return result


def scenarios() -> list[Scenario]:
    """What a fleet meets: nights, hours of reprocessing, bursts, a load that stays."""
    return [
        Scenario("seven nights", 7 * _DAY, _seven_nights),
        Scenario("hours of reprocessing", 12 * _HOUR, _hours),
        Scenario("the same, four at once", 12 * _HOUR, _hours, at_once=4),
        Scenario("bursts every 12 minutes", 6 * _HOUR, _bursts),
        Scenario("a load for five workers", 6 * _HOUR, _steady),
        Scenario("a load that swings by the hour", 12 * _HOUR, _swinging),
    ]


def simulate(scenario: Scenario, limits: Limits, night: list[float], again: list[float]) -> Outcome:
    """Go through a scenario, tick by tick."""
    fleet, outcome = _Fleet(limits.minimum), Outcome(most=limits.minimum)
    coming = scenario.arrivals(night, again)
    following = next(coming, None)
    state: State | None = None
    over = _Lag()
    for tick in itertools.count():
        now = tick * _TICK
        if now >= scenario.seconds and following is None and not fleet.unfinished:
            break
        while following is not None and following[0] <= now:
            fleet.waiting.append(following)
            following = next(coming, None)
        fleet.work(now, scenario.at_once)
        signals = fleet.signals(now, scenario.at_once)
        decision = wanted(state, signals, limits, _BEGIN + timedelta(seconds=now))
        if state is not None and decision.workers != state.workers:
            outcome.changes.append((now, decision.workers))
        state = decision.state
        fleet.resize(decision.workers, now)
        over.look(now, signals, decision.workers, limits)
        outcome.most = max(outcome.most, decision.workers)
        outcome.worker_hours += decision.workers * _TICK / _HOUR
        if now % _PLOT_SECONDS == 0 or (outcome.changes and outcome.changes[-1][0] == now):
            outcome.plot.append((round(now), len(fleet.waiting), decision.workers))
    outcome.done, outcome.longest_wait, outcome.lag = fleet.done, fleet.longest_wait, over.longest
    outcome.flaps = _flaps([(0.0, limits.minimum), *outcome.changes], 2 * limits.down.total_seconds())
    return outcome


class _Lag:
    """How long what waits has been over its target while more were allowed, useful, and not asked for."""

    def __init__(self) -> None:
        self.longest = 0.0
        self._since: float | None = None

    def look(self, now: float, signals: Signals, workers: int, limits: Limits) -> None:
        useful = (signals.waiting + signals.at_work) / signals.processes
        if signals.at_once is not None:
            useful = min(useful, signals.at_once / signals.processes)
        backlog = signals.backlog(workers)
        behind = backlog is not None and backlog > limits.backlog_seconds and workers < min(limits.maximum, useful)
        self._since = (now if self._since is None else self._since) if behind else None
        if self._since is not None:
            self.longest = max(self.longest, now - self._since)


class _Fleet:
    """Processes and what waits for them. Those that are not wanted any more end with what they have in hand."""

    def __init__(self, workers: int) -> None:
        self.waiting: deque[tuple[float, float]] = deque()
        self.done = self.longest_wait = 0.0
        self._free = [0.0] * (workers * _PROCESSES)  # when each is free again
        self._ends: list[float] = []
        self._measured: deque[float] = deque(maxlen=500)

    @property
    def unfinished(self) -> bool:
        return bool(self.waiting or self._ends)

    def work(self, now: float, at_once: int | None) -> None:
        """Begin all that is begun until the next tick."""
        until = now + _TICK
        while self._ends and self._ends[0] <= now:
            self.done = heapq.heappop(self._ends)
        while self.waiting and self._free and self._free[0] < until:
            came, takes = self.waiting[0]
            begin = max(self._free[0], came)
            if at_once is not None and len(self._ends) >= at_once:
                # One begins when another ends.
                begin = max(begin, heapq.heappop(self._ends))
                if begin >= until:
                    heapq.heappush(self._ends, begin)
                    return
            self.waiting.popleft()
            heapq.heapreplace(self._free, begin + takes)
            heapq.heappush(self._ends, begin + takes)
            self.longest_wait = max(self.longest_wait, begin - came)
            self._measured.append(takes)

    def signals(self, now: float, at_once: int | None) -> Signals:
        """What the tick would see. CPU is in use as far as processes are."""
        busy = sum(end > now for end in self._ends)
        seconds = sum(self._measured) / len(self._measured) if self._measured else None
        cpu = min(busy / len(self._free), 1.0)
        return Signals(len(self.waiting), busy, seconds, _PROCESSES, at_once, cpu=cpu)

    def resize(self, workers: int, now: float) -> None:
        missing = workers * _PROCESSES - len(self._free)
        for _ in range(missing):
            heapq.heappush(self._free, now + _START_SECONDS)
        if missing < 0:
            self._free = sorted(self._free)[: workers * _PROCESSES]


def _seven_nights(night: list[float], again: list[float]) -> Arrivals:
    del again
    for day in range(7):
        # A million users are a hundred batches, at one minute past midnight.
        yield from ((day * _DAY + 60, seconds) for seconds in itertools.islice(itertools.cycle(night), 100))


def _hours(night: list[float], again: list[float]) -> Arrivals:
    # Everybody's last years again, beside the night: 40 hours of one process, at one o'clock.
    yield from ((60.0, seconds) for seconds in itertools.islice(itertools.cycle(night), 100))
    yield from ((_HOUR, seconds) for seconds in _worth(again, 40 * _HOUR))


def _bursts(night: list[float], again: list[float]) -> Arrivals:
    del night
    for burst in range(30):
        # Each a quarter of an hour for the fewest workers: without a cool-down they would come and go with it.
        yield from ((burst * 720.0, seconds) for seconds in _worth(again, 900.0 * 2 * _PROCESSES))


def _steady(night: list[float], again: list[float]) -> Arrivals:
    del night
    yield from _stream(again, lambda _: 5.0, 6 * _HOUR)


def _swinging(night: list[float], again: list[float]) -> Arrivals:
    del night
    yield from _stream(again, lambda now: 7.0 if now // _HOUR % 2 else 1.0, 12 * _HOUR)


def _worth(seconds: list[float], total: float) -> Iterator[float]:
    """Batches that take one process so long together."""
    for takes in itertools.cycle(seconds):
        if total <= 0:
            return
        total -= takes
        yield takes


def _stream(seconds: list[float], load: Callable[[float], float], until: float) -> Arrivals:
    """Batches that keep `load` workers busy."""
    now = 0.0
    for takes in itertools.cycle(seconds):
        if now >= until:
            return
        yield now, takes
        now += takes / (load(now) * _PROCESSES)


def _flaps(changes: list[tuple[float, int]], within: float) -> int:
    """Changes in the other direction than the one before, and soon after it."""
    found = 0
    for (_, first), (then, second), (now, third) in zip(changes, changes[1:], changes[2:], strict=False):
        found += (second > first) != (third > second) and now - then < within
    return found


def _as_json(runs: dict[str, Outcome], limits: Limits) -> dict[str, Any]:
    mine = runs["wanted"]
    gaps = [later - earlier for (earlier, _), (later, _) in itertools.pairwise(mine.changes)]
    return {
        "changes": len(mine.changes),
        "flaps": mine.flaps,
        "lag_s": mine.lag,
        "most_workers": mine.most,
        "shortest_gap_s": min(gaps, default=None),
        "cool_downs_s": [limits.up.total_seconds(), limits.down.total_seconds()],
        "longest_wait_s": {name: round(run.longest_wait, 1) for name, run in runs.items()},
        "done_after_s": {name: round(run.done, 1) for name, run in runs.items()},
        "worker_hours": {name: round(run.worker_hours, 2) for name, run in runs.items()},
        "changed": mine.changes,
        "plot": mine.plot,
    }
