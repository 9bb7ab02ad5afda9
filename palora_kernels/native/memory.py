"""Keep freed memory in the process: on a CPU, fetching it again costs more than most of what is done with it."""

from __future__ import annotations

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # glibc's numbers of mallopt's parameters


def keep_freed_memory(megabytes: int = 1024) -> bool:
    """Let the C library keep up to ``megabytes`` of freed memory instead of returning it to the system at every step.

    Training on stacked rays frees tens of megabytes a step; each page that comes back from the system is cleared and
    mapped again, about a fifth of a LeNet step. Process-wide, so it is for programs (a training run), not libraries.
    Results over 32 MB still come from the system; the C++ extension asks for huge pages there.

    Returns:
        Whether the C library has such a setting (glibc does) and took it.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    largest = 32 << 20  # the most that glibc lets the heap serve
    return bool(mallopt(_MMAP_THRESHOLD, largest)) and bool(mallopt(_TRIM_THRESHOLD, megabytes << 20))
