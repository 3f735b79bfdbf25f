"""The function that says how many workers are wanted: what holds for any signals, and examples with figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from services.scaling import Decision, Limits, Signals, State, wanted
from services.scaling_inputs import limits_of
from tests.support.nights import ROOT
from tests.support.nights import settings as plain_settings

NOW = datetime(2024, 3, 5, 12, tzinfo=UTC)
LIMITS = limits_of(plain_settings())
IDLE = Signals(waiting=0, at_work=0, seconds=1.0)
FEW = Signals(waiting=5, at_work=2, seconds=0.1)

shares = st.none() | st.floats(0, 1)
signals = st.builds(
    Signals,
    waiting=st.integers(0, 5000),
    at_work=st.integers(0, 60),
    seconds=st.none() | st.floats(0.001, 3600),
    processes=st.sampled_from([1.0, 1.5, 2.0, 8.0]),
    at_once=st.none() | st.integers(0, 100),
    cpu=shares,
    memory=shares,
)
durations = st.integers(0, 900).map(lambda seconds: timedelta(seconds=seconds))
limits = st.builds(
    Limits,
    minimum=st.integers(1, 4),
    maximum=st.integers(4, 20),
    backlog_seconds=st.floats(1, 1000),
    queue=st.integers(1, 200),
    cpu=st.floats(0.1, 1),
    memory=st.floats(0.1, 1),
    pressure=durations,
    up=durations,
    down=durations,
)
steps = st.lists(st.tuples(st.integers(1, 900), signals), min_size=1, max_size=60)


def run(
    seen: Sequence[tuple[int, Signals]], limits: Limits, state: State | None = None, now: datetime = NOW
) -> list[Decision]:
    """Decide again and again; each with its seconds since the decision before."""
    decisions = []
    for seconds, its in seen:
        now += timedelta(seconds=seconds)
        decisions.append(wanted(state, its, limits, now))
        state = decisions[-1].state
    return decisions


def end(seen: Sequence[tuple[int, Signals]]) -> datetime:
    """When the last of them is decided."""
    return NOW + timedelta(seconds=sum(seconds for seconds, _ in seen))


@given(steps, limits, st.integers(1, 40))
def test_never_outside_its_limits(seen: list[tuple[int, Signals]], limits: Limits, workers: int) -> None:
    for decision in run(seen, limits, State(workers)):
        assert limits.minimum <= decision.workers <= limits.maximum
        assert decision.workers == decision.state.workers
        assert decision.reason


@given(steps, limits)
def test_never_two_changes_within_a_cool_down(seen: list[tuple[int, Signals]], limits: Limits) -> None:
    now, changed, before = NOW, None, limits.minimum
    for (seconds, _), decision in zip(seen, run(seen, limits), strict=True):
        now += timedelta(seconds=seconds)
        if decision.workers != before:
            cool_down = limits.up if decision.workers > before else limits.down
            assert changed is None or now - changed >= cool_down
            changed, before = now, decision.workers


@given(steps, signals, limits, st.integers(0, 5000), st.floats(0, 3600))
def test_a_longer_backlog_never_wants_fewer(
    seen: list[tuple[int, Signals]], last: Signals, limits: Limits, more: int, longer: float
) -> None:
    state = run(seen, limits)[-1].state
    now = end(seen) + timedelta(seconds=600)
    here = wanted(state, last, limits, now).workers
    assert here <= wanted(state, replace(last, waiting=last.waiting + more), limits, now).workers
    if last.seconds is not None:
        assert here <= wanted(state, replace(last, seconds=last.seconds + longer), limits, now).workers


@given(steps, signals, limits)
def test_what_stays_the_same_settles(seen: list[tuple[int, Signals]], last: Signals, limits: Limits) -> None:
    state = run(seen, limits)[-1].state
    wishes = [decision.workers for decision in run([(901, last)] * 60, limits, state, end(seen))]
    assert len(set(wishes[30:])) == 1
    # It may first go on with what has been calm for long, and then goes one way.
    directions = {after > before for before, after in pairwise(wishes[1:]) if after != before}
    assert len(directions) <= 1


@given(steps, limits)
def test_idle_ends_at_the_minimum(seen: list[tuple[int, Signals]], limits: Limits) -> None:
    state = run(seen, limits)[-1].state
    assert run([(901, IDLE)] * 3, limits, state, end(seen))[-1].workers == limits.minimum


def test_a_backlog_gets_as_many_as_its_target_needs_at_once() -> None:
    # 800 messages of 6 s: 40 minutes for two workers, five minutes for sixteen.
    backlog = Signals(waiting=800, at_work=2, seconds=6.0, processes=2.0)
    decision = wanted(None, backlog, LIMITS, NOW)
    assert decision.workers == 8
    assert decision.reason == "what waits takes 1200 s, over the target of 300 s"
    assert wanted(None, replace(backlog, waiting=8000), LIMITS, NOW).workers == 10


def test_a_night_of_seconds_changes_nothing() -> None:
    # A million users: a hundred batches of a tenth of a second.
    night = Signals(waiting=98, at_work=2, seconds=0.09, processes=2.0, cpu=1.0)
    assert {decision.workers for decision in run([(5, night), (5, IDLE)] * 50, LIMITS)} == {2}


def test_a_long_queue_gets_one_more_each_cool_down() -> None:
    queue = Signals(waiting=101, at_work=2, seconds=None)
    wishes = [decision.workers for decision in run([(60, queue)] * 15, LIMITS)]
    assert wishes == [3] * 5 + [4] * 5 + [5] * 5


@pytest.mark.parametrize("pressed", [replace(FEW, cpu=0.71), replace(FEW, memory=0.81)], ids=["cpu", "memory"])
def test_pressure_counts_after_five_minutes_and_while_work_waits(pressed: Signals) -> None:
    assert [decision.workers for decision in run([(100, pressed)] * 4, LIMITS)] == [2, 2, 2, 3]
    assert {decision.workers for decision in run([(100, replace(pressed, waiting=0))] * 9, LIMITS)} == {2}
    relieved = [(100, pressed), (100, pressed), (100, FEW), (100, pressed), (100, pressed)]
    assert {decision.workers for decision in run(relieved, LIMITS)} == {2}


def test_no_more_than_may_be_in_work_at_once() -> None:
    # Hours of work of which four batches may be in work at once: two workers of two processes have them all.
    reprocess = Signals(waiting=5000, at_work=4, seconds=20.0, processes=2.0, at_once=4)
    assert wanted(None, reprocess, LIMITS, NOW).workers == 2
    assert "would find nothing to do" in wanted(None, reprocess, LIMITS, NOW).reason
    assert wanted(None, replace(reprocess, at_once=12), LIMITS, NOW).workers == 6


def test_fewer_only_after_ten_minutes_without_need_and_to_the_most_that_was_needed() -> None:
    busy, quiet = Signals(waiting=0, at_work=7, seconds=1.0), Signals(waiting=0, at_work=3, seconds=1.0)
    state = State(9, NOW)
    seen = [(120, quiet), (120, busy), (120, quiet), (120, quiet), (120, quiet), (120, quiet)]
    assert [decision.workers for decision in run(seen, LIMITS, state)] == [9, 9, 9, 9, 9, 7]
    interrupted = [
        (120, Signals(waiting=60, at_work=9, seconds=1.0)) if i == 3 else step for i, step in enumerate(seen)
    ]
    assert {decision.workers for decision in run(interrupted, LIMITS, state)} == {9}


def test_a_clock_that_was_set_back_holds_nothing_up() -> None:
    state = State(2, NOW + timedelta(hours=1))
    assert wanted(state, Signals(waiting=800, at_work=2, seconds=6.0), LIMITS, NOW).workers == 10


def test_limits_in_the_wrong_order_are_refused() -> None:
    with pytest.raises(ValidationError, match="scale_min"):
        plain_settings(scale_min=5, scale_max=4)
    with pytest.raises(ValidationError, match="workers_max"):
        plain_settings(workers=5, workers_max=4)


def test_kubernetes_has_the_same_limits() -> None:
    (scaled,) = [
        manifest for manifest in yaml.safe_load_all((ROOT / "compose/keda/scaling.yaml").read_text("utf-8"))
        if manifest["kind"] == "ScaledObject"
    ]  # fmt: skip
    spec = scaled["spec"]
    assert (spec["minReplicaCount"], spec["maxReplicaCount"]) == (LIMITS.minimum, LIMITS.maximum)
    down = spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]["scaleDown"]
    assert timedelta(seconds=down["stabilizationWindowSeconds"]) == LIMITS.down
