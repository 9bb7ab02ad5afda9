"""The native plans of `linear` and `linear_delta` against the loop over merged weights in float64."""

from __future__ import annotations

import pytest
import torch
from kernel_cases import assert_equals_definition, convert, linear_case, linear_delta_case, run
from native_cases import needs_native

import palora_kernels as pk

pytestmark = needs_native

SHAPES = [  # M, n, K, O, T, r
    (5, 4, 7, 6, 2, 1),
    (1, 3, 5, 2, 3, 2),
    (3, 1, 8, 9, 7, 3),
    (11, 2, 1, 1, 2, 5),
    (4, 0, 6, 3, 2, 2),
    (2, 5, 33, 17, 4, 20),  # above the fused rank
    (3, 7, 130, 65, 2, 1),
    (2, 131, 64, 96, 2, 2),
    (7, 37, 50, 10, 2, 1),
    (2, 300, 259, 70, 3, 5),
]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("bias", [0, 1, 2])
@pytest.mark.parametrize("algorithm", ["factored", "merged"])
def test_linear_equals_the_definition(shape: tuple[int, ...], shared: bool, bias: int, algorithm: str) -> None:
    case = linear_case(*shape, shared=shared, bias=bias)
    assert_equals_definition("linear", case, torch.float64, algorithm, "native", shared=shared)


@pytest.mark.parametrize("shape", [SHAPES[0], SHAPES[5], SHAPES[7], SHAPES[9]])
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("weight", [True, False])
def test_lower_precision(shape: tuple[int, ...], shared: bool, dtype: torch.dtype, weight: bool) -> None:
    case = linear_case(*shape, shared=shared, weight=weight)
    assert_equals_definition("linear", case, dtype, "factored", "native", shared=shared)


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("r", [2, 30])
def test_gradcheck(shared: bool, r: int) -> None:
    case = convert(linear_case(3, 2, 4, 3, 2, r, shared=shared, bias=2), torch.float64)
    with pk.force_plan(linear="factored"):
        assert torch.autograd.gradcheck(lambda *a: pk.linear(*a, shared=shared, backend="native"), tuple(case.values()))


@pytest.mark.parametrize("r", [1, 2])
def test_strides_of_inputs_and_of_the_gradient(r: int) -> None:
    """Transposed and expanded arguments, also at r = 1, where such views may call themselves contiguous."""
    case = {
        "x": torch.randn(5, 12).t(),
        "weight": torch.randn(5, 6).t(),
        "bias": torch.randn(1).expand(6),
        "A": torch.randn(6, 3, r).permute(1, 0, 2),
        "B": torch.randn(r, 3, 5).permute(1, 0, 2),
        "lam": torch.rand(3, 3).t(),
    }
    leaves = {k: v.detach().requires_grad_() for k, v in case.items()}
    found = torch.autograd.grad(pk.linear(**leaves, backend="native").sum(), list(leaves.values()))
    plain = {k: v.contiguous().detach().requires_grad_() for k, v in case.items()}
    expected = torch.autograd.grad(pk.linear(**plain, backend="reference").sum(), list(plain.values()))
    for got, want in zip(found, expected, strict=True):
        torch.testing.assert_close(got, want, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("wanted", ["x", "weight", "bias", "A", "lam"])
@pytest.mark.parametrize("r", [1, 9, 30])
@pytest.mark.parametrize("shared", [False, True])
def test_one_gradient_at_a_time(wanted: str, r: int, shared: bool) -> None:
    case = linear_case(3, 4, 33, 18, 2, r, shared=shared)
    leaf = case[wanted].requires_grad_()
    (found,) = torch.autograd.grad(pk.linear(**case, shared=shared, backend="native").pow(2).sum(), leaf)
    (expected,) = torch.autograd.grad(pk.linear(**case, shared=shared, backend="reference").pow(2).sum(), leaf)
    torch.testing.assert_close(found, expected, atol=1e-2, rtol=1e-4)


@pytest.mark.parametrize("shared", [False, True])
def test_opcheck(shared: bool) -> None:
    case = convert(linear_case(3, 2, 4, 5, 2, 2, shared=shared), torch.float64)
    torch.library.opcheck(torch.ops.palora.linear.default, (*case.values(), shared, "native.factored"))


def test_the_same_result_every_time() -> None:
    case = convert(linear_case(5, 257, 96, 130, 2, 3, shared=False), torch.float32)
    first = run(pk.linear, case, backend="native")
    for _ in range(4):
        for name, value in run(pk.linear, case, backend="native").items():
            assert torch.equal(value, first[name]), name


def test_large_results_with_huge_pages() -> None:
    """A weight of 36 MB: its gradient lies in memory that was advised before it was touched."""
    case = convert(linear_case(2, 3, 3000, 3100, 2, 1, shared=False), torch.float32)
    found = run(pk.linear, case, backend="native")
    expected = run(pk.linear, case, backend="reference")
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name], atol=5e-2, rtol=1e-3)


def test_modes_and_subclasses_see_the_op() -> None:
    """The short way around the dispatcher is for plain tensors only."""
    from torch.utils._python_dispatch import TorchDispatchMode

    seen: list[str] = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            seen.append(str(func))
            return func(*args, **(kwargs or {}))

    case = linear_case(3, 4, 5, 6, 2, 2, shared=False)
    expected = pk.linear(**case, backend="native")
    with Watch():
        found = pk.linear(**case, backend="native")
    assert "palora.linear.default" in seen
    assert torch.equal(found, expected)


def test_double_backward_is_refused_by_name() -> None:
    case = convert(linear_case(2, 2, 3, 3, 2, 1, shared=False), torch.float64)
    y = pk.linear(**case, backend="native").pow(2).sum()
    (dx,) = torch.autograd.grad(y, case["x"], create_graph=True)
    with pytest.raises(RuntimeError, match='backend="reference"'):
        dx.sum().backward()


@pytest.mark.parametrize("bias", [0, 1, 2])
@pytest.mark.parametrize("on_simplex", [True, False])
def test_basis_of_a_shared_input(bias: int, on_simplex: bool) -> None:
    case = linear_delta_case(4, 5, 7, 9, 3, shared=True, bias=bias)
    if on_simplex:
        case["lam"] = torch.softmax(case["lam"].double(), dim=1)
    for dtype in (torch.float64, torch.bfloat16):
        assert_equals_definition("linear_delta", case, dtype, "basis", "native", shared=True)
