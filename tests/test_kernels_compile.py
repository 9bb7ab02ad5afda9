"""The ops under the dispatcher's own checks and under torch.compile."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from kernel_cases import conv_case, convert, linear_case, linear_delta_case

import palora_kernels as pk


@pytest.mark.parametrize("plan", ["eager.factored", "eager.merged"])
@pytest.mark.parametrize("shared", [False, True])
def test_opcheck_linear(plan: str, shared: bool) -> None:
    case = convert(linear_case(3, 2, 4, 5, 2, 2, shared=shared), torch.float64)
    torch.library.opcheck(torch.ops.palora.linear.default, (*case.values(), shared, plan))


@pytest.mark.parametrize("plan", ["eager.basis", "eager.merged"])
@pytest.mark.parametrize("shared", [False, True])
def test_opcheck_linear_delta(plan: str, shared: bool) -> None:
    case = convert(linear_delta_case(3, 2, 4, 5, 2, shared=shared, bias=2), torch.float64)
    arguments = (case["x"], case["weight"], case["bias"], case["D"], None, case["lam"], shared, plan)
    torch.library.opcheck(torch.ops.palora.linear.default, arguments)


@pytest.mark.parametrize("plan", ["eager.basis", "eager.merged", "eager.factored"])
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("channels_last", [False, True])
def test_opcheck_conv2d(plan: str, shared: bool, channels_last: bool) -> None:
    case = convert(conv_case(3, 2, 3, 5, 2, 2, shared=shared), torch.float64)
    x = case["x"].detach()
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    arguments = (x.requires_grad_(), case["weight"], case["bias"], case["A"], case["B"], case["lam"])
    geometry = ([5, 3, 3, 3], [1, 1], [1, 1], [1, 1], 1, shared, plan)
    torch.library.opcheck(torch.ops.palora.conv2d.default, (*arguments, *geometry))


@pytest.mark.parametrize("plan", ["eager.basis", "eager.merged"])
def test_opcheck_conv2d_delta(plan: str) -> None:
    case = convert(conv_case(3, 2, 3, 5, 2, 2, form="dense"), torch.float64)
    arguments = (case["x"], case["weight"], case["bias"], case["D"], None, case["lam"])
    geometry = ([5, 3, 3, 3], [2, 1], [1, 1], [1, 1], 1, False, plan)
    torch.library.opcheck(torch.ops.palora.conv2d.default, (*arguments, *geometry))


def _compiled_equals_eager(function: Any, case: dict[str, Any]) -> None:
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    expected = torch.autograd.grad(function(**case).pow(2).sum(), list(case.values()))
    found = torch.autograd.grad(compiled(**case).pow(2).sum(), list(case.values()))
    for got, want in zip(found, expected, strict=True):
        torch.testing.assert_close(got, want)


def test_fullgraph_and_no_recompilation_for_new_values() -> None:
    torch._dynamo.reset()
    counters = torch._dynamo.utils.counters
    counters.clear()
    function = lambda **kw: torch.relu(pk.linear(**kw)) + 1  # noqa: E731
    for _ in range(3):
        _compiled_equals_eager(function, convert(linear_case(3, 2, 4, 5, 2, 2, shared=False), torch.float32))
    assert counters["graph_break"] == {}


@pytest.mark.parametrize("shared", [False, True])
def test_fullgraph_conv(shared: bool) -> None:
    torch._dynamo.reset()
    case = convert(conv_case(3, 2, 3, 5, 2, 2, shared=shared), torch.float32)
    _compiled_equals_eager(lambda **kw: torch.relu(pk.conv2d(**kw, shared=shared)), case)


@pytest.mark.parametrize("backend", ["eager", "reference"])
def test_fullgraph_with_a_named_backend(backend: str) -> None:
    torch._dynamo.reset()
    case = convert(linear_case(3, 2, 4, 5, 2, 2, shared=False), torch.float32)
    _compiled_equals_eager(lambda **kw: pk.linear(**kw, backend=backend), case)


@pytest.mark.slow
def test_inductor_linear_and_conv() -> None:
    torch._dynamo.reset()
    case = convert(linear_case(3, 2, 4, 5, 2, 2, shared=False), torch.float32)
    compiled = torch.compile(lambda **kw: torch.relu(pk.linear(**kw)), fullgraph=True)
    torch.testing.assert_close(compiled(**case), torch.relu(pk.linear(**case)))
    conv = convert(conv_case(3, 2, 3, 5, 2, 2), torch.float32)
    conv_compiled = torch.compile(lambda **kw: torch.relu(pk.conv2d(**kw)), fullgraph=True)
    torch.testing.assert_close(conv_compiled(**conv), torch.relu(pk.conv2d(**conv)))
