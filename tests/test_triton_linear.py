"""The Triton plans of `linear` and `linear_delta` against the float64 definition, on the device or interpreted."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("hypothesis")

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kernel_cases import linear_case, linear_delta_case
from triton_cases import GRADS, LAYOUTS, assert_triton_equals_definition, laid_out, poisoned_memory

import palora_kernels as pk
from palora_kernels import plans
from palora_kernels.triton.launching import availability

pytest.importorskip("triton")
from palora_kernels.sizes import Sizes
from palora_kernels.triton.launching import configs
from palora_kernels.triton.launching.configs import TARGETS, Tile
from palora_kernels.triton.launching.launch import recording
from palora_kernels.triton.launching.operands import Adapters
from palora_kernels.triton.linear import combine as linear_combine
from palora_kernels.triton.linear import library as linear_library
from palora_kernels.triton.linear import product as linear_product
from palora_kernels.triton.linear import rays as linear_rays
from palora_kernels.triton.linear import sums as linear_sums

if availability.status() != "available":  # a GPU that Triton does not support
    pytest.skip(availability.status(), allow_module_level=True)

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
LOW_RANK = ("factored", "split", "splitk", "library", "merged")
DELTA = ("basis", "merged")
# So small that a few rows and columns need several tiles and several steps of every kernel; `in_splits` for the rest.
SMALL = Tile(16, 16, 16, 4, 2, splits=3)
SIZES = st.sampled_from([1, 2, 3, 7, 15, 16, 17, 31, 33])


@pytest.fixture
def in_splits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every sum over rows in three; of so few rows the estimate of what is fastest never asks for it."""
    monkeypatch.setattr(configs, "choose_splits", lambda *_: 3)
    monkeypatch.setattr(linear_sums, "_splits", lambda *_: 3)


@st.composite
def cases(draw: Any, op: str) -> dict[str, Any]:
    rays = draw(st.sampled_from([1, 2, 3, 5]))
    tasks = draw(st.integers(1, 3))
    options = {
        "shared": draw(st.booleans()),
        "bias": draw(st.integers(0, 2)),
        "weight": draw(st.booleans()),
    }
    n, K, O = draw(st.sampled_from([1, 2, 7, 17])), draw(SIZES), draw(SIZES)
    if op == "linear":
        rank = draw(st.sampled_from([1, 2, 3, 5, 6, 23]))
        values = linear_case(rays, n, K, O, tasks, rank, **options)
    else:
        values = linear_delta_case(rays, n, K, O, tasks, **options)
    return {
        "op_name": op,
        "case": values,
        "dtype": draw(st.sampled_from(DTYPES)),
        "algorithm": draw(st.sampled_from(LOW_RANK if op == "linear" else DELTA)),
        "layout": draw(st.sampled_from(LAYOUTS)),
        "grad": draw(st.sampled_from(GRADS)),
        "shared": options["shared"],
    }


def _few(examples: int) -> settings:
    return settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
    )


def _on(device: str, arguments: dict[str, Any], tile: Tile | None) -> None:
    if tile is None:
        assert_triton_equals_definition(**arguments, device=device)
        return
    with configs.assume(configs.target_of(torch.device(device)), tile=tile):
        assert_triton_equals_definition(**arguments, device=device)


@pytest.mark.parametrize("op", ["linear", "linear_delta"])
@_few(7)
@given(data=st.data())
@pytest.mark.usefixtures("in_splits")
def test_any_shape_small_tiles(device: str, op: str, data: st.DataObject) -> None:
    _on(device, data.draw(cases(op)), SMALL)


@pytest.mark.slow
@pytest.mark.parametrize("op", ["linear", "linear_delta"])
@pytest.mark.parametrize("tile", [SMALL, Tile(32, 16, 32, 4, 2), None])
@_few(60)
@given(data=st.data())
def test_any_shape(device: str, op: str, tile: Tile | None, data: st.DataObject) -> None:
    _on(device, data.draw(cases(op)), tile)


