"""The fault schedule of chaos: a pure function of the seed that leaves no kind of fault out."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from benchmarks.chaos.schedule import FAULTS, KINDS, POISON, Kind, schedule

SEEDS = st.integers(0, 2**31)
NIGHTS = st.integers(1, 60)


@given(first=SEEDS)
def test_fifty_consecutive_seeds_see_every_kind_at_least_five_times(first: int) -> None:
    counts = Counter(fault.kind for seed in range(first, first + 50) for fault in schedule(seed, nights=5))
    assert {kind for kind in KINDS if counts[kind] < 5} == set()


@given(seed=SEEDS, nights=NIGHTS)
def test_a_seed_always_means_the_same_faults_in_order(seed: int, nights: int) -> None:
    faults = schedule(seed, nights=nights)
    assert faults == schedule(seed, nights=nights)
    assert len(faults) == FAULTS
    assert [fault.at for fault in faults] == sorted(fault.at for fault in faults)


@given(seed=SEEDS, nights=NIGHTS)
def test_every_fault_strikes_while_there_is_work_left(seed: int, nights: int) -> None:
    for fault in schedule(seed, nights=nights):
        assert 0 <= fault.at < 1
        if fault.kind in POISON:
            assert round(fault.at * nights) in range(nights)
        if fault.kind is Kind.CRASH_BEFORE_PUBLISH and nights > 1:
            assert fault.at < (nights - 1) / nights
        if fault.kind is Kind.LATENCY:
            assert 0.2 <= fault.seconds <= 5


def test_seeds_differ() -> None:
    assert len({schedule(seed, nights=5) for seed in range(200)}) == 200
