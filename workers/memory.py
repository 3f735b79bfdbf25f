"""How a worker process keeps its memory between two batches.

A batch works on arrays of some hundred kilobytes each. By default glibc maps such a block anew for every array and
gives it back when the array is gone, and the kernel clears each page of it again: in a virtual machine, where a page
fault costs microseconds, that takes as long as the arithmetic. Kept, the memory is the same at the end of each batch.
"""

from __future__ import annotations

import ctypes
import gc

from core.log import get_logger

log = get_logger(__name__)

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
_LARGEST_BLOCK = 32 * 2**20  # glibc takes no more
_KEPT_BYTES = 64 * 2**20


def keep_freed_memory() -> None:
    """Take blocks of up to 32 MiB from the heap, and keep 64 MiB of it when they are free.

    Does nothing where libc is not glibc.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        log.debug("no mallopt: memory goes back to the system after every batch")
        return
    mallopt(_M_MMAP_THRESHOLD, _LARGEST_BLOCK)
    mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)


def leave_out_of_collections() -> None:
    """Let Python's garbage collector look at nothing that is there by now: modules stay to the end of the process.

    Ten thousand prices make it look through everything again and again: a fifth of the time of a window.
    """
    gc.collect()
    gc.freeze()
