"""The most memory that a function takes beyond what is there before it."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable

import torch


def peak_bytes(run: Callable[[], object], device: torch.device) -> int | None:
    """Peak bytes of one call above its start: PyTorch's allocator on CUDA, resident memory on Linux, else None."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        run()
        return torch.cuda.max_memory_allocated(device) - before
    gc.collect()
    try:
        ctypes.CDLL(None).malloc_trim(0)  # what is free already must not hide what is needed
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")  # resets the peak
        before = _status("VmRSS")
        run()
        return max(_status("VmHWM") - before, 0)
    except (OSError, AttributeError):
        return None


def _status(key: str) -> int:
    with open("/proc/self/status") as file:
        for line in file:
            if line.startswith(key + ":"):
                return int(line.split()[1]) * 1024
    raise OSError(f"no {key} in /proc/self/status")
