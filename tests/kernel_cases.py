"""Random arguments for the ops, and the comparison of a plan with the float64 definition. Not a test itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import palora_kernels as pk

TOLERANCE = {torch.float64: 1e-10, torch.float32: 2e-4, torch.bfloat16: 6e-2, torch.float16: 1e-2}


def linear_case(
    M: int, n: int, K: int, O: int, T: int, r: int, *, shared: bool, bias: int = 1, weight: bool = True
) -> dict[str, Any]:
    rows = n if shared else M * n
    case: dict[str, Any] = {
        "x": torch.randn(rows, K),
        "weight": torch.randn(O, K) if weight else None,
        "bias": [None, torch.randn(O), torch.randn(M, O)][bias],
        "A": torch.randn(T, O, r),
        "B": torch.randn(T, r, K),
        "lam": torch.rand(M, T),
    }
    return case


def linear_delta_case(M: int, n: int, K: int, O: int, T: int, **kw: Any) -> dict[str, Any]:
    case = linear_case(M, n, K, O, T, 1, **kw)
    return {**{k: case[k] for k in ("x", "weight", "bias")}, "D": torch.randn(T, O, K), "lam": case["lam"]}


def conv_case(
    M: int,
    n: int,
    C: int,
    O: int,
    T: int,
    r: int,
    *,
    size: tuple[int, int] = (7, 6),
    kernel: tuple[int, int] = (3, 3),
    groups: int = 1,
    shared: bool = False,
    bias: int = 1,
    weight: bool = True,
    form: str = "matricised",
) -> dict[str, Any]:
    shape = (O, C // groups, *kernel)
    k = kernel[0]
    p, q, inner = (O, C // groups * kernel[0] * kernel[1], r)
    if form == "loralib":
        p, q, inner = O // groups * k, C * k, r * k
    case: dict[str, Any] = {
        "x": torch.randn(n if shared else M * n, C, *size),
        "weight": torch.randn(shape) if weight else None,
        "bias": [None, torch.randn(O), torch.randn(M, O)][bias],
        "lam": torch.rand(M, T),
    }
    if form == "dense":
        case["D"] = torch.randn(T, *shape)
    else:
        case["A"], case["B"] = torch.randn(T, p, inner), torch.randn(T, inner, q)
    return case


def convert(case: dict[str, Any], dtype: torch.dtype) -> dict[str, Any]:
    """Fresh leaves of a dtype that require gradients; lam stays wide."""
    lam_dtype = torch.float64 if dtype == torch.float64 else torch.float32
    return {
        k: None if v is None else v.to(lam_dtype if k == "lam" else dtype).clone().requires_grad_()
        for k, v in case.items()
    }


def run(
    op: Callable[..., Tensor], case: dict[str, Any], grad: Tensor | None = None, **options: Any
) -> dict[str, Tensor]:
    """Output and every gradient, under the names of the arguments."""
    y = op(**case, **options)
    grad = torch.ones_like(y) if grad is None else grad.to(y.dtype)
    names = [k for k, v in case.items() if v is not None]
    grads = torch.autograd.grad(y, [case[k] for k in names], grad)
    return {"y": y.detach(), **dict(zip(names, grads, strict=True))}


def assert_equals_definition(
    op_name: str,
    case: dict[str, Any],
    dtype: torch.dtype,
    algorithm: str | None = None,
    tested: str = "eager",
    **options: Any,
) -> None:
    """A plan of the backend ``tested`` in ``dtype`` against the reference in float64, output and all gradients."""
    op = getattr(pk, op_name)
    # Both start from the same rounded values, so that only the arithmetic differs.
    rounded = {k: None if v is None else (v if k == "lam" else v.to(dtype).double()) for k, v in case.items()}
    exact = convert(rounded, torch.float64)
    y_shape = op(**exact, **options, backend="reference").shape
    grad = torch.randn(y_shape).to(case["x"].device, dtype).double()
    expected = run(op, exact, grad, backend="reference", **options)
    if algorithm is None:
        found = run(op, convert(rounded, dtype), grad, backend=tested, **options)
    else:
        with pk.force_plan(**{op_name: algorithm}):
            found = run(op, convert(rounded, dtype), grad, backend=tested, **options)
    for name, want in expected.items():
        got = found[name]
        assert got.shape == want.shape, name
        scale = want.abs().max().item() if want.numel() else 0.0
        error = (got.double() - want).abs().max().item() if want.numel() else 0.0
        assert error <= TOLERANCE[dtype] * max(scale, 1.0), f"{name}: {error:.2e} of {scale:.2e}"
