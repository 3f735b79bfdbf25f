"""A fingerprint of portfolio rows that depends on the work alone: not on batches, their order, runs, times or workers.

Each row is hashed from its key, cash, equity and positions; the hashes are added modulo 2**64, so that the digest of a
day is the sum over its batches. Mixing: the finaliser of SplitMix64 (Steele, Lea, Flood: Fast splittable pseudorandom
number generators, 2014). It detects errors, not attackers.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from engine.ticks import Ints

Words = NDArray[np.uint64]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_SLOT = np.array([0xD6E8FEB86659FD93, 0xA0761D6478BD642F, 0xE7037ED1A0B428DB], dtype=np.uint64)


def digest_rows(
    key: tuple[Ints, Ints, int], cash: Ints, equity: Ints, positions: tuple[NDArray[np.int32], Ints, Ints]
) -> int:
    """The digest, 0 <= d < 2**64, of n rows of one day.

    Args:
        key: user ids (n,), simulation ids (n,), day number.
        cash, equity: int64 (n,), ticks.
        positions: asset ids, quantities and cost basis, each (n, K); an id of 0 is padding and does not count.
    """
    user, simulation, day = key
    salt = np.array((0x9E3779B97F4A7C15 * (day + 1)) % 2**64, dtype=np.uint64)
    state = _mix(_words(user) + salt)
    for column in (simulation, cash, equity):
        state = _mix((state ^ _words(column)) + _GOLDEN)
    asset, quantity, cost = (_words(column.astype(np.int64, copy=False)) for column in positions)
    for slot in range(asset.shape[1]):
        used = asset[:, slot] != 0
        word = asset[:, slot] * _SLOT[0] + quantity[:, slot] * _SLOT[1] + _mix(cost[:, slot] * _SLOT[2])
        state = np.where(used, _mix((state ^ word) + _GOLDEN), state)
    return int(state.sum(dtype=np.uint64))


def combine_digests(*digests: int) -> int:
    """The digest of the union of disjoint sets of rows."""
    return sum(digests) % 2**64


def _words(column: Ints) -> Words:
    return np.ascontiguousarray(column).view(np.uint64)


def _mix(word: Words) -> Words:
    word = (word ^ (word >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    word = (word ^ (word >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return word ^ (word >> np.uint64(31))
