"""What differs between the releases of PyTorch and Triton that these packages run on; elsewhere nobody asks for one."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

# (torch, triton) of constraints.txt, constraints-2.11.txt and constraints-oldest.txt; README says what passed on each.
PINNED = (("2.13.0", "3.7.1"), ("2.11.0", "3.6.0"), ("2.8.0", "3.4.0"))


def release(version: str) -> tuple[int, int]:
    """ "2.11.0+cu130" -> (2, 11)."""
    major, minor = version.split(".")[:2]
    return int(major), int(minor)


@functools.cache
def triton_release() -> tuple[int, int]:
    """Imports triton: ask only where its kernels are compiled or listed."""
    import triton

    return release(triton.__version__)


# The first release of Triton whose `set_allocator`, which kernels with tensor descriptors need, holds for a context of
# Python's `contextvars` only and not for the process; 3.4 has the descriptors, but not that.
DESCRIPTORS = (3, 6)

TORCH = release(torch.__version__)
# From 2.9 the precision of float32 products has a name for each kind of operation; before, there were two switches.
_NAMED_PRECISION = TORCH >= (2, 9)


def matmul_in_tf32() -> bool:
    """Whether the user lets float32 matrix products on CUDA round to tf32."""
    matmul: Any = torch.backends.cuda.matmul
    return _named("matmul") == "tf32" if _NAMED_PRECISION else bool(matmul.allow_tf32)


def convolutions_in_tf32() -> bool:
    """Whether the user lets float32 convolutions on CUDA round to tf32: PyTorch's default. MIOpen has no such thing."""
    if torch.version.hip is not None:
        return False
    cudnn: Any = torch.backends.cudnn
    return _named("conv") == "tf32" if _NAMED_PRECISION else bool(cudnn.allow_tf32)


@contextmanager
def float32_products(tf32: bool) -> Iterator[None]:
    """Inside, float32 matrix products and convolutions on CUDA round to tf32, or do not: for measurements."""
    places: list[Any]
    value: Any
    if _NAMED_PRECISION:
        places = [torch.backends.cuda.matmul, torch.backends.cudnn.conv]  # type: ignore[attr-defined]
        name, value = "fp32_precision", "tf32" if tf32 else "ieee"
    else:
        places, name, value = [torch.backends.cuda.matmul, torch.backends.cudnn], "allow_tf32", tf32
    before = [getattr(place, name) for place in places]
    for place in places:
        setattr(place, name, value)
    try:
        yield
    finally:
        for place, old in zip(places, before, strict=True):
            setattr(place, name, old)


def _named(operation: str) -> str:
    """What ``torch.backends.cuda.matmul.fp32_precision`` and ``torch.backends.cudnn.conv.fp32_precision`` ask, without
    the several microseconds that they take to get there: every call on a GPU asks."""
    return str(torch._C._get_fp32_precision_getter("cuda", operation))
