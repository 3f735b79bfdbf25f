"""How a reprocess is cut into batches: everybody once, bounded, and no two batches in one granule."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from services.locks import GRANULE_USERS
from services.reprocessing import _ranges

OWNERS = st.lists(st.tuples(st.integers(1, 3000), st.integers(1, 700)), min_size=1, max_size=6)


@given(OWNERS, st.integers(1, 5000))
def test_batches_hold_everybody_once_and_large_ones_share_no_granule(runs: list[tuple[int, int]], size: int) -> None:
    owners: list[int] = []
    for gap, length in runs:
        first = (owners[-1] if owners else 0) + gap
        owners += range(first, first + length)

    ranges = list(_ranges(owners, size))

    assert [[user for user in owners if lo <= user < hi] for lo, hi, _ in ranges] == [
        owners[sum(count for _, _, count in ranges[:index]) :][: ranges[index][2]] for index in range(len(ranges))
    ]
    assert sum(count for _, _, count in ranges) == len(owners)
    assert all(0 < count <= size for _, _, count in ranges)
    if size > GRANULE_USERS:
        granules = [{user // GRANULE_USERS for user in range(lo, hi)} for lo, hi, _ in ranges]
        assert sum(map(len, granules)) == len(set().union(*granules))
