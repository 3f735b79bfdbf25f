"""How much memory a pool process takes at its peak, and how a worker and its pool know of the market that decides it.

Guarantee: whoever reckons with that memory does so here, and by the assets of the market that a process of this worker
has read last; before the first one, by those that the database had when the worker started.
"""

from __future__ import annotations

import ctypes
import mmap

from core.settings import Settings

# KiB of a pool process' peak, generously: 117,000 for small batches, 1 more for each user of a batch, and 24 for each
# asset that there is.
_BASE_KIB, _USER_KIB, _ASSET_KIB = 200_000, 4, 25
# The same memory in a worker and in all that it forks. Nobody needs a lock: eight bytes are written at once.
_assets = ctypes.c_int64.from_buffer(mmap.mmap(-1, mmap.PAGESIZE))


def tell_assets(assets: int) -> None:
    """Let this worker and its pool know how many assets there are."""
    _assets.value = assets


def known_assets() -> int:
    """How many assets there are, as far as this worker and its pool know; 0 before anybody told."""
    return _assets.value


def most_memory(settings: Settings, assets: int) -> int:
    """Bytes that a pool process takes at its peak, generously, where there are so many assets."""
    return 1024 * (_BASE_KIB + _USER_KIB * settings.batch_users + _ASSET_KIB * assets)


def memory_limit(settings: Settings, assets: int) -> int:
    """KiB at which a pool process is replaced when its batch is done.

    Celery compares the peak, which only grows; twice of what it should be, so that only a leak is met.
    """
    return 2 * most_memory(settings, assets) // 1024
