"""Which implementations exist on this machine, and which one a call uses."""

from __future__ import annotations

import os

import torch
from torch import Tensor
from torch.autograd import forward_ad

from palora_kernels.native import loading
from palora_kernels.triton.launching import availability as triton

NAMES = ("reference", "eager", "native", "triton")
AVAILABLE = "available"


def backends() -> dict[str, str]:
    """Every backend's name, with "available" or the reason why it cannot be used here.

    "native" is available if it is built or can be built on this machine; asking does not build it. This is its status
    on the CPU; `palora_kernels.native.loading.status("cuda")` gives that of its CUDA library.
    """
    return {
        "reference": AVAILABLE,
        "eager": AVAILABLE,
        "native": loading.status(),
        "triton": triton.status(),
    }


@torch.compiler.assume_constant_result
def _status(name: str) -> str:
    return backends()[name]


def _checked(name: str, source: str) -> str:
    if name not in NAMES:
        raise ValueError(f"{source} should be one of {', '.join(NAMES)}. Found {name!r}.")
    status = _status(name)
    if status != AVAILABLE:
        raise RuntimeError(f"The backend {name!r} asked for by {source} cannot run here: {status}.")
    return name


@torch.compiler.assume_constant_result
def _native_is_ready(device: str) -> bool:
    return loading.ready(device)


@torch.compiler.assume_constant_result
def _obstacle_to_native(device: torch.device, dtype: torch.dtype) -> str | None:
    return loading.obstacle(device, dtype)


@torch.compiler.assume_constant_result
def _prefers_triton(device: torch.device, dtype: torch.dtype) -> bool:
    return triton.preferred(device, dtype)


@torch.compiler.assume_constant_result
def _obstacle_to_triton(device: torch.device, dtype: torch.dtype) -> str | None:
    return triton.obstacle(device, dtype)


def _usable(name: str, source: str, device: torch.device, dtype: torch.dtype) -> str:
    _checked(name, source)
    if name == "triton":
        obstacle = _obstacle_to_triton(device, dtype)
        if obstacle is not None:
            raise RuntimeError(f"The backend 'triton' asked for by {source} cannot take this call: {obstacle}.")
    if name != "native":
        return name
    obstacle = _obstacle_to_native(device, dtype)
    if obstacle is not None:
        raise RuntimeError(f"The backend 'native' asked for by {source} cannot take this call: {obstacle}.")
    if not _native_is_ready(device.type):
        failure = loading.status(device.type)
        raise RuntimeError(f"The backend 'native' asked for by {source} cannot run here: {failure}.")
    return name


def resolve(backend: str | None, device: torch.device, dtype: torch.dtype) -> str:
    """The backend of a call: the argument, else the environment variable PALORA_BACKEND, else the fastest that can run.

    A backend that was named, by either, and cannot run raises; only the automatic choice looks further: on a GPU to
    "triton", "native" and "eager" in this order, on a CPU to "native" and "eager".
    """
    if backend is not None:
        return _usable(backend, "`backend`", device, dtype)
    named = os.environ.get("PALORA_BACKEND")
    if named:
        return _usable(named, "the environment variable PALORA_BACKEND", device, dtype)
    if _prefers_triton(device, dtype):
        return "triton"
    if _obstacle_to_native(device, dtype) is None and _native_is_ready(device.type):
        return "native"
    return "eager"


def under_functorch() -> bool:
    """Whether a torch.func transform (vmap, grad, jvp, ...) or forward-mode differentiation is active around this
    call: then only the reference, made of PyTorch's operations, has all the rules."""
    if torch.compiler.is_compiling():
        return False
    return torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0


def batched(gradient: Tensor) -> bool:
    """Whether a backward was given a batch of gradients, by torch.vmap or is_grads_batched=True: no kernel takes it."""
    return under_functorch() or torch._C._functorch.is_legacy_batchedtensor(gradient)
