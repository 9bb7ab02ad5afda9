"""Which implementations exist on this machine, and which one a call uses."""

from __future__ import annotations

import os

import torch

NAMES = ("reference", "eager", "native", "triton")
AVAILABLE = "available"


def backends() -> dict[str, str]:
    """Every backend's name, with "available" or the reason why it cannot be used here."""
    return {
        "reference": AVAILABLE,
        "eager": AVAILABLE,
        "native": "not part of this release: the C++/CUDA extension has not been written yet",
        "triton": "not part of this release: the Triton kernels have not been written yet",
    }


def _checked(name: str, source: str) -> str:
    if name not in NAMES:
        raise ValueError(f"{source} should be one of {', '.join(NAMES)}. Found {name!r}.")
    status = backends()[name]
    if status != AVAILABLE:
        raise RuntimeError(f"The backend {name!r} asked for by {source} cannot run here: {status}.")
    return name


def resolve(backend: str | None) -> str:
    """The backend of a call: the argument, else the environment variable PALORA_BACKEND, else "eager".

    A backend that was named, by either, and cannot run raises; only the automatic choice looks further.
    """
    if backend is not None:
        return _checked(backend, "`backend`")
    named = os.environ.get("PALORA_BACKEND")
    if named:
        return _checked(named, "the environment variable PALORA_BACKEND")
    return "eager"


def under_functorch() -> bool:
    """Whether a torch.func transform (vmap, grad, jvp, ...) is active around this call."""
    return not torch.compiler.is_compiling() and torch._C._are_functorch_transforms_active()
