"""Reductions over the few slots of many simulations.

numpy reduces along a short last axis one row at a time; going slot by slot over all rows is five to ten times as fast.
Matrices (n, K) lie in memory slot after slot (Fortran order), so that each of these steps reads what lies together; any
other order gives the same values, later.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from engine.ticks import Bools, Ints


def any_slot(mask: Bools) -> Bools:
    """bool (n,), whether any slot of `mask` (n, K) is True."""
    result = np.zeros(len(mask), dtype=np.bool_)
    for slot in range(mask.shape[1]):
        result |= mask[:, slot]
    return result


def sum_slots(values: Ints) -> Ints:
    """int64 (n,), the sum over the slots of `values` (n, K), wrapping."""
    result = np.zeros(len(values), dtype=np.int64)
    for slot in range(values.shape[1]):
        result += values[:, slot]
    return result


def pack_bits(mask: Bools) -> Ints:
    """int64 (n,), bit i set where slot i of `mask` (n, K) is True."""
    result = np.zeros(len(mask), dtype=np.int64)
    for slot in range(mask.shape[1]):
        result |= mask[:, slot].astype(np.int64) << slot
    return result


def unpack_bits(bits: Ints, slots: int) -> Bools:
    """bool (n, slots), whether bit i of `bits` (n,) is set; the inverse of `pack_bits`."""
    return ((bits[None, :] >> np.arange(slots, dtype=np.int64)[:, None]) & 1).astype(np.bool_).T


Places = tuple[NDArray[np.intp], NDArray[np.intp]]
"""Rows and slots, intp (m,) each: an index into matrices (n, K)."""


def places(mask: Bools) -> Places:
    """Where `mask` (n, K) is True, by slot, then row. np.nonzero takes five times as long for two dimensions."""
    rows = [np.flatnonzero(mask[:, slot]) for slot in range(mask.shape[1])]
    return np.concatenate(rows), np.repeat(np.arange(len(rows)), [len(part) for part in rows])


def codes_in(codes: NDArray[np.int16]) -> list[int]:
    """The different values of `codes`, ascending; faster than np.unique where there are few."""
    if len(codes) == 0:
        return []
    lowest = int(codes.min())
    return (np.flatnonzero(np.bincount(codes.astype(np.int64) - lowest)) + lowest).tolist()
