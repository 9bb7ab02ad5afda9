"""Keep freed memory in the process while training on a CPU.

A step allocates and frees the same tens of megabytes again and again. By default glibc hands them back to the system
each time, and the kernel zeroes every page anew on first touch. With this setting the process keeps its peak memory
until it ends.
"""

from __future__ import annotations

import ctypes
import sys

_M_TRIM_THRESHOLD = -1
_M_TOP_PAD = -2
_M_MMAP_THRESHOLD = -3


def keep_freed_memory() -> bool:
    """Tell glibc's allocator to reuse large blocks; returns whether it listened (False where there is no glibc)."""
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    settings = {_M_MMAP_THRESHOLD: 1 << 30, _M_TRIM_THRESHOLD: (1 << 31) - 1, _M_TOP_PAD: 64 << 20}
    accepted = [mallopt(key, value) == 1 for key, value in settings.items()]
    return all(accepted)
