"""The plan `persistent` of `linear` against the float64 definition, on the device or interpreted; and where it is not
offered, what runs instead."""

from __future__ import annotations

import contextvars
from collections.abc import Callable
from typing import Any

import pytest
import torch
from kernel_cases import linear_case
from torch import Tensor
from triton_cases import assert_triton_equals_definition

import palora_kernels as pk
from palora.bench.plan import plans_of
from palora_kernels import plans, versions
from palora_kernels.sizes import Sizes
from palora_kernels.triton.launching import availability, configs

triton: Any = pytest.importorskip("triton")
from palora_kernels.triton.launching import launch  # noqa: E402
from palora_kernels.triton.launching.configs import TARGETS, Target, Tile  # noqa: E402
from palora_kernels.triton.linear import persistent as linear_persistent  # noqa: E402

if availability.status() != "available":  # a GPU that Triton does not support
    pytest.skip(availability.status(), allow_module_level=True)
if not configs.copies_tiles(configs.target_of(torch.device("cuda" if torch.cuda.is_available() else "cpu"))):
    pytest.skip("this device, or this release of Triton, has no such plan", allow_module_level=True)

# Few processors, so that each program walks over several tiles.
FEW = Target("sm_90", 2, TARGETS["sm_90"].shared_memory)
SMALL, LOW, HALVES = Tile(16, 16, 16, 4, 2), Tile(64, 32, 32, 4, 3), Tile(32, 128, 64, 4, 2)


