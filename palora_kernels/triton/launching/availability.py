"""Whether the Triton kernels can run on this machine. Imports no triton and touches no GPU until asked."""

from __future__ import annotations

import functools
import importlib.util
import os

import torch

AVAILABLE = "available"
DTYPES = frozenset({torch.float32, torch.bfloat16, torch.float16})
OLDEST = (8, 0)


def interpreted() -> bool:
    """Whether TRITON_INTERPRET=1 asks for Triton's interpreter, which runs on CPU tensors, slowly, for tests."""
    return os.environ.get("TRITON_INTERPRET") == "1"


def status() -> str:
    """ "available", or the reason why not."""
    return _status(interpreted())


@functools.cache
def _status(interpreter: bool) -> str:
    if importlib.util.find_spec("triton") is None:
        return "the package triton is not installed (PyTorch's builds for CUDA and ROCm on Linux bring it)"
    if interpreter:
        return AVAILABLE
    if not torch.cuda.is_available():
        return "there is no CUDA or ROCm device (TRITON_INTERPRET=1 runs the kernels on CPU tensors, slowly, for tests)"
    if torch.version.hip is None:
        best = max(torch.cuda.get_device_capability(i) for i in range(torch.cuda.device_count()))
        if best < OLDEST:
            return f"Triton needs compute capability {OLDEST[0]}.{OLDEST[1]}; this device has {best[0]}.{best[1]}"
    return AVAILABLE


@functools.cache
def _old(index: int) -> bool:
    return torch.version.hip is None and torch.cuda.get_device_capability(index) < OLDEST


def obstacle(device: torch.device, dtype: torch.dtype) -> str | None:
    """Why tensors of this device and dtype cannot use the kernels, where `status` is "available"; None if they can."""
    if dtype not in DTYPES:
        return f"the Triton kernels accumulate in float32 and take float32, bfloat16 and float16. Found {dtype}"
    if device.type == "cuda":
        index = torch.cuda.current_device() if device.index is None else device.index
        return f"Triton needs compute capability {OLDEST[0]}.{OLDEST[1]}" if _old(index) else None
    if device.type == "cpu" and interpreted():
        return None
    return f"the Triton kernels run on CUDA and ROCm, or on the CPU under TRITON_INTERPRET=1. Found {device.type}"


def preferred(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether the automatic choice takes the kernels: on a GPU that can; the interpreter only where it is named."""
    return device.type == "cuda" and not interpreted() and status() == AVAILABLE and obstacle(device, dtype) is None
