"""Where the two functions behind a plan, forward and backward, are found.

A backend's modules offer three tables from an algorithm's name to its pair: ``LOW_RANK`` and ``DENSE`` (linear layers
with factors or with arbitrary deltas) and ``CONV``. What a pair takes and returns is written in `eager.linear` and
`eager.conv`; every backend follows them.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any

Pair = tuple[Callable[..., Any], Callable[..., Any]]

_MODULES = {
    ("eager", "LOW_RANK"): "palora_kernels.eager.linear",
    ("eager", "DENSE"): "palora_kernels.eager.linear",
    ("eager", "CONV"): "palora_kernels.eager.conv",
    ("native", "LOW_RANK"): "palora_kernels.native.linear",
    ("native", "DENSE"): "palora_kernels.native.linear",
    ("native", "CONV"): "palora_kernels.native.conv",
    ("triton", "LOW_RANK"): "palora_kernels.triton.linear",
    ("triton", "DENSE"): "palora_kernels.triton.linear",
    ("triton", "CONV"): "palora_kernels.triton.conv",
}
_ON_CUDA = {
    ("native", "LOW_RANK"): "palora_kernels.native.cuda.linear",
    ("native", "DENSE"): "palora_kernels.native.cuda.linear",
    ("native", "CONV"): "palora_kernels.native.cuda.conv",
}


def algorithms(table: str, backend: str, device: str) -> dict[str, Pair]:
    """All plans of a backend on a type of device, by the name of the algorithm. Imports the backend on first use."""
    where = (backend, table)
    module = _ON_CUDA[where] if device == "cuda" and where in _ON_CUDA else _MODULES[where]
    found: dict[str, Pair] = getattr(import_module(module), table)
    return found


def pair(table: str, plan: str, device: str) -> Pair:
    """(forward, backward) of ``plan``, "<backend>.<algorithm>", on a type of device. Imports a backend on first use."""
    backend, algorithm = plan.split(".")
    return algorithms(table, backend, device)[algorithm]