@pytest.fixture
def products(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """One entry a product of the kernel: whether W was read along the reduction, as the forward does."""
    seen: list[bool] = []
    run = linear_persistent.run

    def noted(*tensors: Tensor, along_k: bool) -> Tensor:
        seen.append(along_k)
        return run(*tensors, along_k=along_k)

    monkeypatch.setattr(linear_persistent, "run", noted)
    return seen


def rounded(case: dict[str, Any], dtype: torch.dtype, device: str) -> dict[str, Any]:
    return {k: v if v is None else v.to(torch.float32 if k == "lam" else dtype).to(device) for k, v in case.items()}


@pytest.mark.parametrize(
    "M, n, K, O, T, r, bias, dtype, tile",
    [
        (1, 1, 8, 8, 1, 1, 1, torch.bfloat16, SMALL),
        (1, 127, 40, 72, 2, 3, 0, torch.float16, LOW),
        (4, 32, 24, 56, 2, 8, 1, torch.bfloat16, LOW),
        (3, 43, 64, 136, 2, 1, 2, torch.float16, HALVES),
        (7, 73, 16, 24, 2, 2, 1, torch.bfloat16, LOW),
        (21, 1, 56, 264, 3, 2, 2, torch.bfloat16, HALVES),  # a preference a row, a bias a row
        (64, 1, 16, 32, 1, 2, 2, torch.float16, SMALL),  # the most columns of ones
        (2, 20, 72, 40, 5, 16, 1, torch.bfloat16, LOW),  # R = 80: more than a step
        (3, 9, 32, 48, 4, 16, 1, torch.float16, SMALL),  # R = 64 and the bias in a step of its own
        (2, 33, 48, 16, 2, 23, 2, torch.float16, SMALL),
    ],
)
@pytest.mark.parametrize("layout", ["contiguous", "aligned"])
def test_any_shape(
    M: int,
    n: int,
    K: int,
    O: int,
    T: int,
    r: int,
    bias: int,
    dtype: torch.dtype,
    tile: Tile,
    layout: str,
    device: str,
    products: list[bool],
) -> None:
    case = linear_case(M, n, K, O, T, r, shared=False, bias=bias)
    with configs.assume(FEW, tile=tile):
        assert_triton_equals_definition("linear", case, dtype, "persistent", device=device, layout=layout)
    assert products == [True, False]


@pytest.mark.parametrize("grad", ["expanded", "transposed"])
def test_gradients_of_any_layout(grad: str, device: str, products: list[bool]) -> None:
    case = linear_case(2, 9, 24, 32, 2, 3, shared=False)
    assert_triton_equals_definition(
        "linear", case, torch.bfloat16, "persistent", device=device, layout="contiguous", grad=grad
    )
    assert products == [True, False]


def test_each_program_walks_over_several_tiles() -> None:
    x, left = torch.empty(100, 32, dtype=torch.bfloat16, device="meta"), torch.empty(100, 8, device="meta").bfloat16()
    weight, right = x.new_empty(72, 32), x.new_empty(72, 8)
    with configs.assume(FEW, tile=SMALL), launch.recording() as launches:
        linear_persistent.run(x, weight, left, right, along_k=True)
    assert launches[0].programs == 4  # two processors of two programs each, for 35 tiles


def test_the_sum_is_rounded_once(device: str) -> None:
    """1 + 2^-8 from the base product lies between two bfloat16, to be rounded down: the adapters' 2^-12 tip it."""
    row = torch.zeros(1, 8, dtype=torch.bfloat16, device=device)
    row[0, :2] = torch.tensor([1.0, 2.0**-8])
    ones, first = torch.ones(8, 8, dtype=torch.bfloat16, device=device), torch.zeros_like(row)[None]
    first[..., 0] = 1
    lam = torch.full((1, 1), 2.0**-12, device=device)
    with pk.force_plan(linear="persistent"):
        y = pk.linear(row, ones, None, ones[None, :, :1], first, lam, backend="triton")
    assert (y == 1 + 2.0**-7).all()


@pytest.mark.parametrize("wanted", ["x", "weight", "bias", "A", "lam"])
def test_only_one_gradient(wanted: str, device: str) -> None:
    inputs = rounded(linear_case(2, 3, 16, 24, 2, 2, shared=False, bias=2), torch.bfloat16, device)
    expected = {k: v.double() for k, v in inputs.items()}
    for tensors in (inputs, expected):
        tensors[wanted].requires_grad_()
    with pk.force_plan(linear="persistent"):
        y = pk.linear(**inputs, backend="triton")
        (found,) = torch.autograd.grad(y.float().sum(), inputs[wanted])
    (want,) = torch.autograd.grad(pk.linear(**expected, backend="reference").sum(), expected[wanted])
    torch.testing.assert_close(found.double(), want, rtol=2e-2, atol=2e-2 * float(want.abs().max()))


def test_a_second_call_sees_its_own_values(device: str) -> None:
    cases = [rounded(linear_case(3, 7, 16, 24, 2, 2, shared=False), torch.float16, device) for _ in range(3)]
    with pk.force_plan(linear="persistent"):
        found = [pk.linear(**case, backend="triton") for case in cases]
    for y, case in zip(found, cases, strict=True):
        want = pk.linear(**{k: v.double() for k, v in case.items()}, backend="reference")
        torch.testing.assert_close(y.double(), want, rtol=1e-2, atol=1e-1)


# ------------------------------------------------------------------------------------------------ where it does not run


def ran(case: dict[str, Any], **options: Any) -> str:
    with pk.force_plan(linear="persistent"):
        return plans_of(lambda: pk.linear(**case, **options, backend="triton"))


def test_calls_that_do_not_offer_it(device: str) -> None:
    def case(K: int = 16, O: int = 24, dtype: torch.dtype = torch.bfloat16, **options: Any) -> dict[str, Any]:
        return rounded(linear_case(2, 4, K, O, 2, 2, **{"shared": False, **options}), dtype, device)

    assert ran(case()) == "triton.persistent"
    assert ran(case(dtype=torch.float32)) == "triton.factored"
    assert ran(case(weight=False)) == "triton.factored"
    assert ran(case(K=20)) == "triton.factored"
    assert ran(case(O=12)) == "triton.factored"
    assert ran(case(shared=True), shared=True) == "triton.factored"


@pytest.mark.parametrize("target", ["sm_80", "sm_120", "gfx942"])
def test_devices_that_do_not_have_it(target: str) -> None:
    assert all(configs.copies_tiles(TARGETS[name]) for name in ("sm_90", "sm_100"))
    assert not configs.copies_tiles(TARGETS[target])


def test_a_release_of_triton_whose_allocator_is_the_process_does_not_have_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(versions, "triton_release", lambda: (3, 4))
    assert not configs.copies_tiles(TARGETS["sm_90"])


def _shifted(tensor: Tensor) -> Tensor:
    """The same values, two bytes after an aligned address."""
    memory = tensor.new_full((tensor.numel() + 8,), float("nan"))
    return memory[1 : 1 + tensor.numel()].view(tensor.shape).copy_(tensor)


def _spread(tensor: Tensor) -> Tensor:
    """The same values in rows that start at odd multiples of two bytes."""
    memory = tensor.new_full((tensor.shape[0], tensor.shape[1] + 1), float("nan"))
    return memory[:, :-1].copy_(tensor)


@pytest.mark.parametrize("change", [_shifted, _spread, lambda tensor: tensor.t().contiguous().t()])
@pytest.mark.parametrize("name", ["x", "weight"])
def test_what_tma_cannot_read_is_left_to_the_library(
    name: str, change: Callable[[Tensor], Tensor], device: str, products: list[bool]
) -> None:
    """After a call with a layout that it can read, too: the two are told apart."""
    case = rounded(linear_case(2, 5, 16, 24, 2, 2, shared=False), torch.bfloat16, device)
    with pk.force_plan(linear="persistent"):
        want = pk.linear(**case, backend="triton")
        assert products == [True]
        found = pk.linear(**{**case, name: change(case[name])}, backend="triton")
    assert products == [True]
    torch.testing.assert_close(found, want, rtol=2e-2, atol=0.1)


def test_a_bias_for_each_of_many_rays_is_left_to_the_library(device: str, products: list[bool]) -> None:
    case = linear_case(65, 1, 16, 24, 1, 2, shared=False, bias=2)
    assert_triton_equals_definition("linear", case, torch.bfloat16, "persistent", device=device, layout="contiguous")
    assert products == []


def test_no_rows(device: str) -> None:
    case = linear_case(3, 0, 16, 24, 2, 2, shared=False, bias=2)
    assert_triton_equals_definition("linear", case, torch.bfloat16, "persistent", device=device)


def test_the_table_takes_it_where_the_base_product_is_the_work() -> None:
    like = torch.empty(0, dtype=torch.bfloat16, device="meta")
    assert plans.linear(Sizes("triton", 8, 512, 4096, 4096, 16, 3, False), like) == "persistent"
    assert plans.linear(Sizes("triton", 5, 1024, 2048, 2048, 16, 3, False), like) == "persistent"
    assert plans.linear(Sizes("triton", 5, 256, 468, 256, 2, 3, False), like) == "factored"
    assert plans.linear(Sizes("triton", 8, 512, 4096, 4096, 16, 3, False), like.float()) == "library"
    with configs.assume(TARGETS["sm_80"]):
        assert plans.linear(Sizes("triton", 8, 512, 4096, 4096, 16, 3, False), like) == "library"


# --------------------------------------------------------------------------------------------------------------- memory


def test_memory_is_lent_for_the_launch_alone() -> None:
    allocation = pytest.importorskip("triton.runtime._allocation")
    seen = []

    def theirs(size: int, alignment: int, stream: int | None) -> Tensor:
        raise AssertionError("the caller's allocator was asked")

    def start(*values: int) -> tuple[int, ...]:
        seen.append(allocation._allocator.get())
        return values

    def body() -> None:
        triton.set_allocator(theirs)
        assert launch._lending(start)(1, 2) == (1, 2)
        assert allocation._allocator.get() is theirs

    contextvars.copy_context().run(body)
    assert seen == [launch._memory]
