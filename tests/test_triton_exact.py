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
from palora_kernels.triton.launching import availability

pytest.importorskip("triton")
from palora_kernels.triton.launching import configs
from palora_kernels.triton.launching.configs import Target, Tile
from palora_kernels.triton.linear import sums as linear_sums

if availability.status() != "available":  # a GPU that Triton does not support
    pytest.skip(availability.status(), allow_module_level=True)

SMALL = Tile(16, 32, 32, 4, 2, splits=3)
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
    "stacked": ((9, 17, 35, 35, 3, 5), False, 2),  # 10 row tiles
    "outputs": ((2, 40, 35, 150, 2, 3), False, 1),  # 10 of the outputs
    "shared": ((2, 145, 35, 20, 2, 3), True, 1),  # 10 row tiles of common rows
    "wide": ((2, 40, 36, 20, 2, 70), False, 1),  # r > 64, R > 128
    "wide-shared": ((3, 20, 36, 20, 2, 70), True, 2),
    "per-row": ((41, 1, 35, 18, 3, 2), False, 2),  # a preference a row, and more rays than a block of them
}


def served(algorithm: str, name: str) -> bool:
    """`library` rounds the adapters' part first, which is small only where there are few columns and one ray."""
    return algorithm != "library" or not name.startswith(("wide", "shared"))


@pytest.mark.parametrize(
    "name, algorithm", [(name, plan) for name in SHAPES for plan in LOW_RANK if served(plan, name)]
)
def test_linear(name: str, algorithm: str, device: str) -> None:
    sizes, shared, bias = SHAPES[name]
    assert_exact("linear", linear_case(*sizes, shared=shared, bias=bias), algorithm, device, shared=shared)


@pytest.mark.parametrize("algorithm", LOW_RANK)
def test_linear_without_a_common_part(algorithm: str, device: str) -> None:
    for shared in (False, True):
        case = linear_case(3, 20, 37, 35, 2, 3, shared=shared, weight=False)
        assert_exact("linear", case, algorithm, device, layout="transposed", shared=shared)


@pytest.mark.parametrize("bias", [1, 2])
@pytest.mark.parametrize("algorithm", ["factored", "split", "splitk"])
def test_linear_of_a_shared_input_with_a_bias(algorithm: str, bias: int, device: str) -> None:
    case = linear_case(3, 20, 19, 35, 2, 17, shared=True, bias=bias)  # R = 34
    assert_exact("linear", case, algorithm, device, shared=True)


DELTAS = {  # M, n, K, O, T; shared
    "stacked": ((2, 75, 35, 20, 2), False),  # 10 row tiles
    "outputs": ((2, 20, 19, 150, 1), False),
    "shared": ((2, 145, 35, 20, 2), True),
    "elements": ((9, 3, 20, 19, 10), False),
    "elements-shared": ((9, 5, 20, 19, 10), True),
}


@pytest.mark.parametrize("algorithm", ["basis", "merged"])
@pytest.mark.parametrize("name", DELTAS)
def test_linear_delta(name: str, algorithm: str, device: str) -> None:
    sizes, shared = DELTAS[name]
    case = linear_delta_case(*sizes, shared=shared, bias=2)
    assert_exact("linear_delta", case, algorithm, device, shared=shared)


@pytest.mark.parametrize("algorithm", ["basis", "merged"])
def test_linear_delta_without_a_common_part(algorithm: str, device: str) -> None:
    for shared in (False, True):
        case = linear_delta_case(4, 20, 19, 18, 3, shared=shared, weight=False)
        assert_exact("linear_delta", case, algorithm, device, layout="contiguous", shared=shared)


@pytest.mark.parametrize("layout", ["contiguous", "aligned", "off"])
@pytest.mark.parametrize("algorithm", ["factored", "split", "splitk"])
def test_linear_rows_that_are_read_wide(algorithm: str, layout: str, device: str) -> None:
    """Sizes of whole 16 bytes: here the compiler is told of multiples. "off": the tensors start off 16 bytes."""
    case = linear_case(3, 9, 40, 24, 2, 4, shared=False)
    assert_exact("linear", case, algorithm, device, layout=layout)