@pytest.mark.parametrize("algorithm", LOW_RANK)
@pytest.mark.parametrize("shared", [False, True])
def test_low_rank(device: str, algorithm: str, shared: bool) -> None:
    case = linear_case(3, 9, 19, 18, 2, 3, shared=shared, bias=2)
    # oneDNN's products of bfloat16 read beyond an odd row where the CPU has AMX: plain torch.mm gives NaN then.
    dtype = torch.float32 if algorithm in ("factored", "library") else torch.bfloat16
    assert_triton_equals_definition("linear", case, dtype, algorithm, device=device, shared=shared)


@pytest.mark.parametrize(
    "M, n, r, shared, bias, weight, dtype, layout, grad",
    [
        (3, 5, 3, False, 1, True, torch.float32, "transposed", "transposed"),
        (3, 5, 3, True, 2, True, torch.float16, "padded", "random"),
        (11, 1, 23, False, 2, True, torch.bfloat16, "padded", "expanded"),  # a preference a row, R = 46
        (2, 3, 1, False, 0, False, torch.float32, "padded", "random"),
    ],
)
def test_base_products_of_the_library(
    device: str,
    M: int,
    n: int,
    r: int,
    shared: bool,
    bias: int,
    weight: bool,
    dtype: torch.dtype,
    layout: str,
    grad: str,
) -> None:
    case = linear_case(M, n, 19, 18, 2, r, shared=shared, bias=bias, weight=weight)
    assert_triton_equals_definition(
        "linear", case, dtype, "library", device=device, layout=layout, grad=grad, shared=shared
    )


def test_the_library_rounds_the_sum_once(device: str) -> None:
    """1 + 2^-8 from the base product lies between two bfloat16, to be rounded down: the adapters' 2^-12 tip it."""
    row = torch.tensor([[1.0, 2.0**-8]], dtype=torch.bfloat16, device=device)
    ones, first = torch.ones_like(row), torch.tensor([[[1.0, 0.0]]], dtype=torch.bfloat16, device=device)
    lam = torch.full((1, 1), 2.0**-12, device=device)
    with pk.force_plan(linear="library"):
        y = pk.linear(row, ones, None, first[..., :1], first, lam, backend="triton")
    assert y.item() == 1 + 2.0**-7


@pytest.mark.parametrize("shared", [False, True])
def test_more_columns_than_fit_beside_a_tile(device: str, shared: bool) -> None:
    """R = 66: the fused plan hands over to the split one."""
    case = linear_case(2, 3, 5, 6, 3, 22, shared=shared)
    assert linear_product.LARGEST_FUSED < 66
    assert_triton_equals_definition("linear", case, torch.float32, "factored", device=device, shared=shared)


@pytest.mark.parametrize("rays", [linear_rays.MOST_RAYS, linear_rays.MOST_RAYS + 1])
@pytest.mark.parametrize("n", [1, 17])
def test_gradients_of_many_rays_in_one_reading_and_in_two(device: str, rays: int, n: int) -> None:
    case = linear_case(rays, n, 5, 35, 2, 3, shared=True)
    with configs.assume(TARGETS["sm_90"]):
        fits = linear_rays.fits(torch.empty(rays * n, 35, device="meta"), rays, 6)
    assert fits == (rays == linear_rays.MOST_RAYS)
    assert_triton_equals_definition("linear", case, torch.float32, "factored", device=device, shared=True)


def test_a_preference_a_row(device: str) -> None:
    """M = P, n = 1: one tile holds rows of many rays."""
    case = linear_case(21, 1, 7, 5, 3, 2, shared=False, bias=2)
    assert_triton_equals_definition("linear", case, torch.float32, "factored", device=device)


@pytest.mark.parametrize("tasks", [1, 7])
def test_delta_shared(device: str, tasks: int) -> None:
    case = linear_delta_case(4, 5, 18, 17, tasks, shared=True, bias=1, weight=tasks == 7)
    assert_triton_equals_definition("linear_delta", case, torch.bfloat16, "basis", device=device, shared=True)


