"""The public ops: check the arguments, settle dtype, backend and plan, and call."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import torch
from torch import Tensor

from palora_kernels import checks, direct, plans, reference
from palora_kernels.backends import resolve, under_functorch
from palora_kernels.eager.conv import memory_format
from palora_kernels.native import linear as native_linear

Pair = int | tuple[int, int] | list[int]


def _autocast(*tensors: Tensor | None) -> tuple[Tensor | None, ...]:
    """As torch.nn.Linear under autocast: every floating tensor but lam in the autocast dtype (float64 stays)."""
    device = next(t for t in tensors if t is not None).device.type
    if not torch.is_autocast_enabled(device):
        return tensors
    dtype = torch.get_autocast_dtype(device)
    return tuple(
        t if t is None or not t.is_floating_point() or t.dtype == torch.float64 else t.to(dtype) for t in tensors
    )


def _lam(lam: Tensor, x: Tensor) -> Tensor:
    return lam.to(reference.opmath_dtype(x.dtype))


def _backend(backend: str | None, x: Tensor) -> str:
    name = resolve(backend, x.device, x.dtype)
    if name == "reference" or not under_functorch():
        return name
    if backend is not None:
        raise RuntimeError(
            f"The backend {name!r} has no rules for torch.func transforms; leave `backend` out "
            'or pass backend="reference", which supports all of them.'
        )
    return "reference"


def _known(
    op: str, backend: str | None, tensors: Sequence[Tensor | None], options: Sequence[Any]
) -> tuple[direct.Call | None, Sequence[Tensor | None], Hashable | None]:
    """What is known of a call from an earlier one: (the call, the tensors it takes, the key to settle it under)."""
    if not direct.serves(backend, tensors):
        return None, tensors, None
    given = tensors[-1]
    ready = [*_autocast(*tensors[:-1]), given]
    x, lam = ready[0], given
    if x is not None and lam is not None:
        ready[-1] = _lam(lam, x)
    key = direct.key(op, backend, ready, (*options, None if lam is None else lam.dtype))
    return direct.settled(key), ready, key


def linear(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    A: Tensor,
    B: Tensor,
    lam: Tensor,
    *,
    shared: bool = False,
    backend: str | None = None,
) -> Tensor:
    """M rays of a low-rank adapted linear layer: ``y_m = x_m (W + sum_t lam[m, t] A_t B_t)^T + b`` (PaLoRA, Eq. 2).

    Args:
        x: (P, ..., K) with P = M*n rows, ray-major, or P = n if ``shared``. A floating dtype.
        weight: (O, K), or None for no common part.
        bias: (O,), or (M, O) for one per ray, or None.
        A: (T, O, r), the out-side factors.
        B: (T, r, K), the in-side factors.
        lam: (M, T), what multiplies each task's product (a layer passes alpha/r * lambda). Used in float32, or float64
            for float64 tensors. M = P gives every row its own preference.
        shared: every ray sees the same rows; they are stored once and the base product is formed once.
        backend: "reference", "eager", "native", "triton" or None (automatic; PALORA_BACKEND overrides None).

    Returns:
        (M*n, ..., O), ray-major. Differentiable once in every tensor argument; with the reference backend, any number
        of times.

    Raises:
        ValueError, TypeError: shapes, dtypes or devices that do not fit, by name.
        RuntimeError: a backend that was named and cannot run.
    """
    call, ready, key = _known("linear", backend, (x, weight, bias, A, B, lam), (shared,))
    if call is not None:
        return _by_rows(call, ready, shared, A.shape[1])
    checks.ranks(
        weight=(weight, (2,), "(O, K)"),
        bias=(bias, (1, 2), "(O,) or (M, O)"),
        A=(A, (3,), "(T, O, r)"),
        B=(B, (3,), "(T, r, K)"),
        lam=(lam, (2,), "(M, T)"),
    )
    _check_linear(x, weight, bias, lam, A.shape[1], B.shape[2], shared)
    checks.tasks(lam, A=A, B=B)
    checks.low_rank(A, B)
    x, weight, bias, A, B = _autocast(x, weight, bias, A, B)  # type: ignore[assignment]
    checks.devices_and_dtypes(x, lam, weight=weight, bias=bias, A=A, B=B)
    lam = _lam(lam, x)
    rows = x.reshape(-1, x.shape[-1]) if x.dim() != 2 else x
    name = _backend(backend, x)
    if name == "reference":
        y = reference.linear(rows, weight, bias, A, B, lam, shared)
    else:
        n = rows.shape[0] if shared else rows.shape[0] // lam.shape[0]
        R = A.shape[0] * A.shape[2]
        plan = plans.linear(lam.shape[0], n, B.shape[2], A.shape[1], R, shared, name, x, weight is not None)
        call = direct.settle(key, "linear", f"{name}.{plan}", (shared,))
        if call is not None:
            y = call(rows, weight, bias, A, B, lam)
        elif (name, plan) == ("native", "factored") and native_linear.plain(rows, weight, bias, A, B, lam):
            y = native_linear.with_gradient(rows, weight, bias, A, B, lam, shared)
        else:
            y, _ = torch.ops.palora.linear(rows, weight, bias, A, B, lam, shared, f"{name}.{plan}")
    return y if x.dim() == 2 else y.view(_samples(x, lam, shared), *x.shape[1:-1], A.shape[1])


def linear_delta(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    D: Tensor,
    lam: Tensor,
    *,
    shared: bool = False,
    backend: str | None = None,
) -> Tensor:
    """M rays of a linear layer with arbitrary deltas: ``y_m = x_m (W + sum_t lam[m, t] D_t)^T + b`` (PaLoRA, Eq. 1).

    ``D`` is (T, O, K); ``weight=None`` leaves the ensemble of PaMaL, ``sum_t lam[m, t] D_t``. Else as `linear`.
    """
    call, ready, key = _known("linear_delta", backend, (x, weight, bias, D, lam), (shared,))
    if call is not None:
        return _by_rows(call, ready, shared, D.shape[1])
    checks.ranks(
        weight=(weight, (2,), "(O, K)"),
        bias=(bias, (1, 2), "(O,) or (M, O)"),
        D=(D, (3,), "(T, O, K)"),
        lam=(lam, (2,), "(M, T)"),
    )
    _check_linear(x, weight, bias, lam, D.shape[1], D.shape[2], shared)
    checks.tasks(lam, D=D)
    x, weight, bias, D = _autocast(x, weight, bias, D)  # type: ignore[assignment]
    checks.devices_and_dtypes(x, lam, weight=weight, bias=bias, D=D)
    lam = _lam(lam, x)
    rows = x.reshape(-1, x.shape[-1]) if x.dim() != 2 else x
    name = _backend(backend, x)
    if name == "reference":
        y = reference.linear_delta(rows, weight, bias, D, lam, shared)
    else:
        n = rows.shape[0] if shared else rows.shape[0] // lam.shape[0]
        elements = D.shape[0] + (weight is not None)
        plan = plans.linear_delta(lam.shape[0], n, elements, shared, D.shape[2], D.shape[1], name, x)
        call = direct.settle(key, "linear_delta", f"{name}.{plan}", (shared,))
        if call is not None:
            y = call(rows, weight, bias, D, lam)
        else:
            y = torch.ops.palora.linear_delta(rows, weight, bias, D, lam, shared, f"{name}.{plan}")
    return y if x.dim() == 2 else y.view(_samples(x, lam, shared), *x.shape[1:-1], D.shape[1])


def _by_rows(call: direct.Call, tensors: Sequence[Tensor | None], shared: bool, outputs: int) -> Tensor:
    """A known call of a linear layer, whose x may have more than two dimensions."""
    x, *others = tensors
    assert x is not None
    if x.dim() == 2:
        return call(x, *others)
    lam = others[-1]
    assert lam is not None
    return call(x.reshape(-1, x.shape[-1]), *others).view(_samples(x, lam, shared), *x.shape[1:-1], outputs)


def _samples(x: Tensor, lam: Tensor, shared: bool) -> int:
    return x.shape[0] * lam.shape[0] if shared else x.shape[0]


def _check_linear(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, lam: Tensor, O: int, K: int, shared: bool
) -> None:
    if not isinstance(x, Tensor) or x.dim() < 2:
        found = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
        raise ValueError(f"`x` should be a tensor of shape (P, ..., K). Found {found}.")
    if x.shape[-1] != K:
        raise ValueError(f"`x` should have {K} features in its last dimension. Found shape {tuple(x.shape)}.")
    checks.rows(x, lam, shared)
    checks.equal_shape("weight", weight, (O, K), "as the factors imply")
    checks.bias(bias, O, lam.shape[0])


def conv2d(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    A: Tensor,
    B: Tensor,
    lam: Tensor,
    *,
    stride: Pair = 1,
    padding: Pair | str = 0,
    dilation: Pair = 1,
    groups: int = 1,
    shared: bool = False,
    backend: str | None = None,
) -> Tensor:
    """M rays of a low-rank adapted convolution: ray m's kernel is ``W + sum_t lam[m, t] A_t B_t`` (PaLoRA, Eq. 2).

    Args:
        x: (P, C, H, W), P = M*n ray-major, or n if ``shared``; contiguous or channels_last.
        weight: (O, C/groups, kh, kw); None (no common part) needs a square kernel.
        bias: (O,), (M, O) or None.
        A: (T, O, r) and B: (T, r, C/groups*kh*kw): the matricised form. Any other pair of factors whose product has as
            many elements as the kernel is viewed as the kernel: the loralib form has A (T, O/groups*k, r*k) and
            B (T, r*k, C*k).
        lam: (M, T), as in `linear`.
        stride, padding, dilation, groups: as torch.nn.functional.conv2d; padding may be "same" or "valid".
        shared, backend: as in `linear`.

    Returns:
        (M*n, O, Ho, Wo), ray-major.
    """
    options = (stride, padding, dilation, groups, shared)
    call, ready, key = _known("conv2d", backend, (x, weight, bias, A, B, lam), options)
    if call is not None:
        return call(*ready)
    checks.ranks(
        x=(x, (4,), "(P, C, H, W)"),
        weight=(weight, (4,), "(O, C/groups, kh, kw)"),
        bias=(bias, (1, 2), "(O,) or (M, O)"),
        A=(A, (3,), "(T, O, r)"),
        B=(B, (3,), "(T, r, C/groups*kh*kw)"),
        lam=(lam, (2,), "(M, T)"),
    )
    checks.tasks(lam, A=A, B=B)
    checks.low_rank(A, B)
    shape = list(weight.shape) if weight is not None else _square_kernel(x, A, B, groups)
    if A.shape[1] * B.shape[2] != shape[0] * shape[1] * shape[2] * shape[3]:
        raise ValueError(
            f"`A` and `B` should have products with as many elements as the kernel {tuple(shape)}, as "
            f"(T, {shape[0]}, r) and (T, r, {shape[1] * shape[2] * shape[3]}) do. "
            f"Found {tuple(A.shape)} and {tuple(B.shape)}."
        )
    geometry = _check_conv(x, bias, lam, shape, stride, padding, dilation, groups, shared)
    x, weight, bias, A, B = _autocast(x, weight, bias, A, B)  # type: ignore[assignment]
    checks.devices_and_dtypes(x, lam, weight=weight, bias=bias, A=A, B=B)
    lam = _lam(lam, x)
    name = _backend(backend, x)
    if name == "reference":
        return reference.conv2d(x, weight, bias, A, B, lam, shape, *geometry, groups, shared)
    plan = plans.conv2d(_conv_call(name, x, weight, shape, lam, geometry, groups, shared, A), like=x)
    call = direct.settle(key, "conv2d", f"{name}.{plan}", (shape, *geometry, groups, shared))
    if call is not None:
        return call(x, weight, bias, A, B, lam)
    return torch.ops.palora.conv2d(x, weight, bias, A, B, lam, shape, *geometry, groups, shared, f"{name}.{plan}")


def conv2d_delta(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    D: Tensor,
    lam: Tensor,
    *,
    stride: Pair = 1,
    padding: Pair | str = 0,
    dilation: Pair = 1,
    groups: int = 1,
    shared: bool = False,
    backend: str | None = None,
) -> Tensor:
    """M rays of a convolution with arbitrary kernel deltas D (T, O, C/groups, kh, kw); else as `conv2d`."""
    options = (stride, padding, dilation, groups, shared)
    call, ready, key = _known("conv2d_delta", backend, (x, weight, bias, D, lam), options)
    if call is not None:
        return call(*ready)
    checks.ranks(
        x=(x, (4,), "(P, C, H, W)"),
        weight=(weight, (4,), "(O, C/groups, kh, kw)"),
        bias=(bias, (1, 2), "(O,) or (M, O)"),
        D=(D, (5,), "(T, O, C/groups, kh, kw)"),
        lam=(lam, (2,), "(M, T)"),
    )
    checks.tasks(lam, D=D)
    shape = list(D.shape[1:])
    checks.equal_shape("weight", weight, tuple(shape), "as `D` implies")
    geometry = _check_conv(x, bias, lam, shape, stride, padding, dilation, groups, shared)
    x, weight, bias, D = _autocast(x, weight, bias, D)  # type: ignore[assignment]
    checks.devices_and_dtypes(x, lam, weight=weight, bias=bias, D=D)
    lam = _lam(lam, x)
    name = _backend(backend, x)
    if name == "reference":
        return reference.conv2d_delta(x, weight, bias, D, lam, *geometry, groups, shared)
    plan = plans.conv2d(_conv_call(name, x, weight, shape, lam, geometry, groups, shared), "conv2d_delta", x)
    call = direct.settle(key, "conv2d_delta", f"{name}.{plan}", (*geometry, groups, shared))
    if call is not None:
        return call(x, weight, bias, D, lam)
    return torch.ops.palora.conv2d_delta(x, weight, bias, D, lam, *geometry, groups, shared, f"{name}.{plan}")


def _conv_call(
    backend: str,
    x: Tensor,
    weight: Tensor | None,
    shape: list[int],
    lam: Tensor,
    geometry: tuple[list[int], list[int], list[int]],
    groups: int,
    shared: bool,
    A: Tensor | None = None,
) -> plans.Conv:
    rays, tasks = lam.shape
    stride, padding, dilation = geometry
    height, width = (
        (x.shape[2 + i] + 2 * padding[i] - dilation[i] * (shape[2 + i] - 1) - 1) // stride[i] + 1 for i in (0, 1)
    )
    return plans.Conv(
        backend=backend,
        rays=rays,
        n=x.shape[0] if shared else x.shape[0] // rays,
        positions=height * width,
        K=shape[1] * shape[2] * shape[3],
        O=shape[0],
        R=0 if A is None else tasks * A.shape[2],
        elements=tasks + (weight is not None),
        groups=groups,
        shared=shared,
        matricised=A is not None and A.shape[1] == shape[0],
        channels_last=memory_format(x, x if weight is None else weight) == torch.channels_last,
        item=x.element_size(),
        device=x.device.type,
        channels=shape[1],
    )


def _square_kernel(x: Tensor, A: Tensor, B: Tensor, groups: int) -> list[int]:
    """The kernel's shape from x and the matricised factors, where no weight gives it."""
    channels = x.shape[1] // groups
    side = round((B.shape[2] / channels) ** 0.5) if channels else 0
    if side * side * channels != B.shape[2]:
        raise ValueError(
            f"`B` should have C/groups*k*k = {channels}*k*k columns where `weight` is None (square kernels only). "
            f"Found shape {tuple(B.shape)}."
        )
    return [A.shape[1], channels, side, side]


