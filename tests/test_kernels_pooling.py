"""`max_pool_relu` against torch's two operations: values, ties, NaN, odd sizes, gradients, both memory formats."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

import palora_kernels as pk

SIZES = [(3, 10, 24, 24), (2, 20, 8, 8), (1, 1, 2, 2), (2, 16, 5, 7), (2, 33, 6, 3), (0, 4, 6, 6), (4, 3, 9, 2)]


def _both(x: torch.Tensor) -> None:
    a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
    found, wanted = pk.max_pool_relu(a), F.relu(F.max_pool2d(b, 2))
    torch.testing.assert_close(found, wanted, rtol=0, atol=0, equal_nan=True)
    if x.numel():  # an empty tensor is contiguous in every way
        assert found.stride() == wanted.stride()
    grad = torch.randn_like(wanted)
    for g in (grad, grad.contiguous(), torch.ones_like(grad[:1, :1, :1, :1]).expand_as(grad)):
        (da,) = torch.autograd.grad(found, a, g, retain_graph=True)
        (db,) = torch.autograd.grad(wanted, b, g, retain_graph=True)
        torch.testing.assert_close(da, db, rtol=0, atol=0)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_equals_torch(size: tuple[int, ...], dtype: torch.dtype, layout: torch.memory_format) -> None:
    _both(torch.randn(size).to(dtype).contiguous(memory_format=layout))


def test_ties_go_where_torch_sends_them() -> None:
    _both(torch.randint(-1, 2, (4, 5, 8, 8)).float().contiguous(memory_format=torch.channels_last))


def test_nan_is_not_swallowed() -> None:
    x = torch.randn(2, 5, 4, 4).contiguous(memory_format=torch.channels_last)
    x[0, 1, 2, 3] = float("nan")
    found, wanted = pk.max_pool_relu(x), F.relu(F.max_pool2d(x, 2))
    torch.testing.assert_close(found, wanted, equal_nan=True)
    assert found.isnan().sum() == 1


def test_compiles_without_a_break() -> None:
    torch._dynamo.reset()
    x = torch.randn(2, 4, 6, 6).contiguous(memory_format=torch.channels_last)
    compiled = torch.compile(pk.max_pool_relu, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x), pk.max_pool_relu(x))


def test_under_torch_func() -> None:
    x = torch.randn(2, 4, 6, 6).contiguous(memory_format=torch.channels_last)
    found = torch.func.grad(lambda t: pk.max_pool_relu(t).pow(2).sum())(x)
    leaf = x.clone().requires_grad_()
    pk.max_pool_relu(leaf).pow(2).sum().backward()
    torch.testing.assert_close(found, leaf.grad)