def test_delta_with_more_elements_than_registers_hold(device: str) -> None:
    case = linear_delta_case(2, 3, 4, 5, 16, shared=True)
    assert linear_combine.MOST_ELEMENTS < 17
    assert_triton_equals_definition("linear_delta", case, torch.float32, "basis", device=device, shared=True)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "M, n, K, O, T, r, shared",
    [
        (5, 256, 468, 256, 2, 1, True),  # Census, the first layer
        (2, 512, 21, 256, 7, 4, True),  # SARCOS, the first layer
        (2, 512, 256, 256, 7, 4, False),
        (5, 256, 320, 50, 2, 1, False),  # LeNet
        (5, 256, 50, 10, 2, 1, False),
        (2, 65, 129, 127, 2, 33, False),  # a tile and one, R > 64
    ],
)
def test_layers_of_the_papers(
    device: str, dtype: torch.dtype, M: int, n: int, K: int, O: int, T: int, r: int, shared: bool
) -> None:
    case = linear_case(M, n, K, O, T, r, shared=shared)
    assert_triton_equals_definition("linear", case, dtype, "factored", device=device, shared=shared)


# ------------------------------------------------------------------------------------------- what calls may ask for


@pytest.mark.parametrize(
    "op, algorithm",
    [
        ("linear", "factored"),
        ("linear", "splitk"),
        ("linear", "library"),
        ("linear", "merged"),
        ("linear_delta", "basis"),
    ],
)
@pytest.mark.parametrize("shared", [False, True])
def test_no_rows(device: str, op: str, algorithm: str, shared: bool) -> None:
    make = linear_case(3, 0, 5, 4, 2, 2, shared=shared, bias=2) if op == "linear" else None
    case = make or linear_delta_case(3, 0, 5, 4, 2, shared=shared, bias=2)
    assert_triton_equals_definition(op, case, torch.float32, algorithm, device=device, shared=shared)


@pytest.mark.parametrize("algorithm", ["factored", "splitk", "library"])
@pytest.mark.parametrize("wanted", ["x", "weight", "bias", "A", "lam"])
def test_only_one_gradient(device: str, wanted: str, algorithm: str) -> None:
    """What is not needed is neither computed nor required of the others."""
    inputs = {k: v.to(device) for k, v in linear_case(2, 3, 6, 5, 2, 2, shared=False).items()}
    expected = {k: v.double() for k, v in inputs.items()}
    for tensors in (inputs, expected):
        tensors[wanted].requires_grad_()
    with poisoned_memory(), pk.force_plan(linear=algorithm):
        (found,) = torch.autograd.grad(pk.linear(**inputs, backend="triton").sum(), inputs[wanted])
    (want,) = torch.autograd.grad(pk.linear(**expected, backend="reference").sum(), expected[wanted])
    torch.testing.assert_close(found.double(), want, rtol=1e-4, atol=1e-4)


@pytest.mark.usefixtures("in_splits")
def test_same_bits_twice(device: str) -> None:
    """Sums that several programs share are added in a fixed order."""
    case = {k: v.to(device).requires_grad_() for k, v in linear_case(2, 40, 8, 8, 2, 2, shared=False).items()}
    with configs.assume(TARGETS["sm_90"], tile=SMALL):
        runs = [
            torch.autograd.grad(pk.linear(**case, backend="triton").square().sum(), list(case.values()))
            for _ in range(2)
        ]
        with recording() as launches:
            pk.linear(**case, backend="triton").sum().backward()
    assert {entry.arguments["splits"] for entry in launches if "splits" in entry.arguments} == {3}
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


