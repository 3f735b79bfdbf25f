"""A pool has as many turns as cores; whoever dies leaves his turn, and nobody waits for ever."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator

import pytest

from services.core_slots import CoreSlots, cores
from tests.support.polling import wait_until

# The pool of workers is forked too, and the children here do nothing but wait.
pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")


@pytest.fixture
def slots() -> Iterator[CoreSlots]:
    slots = CoreSlots(2)
    yield slots
    slots.close()


@pytest.fixture
def holder(slots: CoreSlots) -> Iterator[Callable[[], int]]:
    """Starts processes that take a turn and keep it until they are killed; yields when they have it."""
    pids: list[int] = []

    def start() -> int:
        ours, theirs = os.pipe()
        pid = os.fork()
        if pid == 0:
            with slots.hold() as held:
                os.write(theirs, b"1" if held else b"0")
                signal.pause()
        os.close(theirs)
        assert os.read(ours, 1) == b"1"
        os.close(ours)
        pids.append(pid)
        return pid

    yield start
    for pid in pids:
        _end(pid)


def _end(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    except (ProcessLookupError, ChildProcessError):
        return


def test_there_are_as_many_turns_as_were_asked_for(slots: CoreSlots, holder: Callable[[], int]) -> None:
    with slots.hold(patience=0) as held:
        assert held
    holder()
    with slots.hold(patience=0) as held:
        assert held
    holder()
    with slots.hold(patience=0) as held:
        assert not held


def test_the_turn_of_a_process_that_is_killed_is_free(slots: CoreSlots, holder: Callable[[], int]) -> None:
    holder()
    victim = holder()
    with slots.hold(patience=0) as held:
        assert not held
    _end(victim)

    def free() -> bool:
        with slots.hold(patience=0) as held:
            return held

    wait_until(free, what="a free turn")


def test_a_turn_is_given_back_when_the_work_fails(slots: CoreSlots, holder: Callable[[], int]) -> None:
    holder()
    for _ in range(3):
        with pytest.raises(ZeroDivisionError), slots.hold(patience=0) as held:
            assert 1 // (held - 1)


def test_there_is_a_core() -> None:
    assert cores() >= 1
