"""The public ops: check the arguments, choose dtype, backend and plan, and call."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from palora_kernels import checks, direct, plans, reference
from palora_kernels.backends import resolve, under_functorch
from palora_kernels.library import make_call
from palora_kernels.native import linear as native_linear

Pair = int | tuple[int, int] | list[int]


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
    return _linear("linear", Tensors(x, weight, bias, A, B, lam), shared, backend)


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
    return _linear("linear_delta", Tensors(x, weight, bias, D, None, lam), shared, backend)


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
    geometry = (stride, padding, dilation, groups)
    return _convolution("conv2d", Tensors(x, weight, bias, A, B, lam), geometry, shared, backend)


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
    geometry = (stride, padding, dilation, groups)
    return _convolution("conv2d_delta", Tensors(x, weight, bias, D, None, lam), geometry, shared, backend)


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


# ------------------------------------------------------------------------------------------------- from call to plan


class Tensors(NamedTuple):
    """The tensors of an op; without B, A holds the deltas D."""

    x: Tensor
    weight: Tensor | None
    bias: Tensor | None
    A: Tensor
    B: Tensor | None
    lam: Tensor


def _autocast(given: Tensors) -> Tensors:
    """As torch.nn.Linear under autocast: every floating tensor but lam in the autocast dtype (float64 stays)."""
    *others, lam = given
    device = given.x.device.type
    if not torch.is_autocast_enabled(device):
        return given
    dtype = torch.get_autocast_dtype(device)
    cast = [t if t is None or not t.is_floating_point() or t.dtype == torch.float64 else t.to(dtype) for t in others]
    return Tensors(*cast, lam)  # type: ignore[arg-type,call-arg]


def _lam(given: Tensors) -> Tensors:
    x, weight, bias, A, B, lam = given  # the compiler of torch 2.8 traces neither `_replace` nor slices
    wide = reference.opmath_dtype(x.dtype)
    return given if lam.dtype == wide else Tensors(x, weight, bias, A, B, lam.to(wide))


def _prepared(given: Tensors) -> Tensors:
    """Checked for dtypes and devices: of one dtype under autocast, lam in float32 or wider."""
    given = _autocast(given)
    factors = {"D": given.A} if given.B is None else {"A": given.A, "B": given.B}
    checks.devices_and_dtypes(given.x, given.lam, weight=given.weight, bias=given.bias, **factors)
    return _lam(given)


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
    op: str, backend: str | None, given: Tensors, options: Sequence[Any]
) -> tuple[direct.Remembered | None, Tensors, Hashable | None]:
    """What is known of a call from an earlier one: (the call, the tensors it takes, the key to remember it under)."""
    if not direct.serves(backend, given):
        return None, given, None
    ready = _lam(_autocast(given))
    key = direct.key(op, backend, ready, (*options, given.lam.dtype))
    return direct.remembered(key), ready, key


def _linear(op: str, given: Tensors, shared: bool, backend: str | None) -> Tensor:
    known, ready, key = _known(op, backend, given, (shared,))
    if known is None:
        checks.linear(given, shared, dense=op == "linear_delta")
        ready = _prepared(given)
    x, weight, bias, A, B, lam = ready
    outputs = A.shape[1]
    rows = ready if x.dim() == 2 else Tensors(x.reshape(-1, x.shape[-1]), weight, bias, A, B, lam)
    y = known(*rows) if known is not None else _by_rows(rows, shared, backend, key)
    if x.dim() == 2:
        return y
    return y.view(x.shape[0] * ready.lam.shape[0] if shared else x.shape[0], *x.shape[1:-1], outputs)


def _by_rows(given: Tensors, shared: bool, backend: str | None, key: Hashable | None) -> Tensor:
    """A linear layer on x (P, K)."""
    x, weight, bias, A, B, lam = given
    name = _backend(backend, x)
    if name == "reference":
        deltas = A if B is None else reference.low_rank_deltas(A, B, (A.shape[1], B.shape[2]))
        return reference.linear(x, weight, bias, deltas, lam, shared)
    plan = f"{name}.{plans.choose(make_call(given, shared, 0), name)}"
    known = direct.remember(key, "linear", plan, (shared,))
    if known is not None:
        return known(*given)
    if plan == "native.factored" and B is not None and native_linear.plain(*given):
        return native_linear.with_gradient(x, weight, bias, A, B, lam, shared)
    y: Tensor = torch.ops.palora.linear(*given, shared, plan)[0]
    return y


def _convolution(
    op: str, given: Tensors, geometry: tuple[Pair, Pair | str, Pair, int], shared: bool, backend: str | None
) -> Tensor:
    known, ready, key = _known(op, backend, given, (*geometry, shared))
    if known is not None:
        return known(*ready)
    conv = checks.convolution(given, geometry, shared, dense=op == "conv2d_delta")
    given = _prepared(given)
    x, weight, bias, A, B, lam = given
    name = _backend(backend, x)
    if name == "reference":
        deltas = A if B is None else reference.low_rank_deltas(A, B, conv[0])
        return reference.conv2d(x, weight, bias, deltas, lam, conv[1:], shared)
    plan = f"{name}.{plans.choose(make_call(given, shared, 0, conv), name)}"
    known = direct.remember(key, "conv2d", plan, (*conv, shared))
    if known is not None:
        return known(*given)
    y: Tensor = torch.ops.palora.conv2d(*given, *conv, shared, plan)[0]
    return y
