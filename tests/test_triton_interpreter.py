"""The interpreter's arithmetic, as corrected by triton_interpreter.py, against PyTorch's.

On a GPU the same kernels run on the device: what is asked of the interpreter is what the hardware does.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

triton: Any = pytest.importorskip("triton", reason="Triton is not installed")
import triton.language as tl  # noqa: E402

SIZE = 16


@triton.jit
def cast_kernel(x_ptr, y_ptr, size: tl.constexpr):
    at = tl.arange(0, size)
    tl.store(y_ptr + at, tl.load(x_ptr + at).to(y_ptr.dtype.element_ty))


@triton.jit
def round_kernel(x_ptr, y_ptr, size: tl.constexpr, rounding: tl.constexpr):
    at = tl.arange(0, size)
    tl.store(y_ptr + at, tl.load(x_ptr + at).to(y_ptr.dtype.element_ty, fp_downcast_rounding=rounding))


@triton.jit
def dot_kernel(a_ptr, b_ptr, c_ptr, rows: tl.constexpr, inner: tl.constexpr, precision: tl.constexpr):
    i = tl.arange(0, rows)
    k = tl.arange(0, inner)
    a = tl.load(a_ptr + i[:, None] * inner + k[None, :])
    b = tl.load(b_ptr + k[:, None] * rows + i[None, :])
    tl.store(c_ptr + i[:, None] * rows + i[None, :], tl.dot(a, b, input_precision=precision))


@triton.jit
def arithmetic_kernel(x_ptr, y_ptr, out_ptr, size: tl.constexpr):
    at = tl.arange(0, size)
    x = tl.load(x_ptr + at)
    y = tl.load(y_ptr + at)
    tl.store(out_ptr + at, x + y)
    tl.store(out_ptr + size + at, x * y)
    tl.store(out_ptr + 2 * size + at, tl.where(x < y, x, y))
    tl.store(out_ptr + 3 * size + at, -x)
    tl.store(out_ptr + 4 * size + at, x * 1.5)


@triton.jit
def sum_kernel(x_ptr, out_ptr, size: tl.constexpr):
    at = tl.arange(0, size)
    x = tl.load(x_ptr + at[:, None] * size + at[None, :])
    tl.store(out_ptr + at, tl.sum(x, axis=1))


@triton.jit
def masked_kernel(x_ptr, out_ptr, count, size: tl.constexpr):
    at = tl.arange(0, size)
    tl.store(out_ptr + at, tl.load(x_ptr + at, mask=at < count, other=2.5))


def cast(x: Tensor, dtype: torch.dtype) -> Tensor:
    y = torch.empty_like(x, dtype=dtype)
    cast_kernel[(1,)](x, y, size=len(x))
    return y


# 1 + 2⁻⁸ lies between two bfloat16 numbers: up or down by the even neighbour. The last rounds up to infinity.
TIES = [1 + 2.0**-8, 1 + 3 * 2.0**-8, 1 + 2.0**-8 + 2.0**-20, -1 - 2.0**-8, 3.3895313892515355e38]
EDGES = [0.0, -0.0, float("inf"), -float("inf"), float("nan"), 1e-40, -1e-40, 9.1835e-41, 65504.0, 65520.0, 1 / 3]


@pytest.mark.parametrize("source", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("target", [torch.float32, torch.float16, torch.bfloat16])
def test_casts_round_as_torch_does(source: torch.dtype, target: torch.dtype, device: str) -> None:
    x = torch.tensor(TIES + EDGES, dtype=torch.float64).to(source).to(device)
    if device == "cpu" and (source, target) == (torch.float64, torch.bfloat16):
        x = x.float().double()  # both go through float32 there; only the second rounding is asked
    torch.testing.assert_close(cast(x, target), x.to(target), rtol=0, atol=0, equal_nan=True)


def test_integers_become_bfloat16_by_value(device: str) -> None:
    x = torch.tensor([0, 1, -1, 255, 257, 258, 259, 1000], dtype=torch.int32, device=device)
    assert torch.equal(cast(x, torch.bfloat16), x.to(torch.bfloat16))
    assert torch.equal(cast(x.to(torch.bfloat16), torch.int32), x.to(torch.bfloat16).int())


@pytest.mark.parametrize("target", [torch.float16, torch.bfloat16])
def test_an_explicit_rounding_mode_is_obeyed(target: torch.dtype, device: str) -> None:
    x = torch.tensor([*TIES[:4], 1 / 3, 2 / 3, 2047.9, 1e-3], device=device)
    nearest = torch.empty(8, dtype=target, device=device)
    round_kernel[(1,)](x, nearest, size=8, rounding="rtne")
    assert torch.equal(nearest, x.to(target))
    if target == torch.bfloat16:
        towards_zero = torch.empty(8, dtype=target, device=device)
        round_kernel[(1,)](x, towards_zero, size=8, rounding="rtz")
        assert torch.equal(towards_zero, (x.view(torch.int32) & -65536).view(torch.float32).to(target))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_dot_multiplies_values_and_accumulates_in_float32(dtype: torch.dtype, device: str) -> None:
    a, b = torch.randn(2, SIZE, SIZE, device=device).to(dtype)
    found = torch.empty(SIZE, SIZE, device=device)
    dot_kernel[(1,)](a, b, found, rows=SIZE, inner=SIZE, precision="ieee")
    torch.testing.assert_close(found.double(), a.double() @ b.double(), rtol=1e-6, atol=1e-5)


def test_a_float32_dot_is_exact_only_where_ieee_is_asked(device: str) -> None:
    a, b = torch.randn(2, SIZE, SIZE, device=device)
    exact = a.double() @ b.double()
    ieee, tf32 = torch.empty(2, SIZE, SIZE, device=device)
    dot_kernel[(1,)](a, b, ieee, rows=SIZE, inner=SIZE, precision="ieee")
    dot_kernel[(1,)](a, b, tf32, rows=SIZE, inner=SIZE, precision="tf32")
    assert (ieee - exact).abs().max() < 1e-5
    assert 1e-5 < (tf32 - exact).abs().max() < 2e-2


@pytest.mark.skipif(torch.cuda.is_available(), reason="the rounding of the device is its own")
def test_tf32_drops_thirteen_bits_of_both_operands() -> None:
    a, b = torch.randn(2, SIZE, SIZE)
    found = torch.empty(SIZE, SIZE)
    dot_kernel[(1,)](a, b, found, rows=SIZE, inner=SIZE, precision="tf32")
    cut_a, cut_b = ((x.view(torch.int32) & -8192).view(torch.float32).double() for x in (a, b))
    torch.testing.assert_close(found.double(), cut_a @ cut_b, rtol=1e-6, atol=1e-5)


def test_bfloat16_arithmetic_is_on_values(device: str) -> None:
    x, y = torch.randn(2, SIZE, device=device).bfloat16()
    out = torch.empty(5, SIZE, dtype=torch.bfloat16, device=device)
    arithmetic_kernel[(1,)](x, y, out, size=SIZE)
    expected = torch.stack([x + y, x * y, torch.minimum(x, y), -x, x * 1.5])
    assert torch.equal(out, expected)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_sums_of_every_dtype(dtype: torch.dtype, device: str) -> None:
    x = torch.randn(SIZE, SIZE, device=device).to(dtype)
    out = torch.empty(SIZE, dtype=dtype, device=device)
    sum_kernel[(1,)](x, out, size=SIZE)
    torch.testing.assert_close(out, x.sum(1), rtol=2e-2 if dtype != torch.float32 else 1e-5, atol=2e-2)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_the_filler_of_a_masked_load_is_a_value(dtype: torch.dtype, device: str) -> None:
    x = torch.randn(5, device=device).to(dtype)
    out = torch.empty(SIZE, dtype=dtype, device=device)
    masked_kernel[(1,)](x, out, 5, size=SIZE)
    assert torch.equal(out[:5], x)
    assert torch.equal(out[5:], torch.full_like(out[5:], 2.5))


def test_a_dot_over_too_few_products_is_refused_as_the_compiler_refuses_it(device: str) -> None:
    a, b = torch.randn(2, SIZE, SIZE, device=device).bfloat16()
    with pytest.raises(Exception, match=r"Input shapes should have .* K >= 16"):
        dot_kernel[(1,)](a, b, torch.empty(SIZE, SIZE, device=device), rows=SIZE, inner=8, precision="ieee")
