"""A Triton plan against the float64 definition, with every way of getting it wrong prepared. Not a test itself.

Inputs are views into larger buffers filled with NaN, so that one element read outside shows; memory that an op
allocates is filled with NaN (`torch.use_deterministic_algorithms`), so that one element not written shows.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from kernel_cases import TOLERANCE, convert, run
from torch import Tensor

import palora_kernels as pk

LAYOUTS = ("contiguous", "padded", "transposed")
GRADS = ("random", "expanded", "transposed")


@contextmanager
def poisoned_memory() -> Iterator[None]:
    """Everything that is allocated inside holds NaN until it is written."""
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


def laid_out(tensor: Tensor, layout: str) -> Tensor:
    """The same values: in a NaN-filled buffer with gaps after every row, or with the last two dimensions swapped.

    "aligned": with gaps, but every row of 16-bit numbers starts at a multiple of 16 bytes. "off": all rows start one
    number behind such a multiple. "channels_last": an image so, and NaN before and behind it.
    """
    if layout == "contiguous":
        return tensor.clone()
    if layout == "channels_last" and tensor.dim() == 4:
        _, C, H, W = tensor.shape
        buffer = tensor.new_full([tensor.numel() + 128], float("nan"))
        return buffer.as_strided(tensor.shape, (C * H * W, 1, W * C, C), 64).copy_(tensor)
    if layout == "off":
        buffer = tensor.new_full([*tensor.shape[:-1], -(-tensor.shape[-1] // 8) * 8 + 16], float("nan"))
        return buffer[..., 9 : 9 + tensor.shape[-1]].copy_(tensor)
    if layout == "aligned":
        buffer = tensor.new_full([*tensor.shape[:-1], -(-tensor.shape[-1] // 8) * 8 + 16], float("nan"))
        return buffer[..., 8 : 8 + tensor.shape[-1]].copy_(tensor)
    if layout == "transposed" and tensor.dim() >= 2:
        return tensor.transpose(-1, -2).contiguous().transpose(-1, -2)
    buffer = tensor.new_full([size + 3 for size in tensor.shape], float("nan"))
    view = buffer[tuple(slice(1, 1 + size) for size in tensor.shape)]
    return view.copy_(tensor)


def output_gradient(shape: torch.Size, how: str, dtype: torch.dtype, device: str) -> Tensor:
    """What autograd hands to a backward: dense, expanded from one number (``y.sum().backward()``), or transposed."""
    if how == "expanded":
        return torch.ones((), dtype=dtype, device=device).expand(shape)
    values = torch.randn(shape).to(dtype).to(device)
    return laid_out(values, "transposed") if how == "transposed" else laid_out(values, "padded")


def assert_triton_equals_definition(
    op_name: str,
    case: dict[str, Any],
    dtype: torch.dtype,
    algorithm: str,
    *,
    device: str,
    layout: str = "padded",
    grad: str = "random",
    **options: Any,
) -> None:
    """Output and every gradient of a plan in ``dtype``, from the same rounded values as the float64 definition."""
    op = getattr(pk, op_name)
    rounded = {k: None if v is None else (v if k == "lam" else v.to(dtype).double()) for k, v in case.items()}
    exact = convert(rounded, torch.float64)
    dy = output_gradient(op(**exact, **options, backend="reference").shape, grad, dtype, device)
    expected = run(op, exact, dy.double().cpu(), backend="reference", **options)
    # With all signs positive every result is the sum of its terms' magnitudes, which is what rounding goes by.
    positive = {k: None if v is None else v.abs() for k, v in exact.items()}
    terms = run(op, positive, dy.double().cpu().abs(), backend="reference", **options)

    inputs = {
        k: None if v is None else laid_out(v.to(torch.float32 if k == "lam" else dtype).to(device), layout)
        for k, v in rounded.items()
    }
    for tensor in inputs.values():
        if tensor is not None:
            tensor.requires_grad_()
    names = [k for k, v in inputs.items() if v is not None]
    with poisoned_memory(), pk.force_plan(**{op_name: algorithm}):
        y = op(**inputs, **options, backend="triton")
        grads = torch.autograd.grad(y, [inputs[k] for k in names], dy)  # type: ignore[list-item]
    found = {"y": y.detach(), **dict(zip(names, grads, strict=True))}
    for name, want in expected.items():
        got = found[name].double().cpu()
        assert got.shape == want.shape, name
        assert not got.isnan().any(), f"{name} has {int(got.isnan().sum())} NaN of {got.numel()}"
        # Terms that cancel leave their rounding behind: random signs keep about an eighth of them here.
        scale = max(want.abs().max().item(), terms[name].abs().max().item() / 8) if want.numel() else 0.0
        error = (got - want).abs().max().item() if want.numel() else 0.0
        assert error <= TOLERANCE[dtype] * max(scale, 1.0), f"{name}: {error:.2e} of {scale:.2e}"
