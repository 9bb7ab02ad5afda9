"""Small whole numbers, whose products and sums are exact in every order: a plan returns the definition's result in
float64, rounded once, bit for bit. So one number too few, too many or from elsewhere shows, and so does a sum that was
rounded on its way.

What is rounded before the last product (S, S o Lam, merged kernels, maps of the library) stays below 256 here, which
bfloat16 holds. The shapes have what a small layer has not: more than eight row tiles, not a multiple of eight; several
splits with a remainder; more than 128 columns of the factors, more than eight elements, more than 32 rays.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from kernel_cases import conv_case, convert, linear_case, linear_delta_case, run
from torch import Tensor
from triton_cases import laid_out, poisoned_memory

import palora_kernels as pk
from palora_kernels.triton import availability

pytest.importorskip("triton")
from palora_kernels.triton import configs, conv_kernel_gradient, linear_sums, reduce
from palora_kernels.triton.configs import Target, Tile

if availability.status() != "available":  # a GPU that Triton does not support
    pytest.skip(availability.status(), allow_module_level=True)

SMALL = Tile(16, 16, 16, 4, 2, 3)
SPLITS = 3
LARGEST = {"x": 2, "weight": 100, "bias": 100, "A": 1, "B": 1, "D": 2}


def whole(name: str, like: Tensor, largest: dict[str, int]) -> Tensor:
    """Whole numbers of this argument's shape; lam is 0, 1 or 2, so that a product with it is exact too."""
    low, high = (0, 2) if name == "lam" else (-largest[name], largest[name])
    return torch.randint(low, high + 1, like.shape).double()


def assert_exact(
    op_name: str, case: dict[str, Any], algorithm: str, device: str, *, layout: str = "padded", **options: Any
) -> None:
    op = getattr(pk, op_name)
    # Maps of the library's convolutions are rounded before they are combined.
    largest = {**LARGEST, "weight": 1, "D": 1} if op_name.startswith("conv") else LARGEST
    numbers = {k: None if v is None else whole(k, v, largest) for k, v in case.items()}
    exact = convert(numbers, torch.float64)
    y = op(**exact, **options, backend="reference")
    # Few of them, so that sums over rays stay small too.
    grad = torch.randint(-1, 2, y.shape).double() * (torch.rand(y.shape) < 0.1)
    expected = run(op, exact, grad, backend="reference", **options)
    inputs = {
        k: None
        if v is None
        else laid_out(v.to(torch.float32 if k == "lam" else torch.bfloat16).to(device), layout).requires_grad_()
        for k, v in numbers.items()
    }
    names = [k for k, v in inputs.items() if v is not None]
    with poisoned_memory(), pk.force_plan(**{op_name: algorithm}):
        found = op(**inputs, **options, backend="triton")
        grads = torch.autograd.grad(
            found,
            [inputs[k] for k in names],  # type: ignore[list-item]
            laid_out(grad.to(torch.bfloat16).to(device), layout),
        )
    for name, got in {"y": found.detach(), **dict(zip(names, grads, strict=True))}.items():
        want = expected[name].to(got.dtype)
        wrong = int((got.cpu() != want).sum())
        assert wrong == 0, f"{name}: {wrong} of {got.numel()}, at {(got.cpu() != want).nonzero()[:3].tolist()}"


@pytest.fixture(autouse=True)
def many_tiles_and_splits(monkeypatch: pytest.MonkeyPatch, device: str) -> Iterator[None]:
    """Every sum that can be split is, in three; what the tables choose for shapes this small is one split."""
    monkeypatch.setattr(configs, "choose_splits", lambda *_: SPLITS)
    monkeypatch.setattr(linear_sums, "_splits", lambda *_: SPLITS)
    with configs.assume(configs.target_of(torch.device(device)), tile=SMALL):
        yield


LOW_RANK = ("factored", "split", "splitk", "library", "merged")
SHAPES = {  # M, n, K, O, T, r; shared; bias dims
    "stacked": ((9, 17, 35, 150, 3, 5), False, 2),  # 10 row tiles, 10 of outputs
    "shared": ((10, 145, 37, 20, 2, 3), True, 1),  # 10 row tiles of common rows
    "many columns": ((2, 75, 40, 37, 2, 70), False, 1),  # r > 64, R > 128
    "many columns, shared": ((3, 50, 36, 37, 2, 70), True, 2),
    "a preference a row": ((41, 1, 150, 18, 3, 2), False, 2),  # more rays than a block of them
}


@pytest.mark.parametrize("algorithm", LOW_RANK)
@pytest.mark.parametrize("name", SHAPES)
def test_linear(name: str, algorithm: str, device: str) -> None:
    sizes, shared, bias = SHAPES[name]
    # The library's products on a CPU may read beyond a row, into the NaN between the rows.
    layout = "contiguous" if algorithm in ("library", "merged") else "padded"
    case = linear_case(*sizes, shared=shared, bias=bias)
    assert_exact("linear", case, algorithm, device, layout=layout, shared=shared)


@pytest.mark.parametrize("algorithm", LOW_RANK)
def test_linear_without_a_common_part(algorithm: str, device: str) -> None:
    for shared in (False, True):
        case = linear_case(9, 20, 37, 35, 2, 3, shared=shared, weight=False)
        layout = "contiguous" if algorithm in ("library", "merged") else "transposed"
        assert_exact("linear", case, algorithm, device, layout=layout, shared=shared)


@pytest.mark.parametrize("bias", [1, 2])
@pytest.mark.parametrize("algorithm", ["factored", "split", "splitk"])
def test_a_shared_input_with_a_bias(algorithm: str, bias: int, device: str) -> None:
    case = linear_case(3, 20, 19, 35, 2, 17, shared=True, bias=bias)  # R = 34
    assert_exact("linear", case, algorithm, device, shared=True)


@pytest.mark.parametrize("algorithm", ["basis", "merged"])
@pytest.mark.parametrize("tasks", [2, 10])
@pytest.mark.parametrize("shared", [False, True])
def test_linear_delta(shared: bool, tasks: int, algorithm: str, device: str) -> None:
    """More than eight elements, and, of a shared input, more than eight row tiles; of outputs too where there are few."""
    M, n = (10, 145) if shared else (9, 17)
    case = linear_delta_case(M, n, 35, 150 if tasks == 2 else 20, tasks, shared=shared, bias=2)
    layout = "contiguous" if algorithm == "merged" else "padded"
    assert_exact("linear_delta", case, algorithm, device, layout=layout, shared=shared)


@pytest.mark.parametrize("algorithm", ["basis", "merged"])
def test_linear_delta_without_a_common_part(algorithm: str, device: str) -> None:
    for shared in (False, True):
        case = linear_delta_case(4, 20, 19, 35, 3, shared=shared, weight=False)
        assert_exact("linear_delta", case, algorithm, device, layout="contiguous", shared=shared)