@pytest.mark.slow  # the interpreter copies the whole buffer
def test_offsets_beyond_32_bits(device: str) -> None:
    """Rows 2**30 elements apart: the third starts beyond what an int32 holds."""
    stride = 2**30 + 8
    rows = torch.empty(2 * stride + 8, dtype=torch.float16, device=device).as_strided((3, 8), (stride, 1))
    rows.copy_(torch.randn(3, 8))
    case = {k: v.half().to(device) for k, v in linear_case(3, 1, 8, 4, 1, 1, shared=False).items()}
    near = pk.linear(**{**case, "x": rows.clone()}, backend="triton")
    assert torch.equal(pk.linear(**{**case, "x": rows}, backend="triton"), near)


@pytest.mark.parametrize("algorithm", ["factored", "splitk", "library"])
def test_compiled_whole(device: str, algorithm: str) -> None:
    """torch.compile(fullgraph=True) sees one op, whose fake has the strides of the real result."""
    case = {k: v.to(device).requires_grad_() for k, v in linear_case(2, 3, 6, 5, 2, 2, shared=False).items()}

    def step(**tensors: torch.Tensor) -> torch.Tensor:
        return pk.linear(**tensors, backend="triton").relu()

    with pk.force_plan(linear=algorithm):
        compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
        found = torch.autograd.grad(compiled(**case).sum(), list(case.values()))
        expected = torch.autograd.grad(step(**case).sum(), list(case.values()))
    for got, want in zip(found, expected, strict=True):
        assert got.stride() == want.stride()
        torch.testing.assert_close(got, want)


@pytest.mark.parametrize("op, algorithm", [("linear", "factored"), ("linear", "library"), ("linear_delta", "basis")])
def test_the_op_keeps_its_word(device: str, op: str, algorithm: str) -> None:
    """Schema, shapes, strides and autograd registration, by PyTorch's own checker."""
    make = linear_case(2, 2, 3, 4, 2, 1, shared=False) if op == "linear" else None
    case = {k: v.to(device) for k, v in (make or linear_delta_case(2, 2, 3, 4, 2, shared=False)).items()}
    tests = ("test_schema", "test_faketensor")
    tensors = [case[name] for name in ("x", "weight", "bias")]
    tensors += [case["A"], case["B"]] if op == "linear" else [case["D"], None]
    arguments = (*tensors, case["lam"], False, f"triton.{algorithm}")
    torch.library.opcheck(torch.ops.palora.linear.default, arguments, test_utils=tests)


def test_float64_is_refused(device: str) -> None:
    case = {k: v.double().to(device) for k, v in linear_case(2, 2, 3, 4, 2, 1, shared=False).items()}
    with pytest.raises(RuntimeError, match="accumulate in float32"):
        pk.linear(**case, backend="triton")


def test_the_interpreter_is_never_chosen_unasked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PALORA_BACKEND", raising=False)
    assert not availability.preferred(torch.device("cpu"), torch.float32)


def test_autocast(device: str) -> None:
    """Under autocast the op runs in the autocast dtype, gradients in the parameters' own."""
    case = {k: v.to(device).requires_grad_() for k, v in linear_case(2, 3, 6, 5, 2, 2, shared=False).items()}
    with torch.autocast(device, torch.bfloat16):
        y = pk.linear(**case, backend="triton")
    assert y.dtype == torch.bfloat16
    y.sum().backward()
    assert all(v.grad is not None and v.grad.dtype == torch.float32 for v in case.values())


