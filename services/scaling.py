"""How many workers are wanted: one pure function. Never outside its limits, never two changes within a cool-down.

A worker is whatever is started and stopped as one: a pod or a host with a pool of processes, or one process of a pool.

More, if what waits would take the workers longer than the target, if the queue is too long, or if CPU or memory have
been in use too much for a while and work waits. As many more as reach the target, else one; but none that would find
nothing to do. Fewer, if fewer have been enough for the whole of a cool-down; enough means that what waits takes them
half of the target. So what is right for a constant load stays right, and a gap between two bursts ends nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

_SLACK = 2  # how many times as well as its target a backlog must be before fewer are enough


@dataclass(frozen=True, slots=True)
class Limits:
    """What is allowed and aimed at.

    Attributes:
        minimum, maximum: workers.
        backlog_seconds: what waits should not take longer.
        queue: messages that may wait.
        cpu, memory: shares in use, 0 to 1, that are too much if they last for `pressure`.
        up, down: cool-downs from the last change to one upwards, or downwards.
    """

    minimum: int
    maximum: int
    backlog_seconds: float
    queue: int
    cpu: float
    memory: float
    pressure: timedelta
    up: timedelta
    down: timedelta


@dataclass(frozen=True, slots=True)
class Signals:
    """What is seen of the work and of those who do it. None: not known, and then no reason for anything.

    Attributes:
        waiting, at_work: messages in the queues, and in the hands of workers.
        seconds: that one process takes for a message that waits.
        processes: of one worker.
        at_once: how many messages may be in work at once; None: any number.
        cpu, memory: shares in use, 0 to 1.
    """

    waiting: int
    at_work: int
    seconds: float | None
    processes: float = 1.0
    at_once: int | None = None
    cpu: float | None = None
    memory: float | None = None

    def backlog(self, workers: int) -> float | None:
        """Seconds that so many workers take for what waits."""
        return None if self.seconds is None else self.waiting * self.seconds / (workers * self.processes)


@dataclass(frozen=True, slots=True)
class State:
    """What is remembered from one decision to the next.

    Attributes:
        workers: wanted.
        changed: when that number came about; None: there was no change yet.
        pressed: since when CPU or memory have been in use too much while work waits.
        calm: since when fewer have been enough.
        enough: the most that were needed since then.
    """

    workers: int
    changed: datetime | None = None
    pressed: datetime | None = None
    calm: datetime | None = None
    enough: int = 0


@dataclass(frozen=True, slots=True)
class Decision:
    """How many are wanted, why in one line, and what to remember."""

    workers: int
    reason: str
    state: State


def wanted(state: State | None, signals: Signals, limits: Limits, now: datetime) -> Decision:
    """Decide. `state` is that of the last decision; None: this is the first.

    Moments of the future, which a clock that was set back leaves behind, count as long ago.
    """
    state = state or State(limits.minimum)
    # Other limits than last time hold at once; only what follows waits for a cool-down.
    current = min(max(state.workers, limits.minimum), limits.maximum)
    pressed = (state.pressed or now) if _is_pressed(signals, limits) else None
    most = _useful(signals)
    state = replace(state, workers=current, pressed=pressed)
    why_more = _why_more(state, signals, limits, now)
    if why_more and min(most, limits.maximum) > current:
        return _more(replace(state, calm=None, enough=0), signals, limits, now, why_more)
    enough = min(max(_enough(signals, limits), limits.minimum), limits.maximum)
    if pressed or signals.waiting * _SLACK > limits.queue or enough >= current:
        reason = (
            f"{why_more}, but more are not allowed or would find nothing to do" if why_more else "the workers keep up"
        )
        return _stay(replace(state, calm=None, enough=0), reason)
    return _fewer(replace(state, calm=state.calm or now, enough=max(state.enough, enough)), limits, now)


def _why_more(state: State, signals: Signals, limits: Limits, now: datetime) -> str:
    """The reason for more workers; empty without one."""
    backlog = signals.backlog(state.workers)
    if backlog is not None and backlog > limits.backlog_seconds:
        return f"what waits takes {backlog:.0f} s, over the target of {limits.backlog_seconds:.0f} s"
    if signals.waiting > limits.queue:
        return f"{signals.waiting} messages wait, over {limits.queue}"
    if state.pressed is not None and _passed(state.pressed, limits.pressure, now):
        shares = {"CPU": (signals.cpu, limits.cpu), "memory": (signals.memory, limits.memory)}
        over = [f"{name} {share:.0%}" for name, (share, limit) in shares.items() if share is not None and share > limit]
        return f"{' and '.join(over)} in use for {limits.pressure.total_seconds():.0f} s while work waits"
    return ""


def _more(state: State, signals: Signals, limits: Limits, now: datetime, why: str) -> Decision:
    if state.changed is not None and not _passed(state.changed, limits.up, now):
        return _stay(state, f"{why}; the last change is too young")
    target = max(state.workers + 1, _for_backlog(signals, limits.backlog_seconds))
    workers = min(target, _useful(signals), limits.maximum)
    return Decision(workers, why, State(workers, now, state.pressed))


def _fewer(state: State, limits: Limits, now: datetime) -> Decision:
    assert state.calm is not None  # noqa: S101 - the caller's
    if not _passed(state.calm, limits.down, now) or not _passed(state.changed or state.calm, limits.down, now):
        return _stay(state, f"{state.enough} would be enough; not for long yet")
    return Decision(state.enough, f"{state.enough} have been enough for a while", State(state.enough, now))


def _stay(state: State, reason: str) -> Decision:
    return Decision(state.workers, reason, state)


def _is_pressed(signals: Signals, limits: Limits) -> bool:
    return signals.waiting > 0 and ((signals.cpu or 0.0) > limits.cpu or (signals.memory or 0.0) > limits.memory)


def _useful(signals: Signals) -> int:
    """How many workers could have anything in hand."""
    messages = signals.waiting + signals.at_work
    if signals.at_once is not None:
        messages = min(messages, max(signals.at_once, signals.at_work))
    return math.ceil(messages / signals.processes)


def _for_backlog(signals: Signals, seconds: float) -> int:
    """How many workers do what waits in so many seconds."""
    backlog = signals.backlog(1)
    return 0 if backlog is None else math.ceil(backlog / seconds)


def _enough(signals: Signals, limits: Limits) -> int:
    """How many do: for what is in work, and for what waits in half of the target."""
    if signals.seconds is None:
        return _useful(signals)
    in_hand = math.ceil(signals.at_work / signals.processes)
    return max(in_hand, min(_for_backlog(signals, limits.backlog_seconds / _SLACK), _useful(signals)))


def _passed(since: datetime, how_long: timedelta, now: datetime) -> bool:
    return now < since or now - since >= how_long
