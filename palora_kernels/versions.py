"""What differs between the releases of PyTorch and Triton that these packages run on; elsewhere nobody asks for one."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

# (torch, triton) of constraints.txt, constraints-2.11.txt and constraints-oldest.txt: what the suite is run on.
TESTED = (("2.13.0", "3.7.1"), ("2.11.0", "3.6.0"), ("2.8.0", "3.4.0"))


def release(version: str) -> tuple[int, int]:
    """ "2.11.0+cu130" -> (2, 11)."""
    major, minor = version.split(".")[:2]
    return int(major), int(minor)


@functools.cache
def triton_release() -> tuple[int, int]:
    """Imports triton: ask only where its kernels are compiled or listed."""
    import triton

    return release(triton.__version__)


TORCH = release(torch.__version__)
# From 2.9 the precision of float32 products has a name for each kind of operation; before, there were two switches.
_NAMED_PRECISION = TORCH >= (2, 9)


def matmul_in_tf32() -> bool:
    """Whether the user lets float32 matrix products on CUDA round to tf32."""
    matmul: Any = torch.backends.cuda.matmul
    return bool(matmul.fp32_precision == "tf32" if _NAMED_PRECISION else matmul.allow_tf32)


@contextmanager
def convolutions_in(precision: str) -> Iterator[None]:
    """Inside, cuDNN's float32 convolutions run in "ieee" or "tf32". The setting is the process's: hold a lock."""
    owner: Any = torch.backends.cudnn.conv if _NAMED_PRECISION else torch.backends.cudnn  # type: ignore[attr-defined]
    name = "fp32_precision" if _NAMED_PRECISION else "allow_tf32"
    before = getattr(owner, name)
    try:
        setattr(owner, name, precision if _NAMED_PRECISION else precision == "tf32")
        yield
    finally:
        setattr(owner, name, before)