@pytest.mark.parametrize("shared", [False, True])
def test_library_with_many_rows(shared: bool, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """From some rows on the backward of `library` is made of the library's products alone."""
    monkeypatch.setattr(linear_library, "_MANY_ROWS", 1)
    case = linear_case(3, 5, 19, 18, 2, 3, shared=shared)
    for dtype in (torch.float32, torch.bfloat16):
        assert_triton_equals_definition("linear", case, dtype, "library", device=device, shared=shared)


# ------------------------------------------------------------------------------------------- plans and configurations


def plan_of(
    rays: int, n: int, K: int, O: int, R: int = 0, elements: int = 3, shared: bool = False, like: Tensor | None = None
) -> str:
    sizes = Sizes("triton", rays, n, K, O, R, elements, shared)
    return plans.linear(sizes, like) if R else plans.linear_delta(sizes, like)


def test_plans_on_a_gpu() -> None:
    """Fused while S costs less than a second look at X; merged where a ray has rows enough to pay for a weight."""
    assert plan_of(5, 256, 468, 256, R=2) == "factored"
    assert plan_of(5, 256, 468, 256, R=2, shared=True) == "factored"
    assert plan_of(5, 256, 468, 256, R=128, shared=True) == "split"
    assert plan_of(2, 65536, 4096, 4096, R=512) == "library"
    assert plan_of(64, 1, 4096, 4096, R=16) == "splitk"  # W is all the traffic
    assert plan_of(1, 256, 1024, 1024, R=16) == "splitk"
    assert plan_of(1, 257, 4096, 4096, R=16) == "library"
    assert plan_of(64, 1, 768, 768, R=16) == "factored"  # a launch costs more
    assert plan_of(64, 1, 4096, 4096, R=16, like=torch.empty(0)) == "library"
    assert plan_of(5, 256, 256, 256, R=2, like=torch.empty(0)) == "factored"
    assert plan_of(5, 256, 512, 512, R=2, like=torch.empty(0)) == "library"  # float32 on scalar units
    assert plan_of(5, 256, 1024, 1024, R=16) == "factored"  # launches cost more than cuBLAS saves
    assert plan_of(64, 8, 4096, 4096, R=48) == "library"
    assert plan_of(5, 512, 2048, 2048, R=16) == "library"
    assert plan_of(5, 512, 2048, 2048, R=16, shared=True) == "factored"  # one base product, M cheap ones
    assert plan_of(5, 256, 468, 256, elements=3, shared=True) == "basis"
    assert plan_of(2, 256, 468, 256, elements=3, shared=True) == "merged"
    assert plan_of(256, 1, 1024, 1024, elements=3) == "basis"
    assert plan_of(2, 65536, 1024, 1024, elements=9) == "merged"


def test_every_candidate_fits_its_target() -> None:
    for target in TARGETS.values():
        for kind in ("half", "tf32", "ieee"):
            tiles = configs.candidates(kind, target, side=64)
            assert tiles
            for tile in tiles:
                held = tile.num_stages - 1 if target.is_amd else tile.num_stages
                one = Tile(tile.rows, tile.columns, tile.depth, tile.num_warps, held)
                assert configs.staged_bytes(one, kind, 64) <= target.shared_memory


def test_a_recorded_launch_is_specialised_like_a_real_one() -> None:
    x = torch.empty(32, 48, dtype=torch.bfloat16, device="meta")
    case = {"A": x.new_empty(2, 64, 3), "B": x.new_empty(2, 3, 48)}
    y = x.new_empty(32, 64)
    from palora_kernels.triton.launching.operands import in_side, out_side

    with configs.assume(TARGETS["sm_80"]), recording() as launches:
        lam = torch.empty(2, 2, device="meta")
        linear_product.run(
            x, None, None, Adapters(in_side(case["B"]), out_side(case["A"]), lam, 16), None, y, s_from="x"
        )
    (launch,) = launches
    signature = launch.signature()
    assert signature["x_ptr"] == "*bf16"
    assert signature["lam_ptr"] == "*fp32"
    assert signature["rows"] == "i32"
    assert launch.constants()["w_ptr"] is None
    assert launch.constants()["x_col"] == 1
    assert {"x_ptr", "rows", "K", "x_row"} <= set(launch.divisible())
    assert "R" not in launch.divisible()
    assert launch.programs == -(-32 // launch.arguments["BM"]) * -(-64 // launch.arguments["BN"])


def test_layouts_of_the_cases_differ() -> None:
    values = torch.randn(3, 4)
    assert laid_out(values, "padded").stride() == (7, 1)
    assert laid_out(values, "transposed").stride() == (1, 3)
    assert all(torch.equal(laid_out(values, layout), values) for layout in LAYOUTS)
