"""Validation of arguments: one sentence that names the argument, what was expected and what came."""

from __future__ import annotations

import torch
from torch import Tensor


def _shape(x: Tensor) -> tuple[int, ...]:
    return tuple(x.shape)


def ranks(**tensors: tuple[Tensor | None, tuple[int, ...], str]) -> None:
    """Check the number of dimensions: name=(tensor, allowed numbers, layout in words)."""
    for name, (tensor, allowed, layout) in tensors.items():
        if tensor is None:
            continue
        if not isinstance(tensor, Tensor):
            raise TypeError(f"`{name}` should be a tensor of shape {layout}. Found {type(tensor).__name__}.")
        if tensor.dim() not in allowed:
            raise ValueError(f"`{name}` should have shape {layout}. Found {_shape(tensor)}.")


def devices_and_dtypes(x: Tensor, lam: Tensor, **others: Tensor | None) -> None:
    """All tensors on x's device; all but lam of x's dtype, which must be a floating point dtype."""
    if not x.is_floating_point():
        raise TypeError(f"`x` should be of a floating point dtype. Found {x.dtype}.")
    for name, tensor in {**others, "lam": lam}.items():
        if tensor is None:
            continue
        if tensor.device != x.device:
            raise ValueError(f"`{name}` should be on the device of `x`, {x.device}. Found {tensor.device}.")
        if name != "lam" and tensor.dtype != x.dtype:
            raise TypeError(
                f"`{name}` should have the dtype of `x`, {x.dtype}. Found {tensor.dtype}; "
                "convert it, or run under torch.autocast."
            )
    if not lam.is_floating_point():
        raise TypeError(f"`lam` should be of a floating point dtype. Found {lam.dtype}.")


def rows(x: Tensor, lam: Tensor, shared: bool) -> None:
    """Without a shared input the rows of x are M stacked groups of n."""
    rays = lam.shape[0]
    if rays == 0:
        raise ValueError("`lam` should hold at least one ray. Found shape (0, T).")
    if not shared and x.shape[0] % rays:
        raise ValueError(
            f"`x` should have M*n rows, a multiple of the {rays} rays in `lam`. Found {x.shape[0]} rows; "
            "pass shared=True if every ray sees the same rows."
        )


def tasks(lam: Tensor, **factors: Tensor) -> None:
    for name, factor in factors.items():
        if factor.shape[0] != lam.shape[1]:
            raise ValueError(
                f"`{name}` should have one slice a task, {lam.shape[1]} as `lam` has columns. "
                f"Found shape {_shape(factor)}."
            )


def low_rank(A: Tensor, B: Tensor) -> None:
    if A.shape[2] != B.shape[1]:
        raise ValueError(f"`A` (T, O, r) and `B` (T, r, K) should share the rank r. Found {_shape(A)} and {_shape(B)}.")


def equal_shape(name: str, tensor: Tensor | None, expected: tuple[int, ...], why: str) -> None:
    if tensor is not None and _shape(tensor) != expected:
        raise ValueError(f"`{name}` should have shape {expected} ({why}). Found {_shape(tensor)}.")


def bias(bias: Tensor | None, outputs: int, rays: int) -> None:
    if bias is None:
        return
    expected: tuple[int, ...] = (outputs,) if bias.dim() == 1 else (rays, outputs)
    equal_shape("bias", bias, expected, "one a output, or one a ray and output")


def pair(name: str, value: int | tuple[int, int] | list[int], least: int) -> list[int]:
    """An int or a pair of ints, as torch's convolutions take them."""
    found = [value, value] if isinstance(value, int) else list(value)
    if len(found) != 2 or any(not isinstance(v, (int, torch.SymInt)) or v < least for v in found):
        raise ValueError(f"`{name}` should be an integer >= {least} or a pair of them. Found {value!r}.")
    return found
