"""How a reprocess is cut into batches: everybody once, bounded, and no two batches in one granule."""

from __future__ import annotations

from itertools import accumulate

from hypothesis import given
from hypothesis import strategies as st

from services.locks import GRANULE_USERS
from services.reprocessing import MOST_GRANULES, _ranges

OWNERS = st.lists(st.tuples(st.integers(1, 1500), st.integers(1, 2500)), min_size=1, max_size=5)
# Below and above what a granule holds.
SIZES = st.one_of(st.integers(1, GRANULE_USERS), st.integers(GRANULE_USERS + 1, 4000))


@given(OWNERS, SIZES)
def test_batches_hold_everybody_once_and_large_ones_share_no_granule(runs: list[tuple[int, int]], size: int) -> None:
    owners: list[int] = []
    for gap, length in runs:
        first = (owners[-1] if owners else 0) + gap
        owners += range(first, first + length)

    ranges = list(_ranges(owners, size))

    ends = list(accumulate(count for _, _, count in ranges))
    begins = [0, *ends[:-1]]
    assert [(lo, hi) for lo, hi, _ in ranges] == [
        (owners[begin], owners[end - 1] + 1) for begin, end in zip(begins, ends, strict=True)
    ]
    assert sum(count for _, _, count in ranges) == len(owners)
    assert all(0 < count <= size for _, _, count in ranges)
    if size > GRANULE_USERS:
        granules = [set(range(lo // GRANULE_USERS, (hi - 1) // GRANULE_USERS + 1)) for lo, hi, _ in ranges]
        assert sum(map(len, granules)) == len(set().union(*granules))


def test_users_who_are_far_apart_share_a_batch_as_far_as_there_are_locks_for_their_granules() -> None:
    owners = [number * 5 * GRANULE_USERS for number in range(2 * MOST_GRANULES + 1)]

    assert [count for _, _, count in _ranges(owners, 10_000)] == [MOST_GRANULES, MOST_GRANULES, 1]
