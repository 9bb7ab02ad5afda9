"""Validation of arguments: one sentence that names the argument, what was expected and what came."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

# The tensors of an op: x, weight, bias, A, B or None where A holds the deltas D, and lam.
Given = tuple[Tensor, Tensor | None, Tensor | None, Tensor, Tensor | None, Tensor]


def _shape(x: Tensor) -> tuple[int, ...]:
    return tuple(x.shape)


_OPTIONAL = ("weight", "bias")


def ranks(**tensors: tuple[Tensor | None, tuple[int, ...], str]) -> None:
    """Check the number of dimensions: name=(tensor, allowed numbers, layout in words)."""
    for name, (tensor, allowed, layout) in tensors.items():
        if tensor is None and name in _OPTIONAL:
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


def of_bias(bias: Tensor | None, outputs: int, rays: int) -> None:
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


def linear(given: Given, shared: bool, dense: bool) -> None:
    x, weight, bias, A, B, lam = given
    factors = {"D": (A, (3,), "(T, O, K)")} if dense else {"A": (A, (3,), "(T, O, r)"), "B": (B, (3,), "(T, r, K)")}
    ranks(
        weight=(weight, (2,), "(O, K)"),
        bias=(bias, (1, 2), "(O,) or (M, O)"),
        **factors,  # type: ignore[arg-type]
        lam=(lam, (2,), "(M, T)"),
    )
    O, K = (A.shape[1], A.shape[2]) if B is None else (A.shape[1], B.shape[2])
    if not isinstance(x, Tensor) or x.dim() < 2:
        found = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
        raise ValueError(f"`x` should be a tensor of shape (P, ..., K). Found {found}.")
    if x.shape[-1] != K:
        raise ValueError(f"`x` should have {K} features in its last dimension. Found shape {tuple(x.shape)}.")
    rows(x, lam, shared)
    equal_shape("weight", weight, (O, K), "as the factors imply")
    of_bias(bias, O, lam.shape[0])
    of_factors(A, B, lam)


def of_factors(A: Tensor, B: Tensor | None, lam: Tensor) -> None:
    if B is None:
        tasks(lam, D=A)
    else:
        tasks(lam, A=A, B=B)
        low_rank(A, B)


Conv = tuple[list[int], list[int], list[int], list[int], int]


def convolution(given: Given, geometry: tuple[Any, Any, Any, int], shared: bool, dense: bool) -> Conv:
    """-> the kernel's shape (O, C/groups, kh, kw), stride, padding, dilation, groups."""
    x, weight, bias, A, B, lam = given
    layout = "(T, O, C/groups, kh, kw)"
    factors = {"A": (A, (3,), "(T, O, r)"), "B": (B, (3,), "(T, r, C/groups*kh*kw)")}
    ranks(
        x=(x, (4,), "(P, C, H, W)"),
        weight=(weight, (4,), "(O, C/groups, kh, kw)"),
        bias=(bias, (1, 2), "(O,) or (M, O)"),
        **({"D": (A, (5,), layout)} if dense else factors),  # type: ignore[arg-type]
        lam=(lam, (2,), "(M, T)"),
    )
    of_factors(A, B, lam)
    if B is None:
        shape = list(A.shape[1:])
        equal_shape("weight", weight, tuple(shape), "as `D` implies")
    else:
        shape = list(weight.shape) if weight is not None else _square_kernel(x, A, B, geometry[3])
        if A.shape[1] * B.shape[2] != shape[0] * shape[1] * shape[2] * shape[3]:
            raise ValueError(
                f"`A` and `B` should have products with as many elements as the kernel {tuple(shape)}, as "
                f"(T, {shape[0]}, r) and (T, r, {shape[1] * shape[2] * shape[3]}) do. "
                f"Found {tuple(A.shape)} and {tuple(B.shape)}."
            )
    stride, padding, dilation = _geometry(x, shape, geometry)
    rows(x, lam, shared)
    of_bias(bias, shape[0], lam.shape[0])
    return shape, stride, padding, dilation, geometry[3]


def _square_kernel(x: Tensor, A: Tensor, B: Tensor, groups: int) -> list[int]:
    """The kernel's shape from x and the matricised factors, where no weight gives it."""
    channels = x.shape[1] // groups if isinstance(groups, int) and groups > 0 else 0
    side = round((B.shape[2] / channels) ** 0.5) if channels else 0
    if side * side * channels != B.shape[2]:
        raise ValueError(
            f"`B` should have C/groups*k*k = {channels}*k*k columns where `weight` is None (square kernels only). "
            f"Found shape {tuple(B.shape)}."
        )
    return [A.shape[1], channels, side, side]


def _geometry(
    x: Tensor, shape: list[int], geometry: tuple[Any, Any, Any, int]
) -> tuple[list[int], list[int], list[int]]:
    stride, padding, dilation, groups = geometry
    if 0 in shape:
        raise ValueError(
            "A convolution should have at least one output channel, one input channel and one tap. Found kernels of "
            f"shape {tuple(shape)}; leave the layer out, as torch.nn.Conv2d refuses it too."
        )
    if not isinstance(groups, int) or groups < 1 or shape[0] % groups:
        raise ValueError(f"`groups` should be a divisor of the {shape[0]} output channels. Found {groups}.")
    if x.shape[1] != shape[1] * groups:
        raise ValueError(f"`x` should have {shape[1] * groups} channels. Found shape {tuple(x.shape)}.")
    strides, dilations = pair("stride", stride, 1), pair("dilation", dilation, 1)
    paddings = _padding(padding, strides, dilations, shape)
    for i, side in enumerate("HW"):
        if x.shape[2 + i] + 2 * paddings[i] < dilations[i] * (shape[2 + i] - 1) + 1:
            raise ValueError(
                f"`x` should be at least as large as the kernel after padding. Found {side} = {x.shape[2 + i]} "
                f"for a kernel of {shape[2 + i]}, dilation {dilations[i]}, padding {paddings[i]}."
            )
    return strides, paddings, dilations


def _padding(padding: Any, stride: list[int], dilation: list[int], shape: list[int]) -> list[int]:
    if not isinstance(padding, str):
        return pair("padding", padding, 0)
    if padding == "valid":
        return [0, 0]
    if padding != "same":
        raise ValueError(f"`padding` should be an integer, a pair, 'same' or 'valid'. Found {padding!r}.")
    if stride != [1, 1]:
        raise ValueError(f"`padding`='same' needs stride 1. Found stride {stride}.")
    total = [dilation[i] * (shape[2 + i] - 1) for i in (0, 1)]
    if total[0] % 2 or total[1] % 2:
        raise ValueError(
            f"`padding`='same' with an even kernel {tuple(shape[2:])} pads unevenly; pad `x` with "
            "torch.nn.functional.pad and pass padding=0 (PaLoRAConv2d does so itself)."
        )
    return [total[0] // 2, total[1] // 2]