def _check_conv(
    x: Tensor,
    bias: Tensor | None,
    lam: Tensor,
    shape: list[int],
    stride: Pair,
    padding: Pair | str,
    dilation: Pair,
    groups: int,
    shared: bool,
) -> tuple[list[int], list[int], list[int]]:
    if 0 in shape:
        raise ValueError(
            "A convolution should have at least one output channel, one input channel and one tap. Found kernels of "
            f"shape {tuple(shape)}; leave the layer out, as torch.nn.Conv2d refuses it too."
        )
    if not isinstance(groups, int) or groups < 1 or shape[0] % groups:
        raise ValueError(f"`groups` should be a divisor of the {shape[0]} output channels. Found {groups}.")
    if x.shape[1] != shape[1] * groups:
        raise ValueError(f"`x` should have {shape[1] * groups} channels. Found shape {tuple(x.shape)}.")
    checks.rows(x, lam, shared)
    checks.bias(bias, shape[0], lam.shape[0])
    strides, dilations = checks.pair("stride", stride, 1), checks.pair("dilation", dilation, 1)
    paddings = _padding(padding, strides, dilations, shape)
    for i, side in enumerate("HW"):
        if x.shape[2 + i] + 2 * paddings[i] < dilations[i] * (shape[2 + i] - 1) + 1:
            raise ValueError(
                f"`x` should be at least as large as the kernel after padding. Found {side} = {x.shape[2 + i]} "
                f"for a kernel of {shape[2 + i]}, dilation {dilations[i]}, padding {paddings[i]}."
            )
    return strides, paddings, dilations