@pytest.mark.parametrize("layout", ["contiguous", "aligned"])
@pytest.mark.parametrize("sizes, bias", [((9, 17, 40, 40, 3, 5), 2), ((2, 20, 40, 296, 2, 35), 1)])
def test_linear_persistent(sizes: tuple[int, ...], bias: int, layout: str, device: str) -> None:
    target = configs.target_of(torch.device(device))
    if not configs.copies_tiles(target):
        pytest.skip("this device, or this release of Triton, has no such plan")
    few = Target(target.name, 2, target.shared_memory)  # each program walks over several tiles
    with configs.assume(few, tile=SMALL):
        case = linear_case(*sizes, shared=False, bias=bias)  # type: ignore[arg-type]
        assert_exact("linear", case, "persistent", device, layout=layout)


CONVS: dict[str, tuple[tuple[int, ...], dict[str, Any], dict[str, Any]]] = {
    # M, n, C, O, T, r; what else the case has; the op's options
    "positions": ((2, 1, 3, 20, 2, 3), {"size": (17, 17)}, {"padding": 1}),  # 19 row tiles, two splits of 289
    "outputs": ((2, 1, 32, 150, 1, 1), {"size": (3, 3), "bias": 2}, {}),  # not gathered
    "rays": ((10, 1, 2, 3, 2, 1), {"size": (4, 4), "bias": 2}, {"stride": 2, "padding": 1}),
    "rays-shared": ((41, 1, 2, 3, 2, 1), {"size": (3, 3), "bias": 2, "shared": True}, {"shared": True}),
    "elements": ((3, 2, 4, 6, 9, 4), {"size": (4, 5)}, {}),  # R = 36
    "elements-shared": ((3, 2, 4, 6, 9, 4), {"size": (4, 5), "shared": True, "bias": 2}, {"shared": True}),
    "channels-shared": ((2, 1, 48, 5, 2, 1), {"size": (4, 4), "shared": True}, {"shared": True, "padding": 1}),
    "groups": (
        (2, 1, 4, 6, 2, 1),
        {"size": (6, 5), "groups": 2, "bias": 2},
        {"groups": 2, "stride": (1, 2), "dilation": (2, 1), "padding": (0, 1)},
    ),
}


CALLS = [
    (name, plan, layout)
    for name in CONVS
    for plan in ("merged", "library", "factored", "basis")
    for layout in ("padded", "channels_last")
    if (name, plan) != ("groups", "factored")  # which that plan does not serve
    and (layout == "padded" or name in ("groups", "elements-shared", "positions"))
]


@pytest.mark.parametrize("name, algorithm, layout", CALLS)
def test_conv(name: str, algorithm: str, layout: str, device: str) -> None:
    sizes, more, options = CONVS[name]
    case = conv_case(*sizes, **more)  # type: ignore[arg-type]
    assert_exact("conv2d", case, algorithm, device, layout=layout, **options)


@pytest.mark.parametrize("algorithm", ["merged", "library", "basis"])
@pytest.mark.parametrize("form", ["loralib", "dense"])
def test_conv_in_other_forms(form: str, algorithm: str, device: str) -> None:
    case = conv_case(9, 1, 4, 6, 2, 2, size=(5, 4), form=form, groups=2, bias=2)
    op = "conv2d_delta" if form == "dense" else "conv2d"
    assert_exact(op, case, algorithm, device, groups=2)


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("algorithm", ["factored", "basis"])
def test_conv_is_rounded_once(algorithm: str, shared: bool, device: str) -> None:
    """1 + 2^-8, of base and adapters, lies between two bfloat16, rounded down: the bias' 2^-12 tips it."""
    one = torch.ones(1, 1, 1, 1, dtype=torch.bfloat16, device=device)
    lam, bias = torch.full((1, 1), 2.0**-8, device=device), torch.full_like(one[0, 0, 0], 2.0**-12)
    with pk.force_plan(conv2d=algorithm):
        y = pk.conv2d(one, one, bias, one[0], one[0], lam, shared=shared, backend="triton")
    assert y.item() == 1 + 2.0**-7