def _padding(padding: Pair | str, stride: list[int], dilation: list[int], shape: list[int]) -> list[int]:
    if not isinstance(padding, str):
        return checks.pair("padding", padding, 0)
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


def merge(weight: Tensor | None, A: Tensor, B: Tensor, lam: Tensor) -> Tensor:
    """The weight of one ray or of many: ``W + sum_t lam[t] A_t B_t``, the product viewed as the weight (PaLoRA, Eq. 2).

    Args:
        weight: (O, K) or (O, C/groups, kh, kw); None for no common part, then the result has the product's shape.
        A: (T, p, r), B: (T, r, q) with p*q = weight.numel().
        lam: (T,) or (M, T); already carries alpha/r.

    Returns:
        weight.shape, or (M, *weight.shape), in the dtype of the weight: added in float32 or wider, rounded once.
        Differentiable in every argument.
    """
    checks.ranks(A=(A, (3,), "(T, p, r)"), B=(B, (3,), "(T, r, q)"), lam=(lam, (1, 2), "(T,) or (M, T)"))
    rays = lam if lam.dim() == 2 else lam[None]
    checks.tasks(rays, A=A, B=B)
    checks.low_rank(A, B)
    if weight is not None and weight.numel() != A.shape[1] * B.shape[2]:
        raise ValueError(
            f"`weight` should have {A.shape[1] * B.shape[2]} elements, as the product of `A` and `B`. "
            f"Found shape {tuple(weight.shape)}."
        )
    dtype = A.dtype if weight is None else weight.dtype
    wide = reference.opmath_dtype(dtype)
    shape = torch.Size((A.shape[1], B.shape[2])) if weight is None else weight.shape
    deltas = (A.to(wide) @ B.to(wide)).reshape(A.shape[0], -1)
    total = rays.to(wide) @ deltas
    if weight is not None:
        total = weight.to(wide).reshape(1, -1) + total
    merged = total.to(dtype).view(rays.shape[0], *shape)
    return merged if lam.dim() == 2 else merged[0]
