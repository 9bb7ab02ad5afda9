"""The Triton plans of `conv2d` and `conv2d_delta` against the definition in float64; in the interpreter without a GPU.

Inputs lie between NaNs and fresh memory is NaN, so that a read outside a tensor or an output left unwritten shows.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F

pytest.importorskip("hypothesis")

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from kernel_cases import assert_equals_definition, conv_case, convert, run
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from triton_cases import assert_triton_equals_definition

import palora_kernels as pk
from palora_kernels import plans
from palora_kernels.call import Call, Geometry, Needs
from palora_kernels.factors import Dense, LowRank
from palora_kernels.sizes import Sizes

pytest.importorskip("triton")

from palora_kernels.triton.conv import gemm as conv_gemm
from palora_kernels.triton.conv import kernel_gradient as conv_kernel_gradient
from palora_kernels.triton.conv import plans as conv
from palora_kernels.triton.conv.shapes import ConvShape, few
from palora_kernels.triton.launching import configs, launch
from palora_kernels.triton.merge import merge
from palora_kernels.triton.merge import pull as merge_pull

ALGORITHMS = ["merged", "library", "factored", "basis"]
SMALL = configs.Tile(16, 16, 16, 2, 2)
QUIET = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture]


@pytest.fixture(autouse=True)
def _fresh_memory_is_nan() -> Iterator[None]:
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


def between_nans(t: Tensor, device: str) -> Tensor:
    """The same values and strides inside a storage that is NaN before and after them."""
    size = 1 + sum((n - 1) * s for n, s in zip(t.shape, t.stride(), strict=True))
    storage = torch.full((size + 128,), float("nan"), dtype=t.dtype, device=device)
    return storage.as_strided(t.shape, t.stride(), 64).copy_(t) if t.numel() else t.to(device)


def guarded(case: dict[str, Any], device: str, channels_last: bool = False) -> dict[str, Any]:
    """x, weight and bias, which the kernels read where they lie, between NaNs."""
    made = {name: None if t is None else t.to(device) for name, t in case.items()}
    if channels_last:
        made["x"] = made["x"].contiguous(memory_format=torch.channels_last)
    return {name: t if t is None or name == "lam" else between_nans(t, device) for name, t in made.items()}


FEW_SIZES = st.sampled_from([1, 3, 16, 17])
SIZES = st.sampled_from([1, 2, 3, 5, 7, 15, 16, 17, 31, 33])
SMALL_PAIRS = st.tuples(st.integers(1, 3), st.integers(1, 3))


@st.composite
def calls(
    draw: st.DrawFn, algorithm: str, sizes: st.SearchStrategy[int]
) -> tuple[str, dict[str, Any], torch.dtype, dict[str, Any], bool]:
    """(op, arguments, dtype, options, channels_last)."""
    form = "matricised" if algorithm == "factored" else draw(st.sampled_from(["matricised", "loralib", "dense"]))
    groups = 1 if algorithm == "factored" else draw(st.sampled_from([1, 1, 2, 3]))
    side = draw(st.integers(1, 3))
    kernel = (side, side) if form == "loralib" else draw(st.sampled_from([(1, 1), (3, 3), (1, 4), (5, 2)]))
    dilation, stride = draw(SMALL_PAIRS), draw(SMALL_PAIRS)
    padding = draw(st.tuples(st.integers(0, 2), st.integers(0, 2)))
    size = tuple(max(1, dilation[i] * (kernel[i] - 1) + 1 - 2 * padding[i]) + draw(st.integers(0, 4)) for i in (0, 1))
    shared = draw(st.booleans())
    case = conv_case(
        draw(st.sampled_from([1, 2, 3, 5])),
        draw(st.sampled_from([1, 2, 3])),
        groups * draw(sizes),
        groups * draw(sizes),
        draw(st.sampled_from([1, 2, 3])),
        draw(st.sampled_from([1, 2, 5, 7])),
        size=size,  # type: ignore[arg-type]
        kernel=kernel,
        groups=groups,
        shared=shared,
        bias=draw(st.integers(0, 2)),
        weight=form == "loralib" or kernel[0] != kernel[1] or draw(st.booleans()),
        form=form,
    )
    options = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups, "shared": shared}
    op = "conv2d_delta" if form == "dense" else "conv2d"
    dtype = draw(st.sampled_from([torch.float32, torch.bfloat16, torch.float16]))
    return op, case, dtype, options, draw(st.booleans())


def check(call: tuple[str, dict[str, Any], torch.dtype, dict[str, Any], bool], algorithm: str, device: str) -> None:
    op, case, dtype, options, channels_last = call
    layout = "channels_last" if channels_last else "padded"
    assert_triton_equals_definition(op, case, dtype, algorithm, device=device, layout=layout, **options)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@settings(max_examples=4, deadline=None, derandomize=True, suppress_health_check=QUIET)
@given(data=st.data())
def test_equals_the_definition(algorithm: str, device: str, data: st.DataObject) -> None:
    check(data.draw(calls(algorithm, FEW_SIZES)), algorithm, device)


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ALGORITHMS)
@settings(max_examples=40, deadline=None, suppress_health_check=QUIET)
@given(data=st.data())
def test_equals_the_definition_everywhere(algorithm: str, device: str, data: st.DataObject) -> None:
    check(data.draw(calls(algorithm, SIZES)), algorithm, device)


# ------------------------------------------------------------------------------------------------- the kernels alone


def shape_of(x: Tensor, kernels: Tensor, shared: bool, geometry: Geometry) -> ConvShape:
    """``kernels``: (M, O, C/groups, kh, kw)."""
    lam = torch.empty(kernels.shape[0], 1, device=x.device)
    return ConvShape.of(Call(x, None, None, Dense(kernels[:1]), lam, shared, 0, geometry))


# (C, O, groups, kernel, stride, padding, dilation, size): with tiles of 16 there are several in every direction.
GEOMETRIES: list[tuple[int, int, int, tuple[int, int], tuple[int, int], tuple[int, int], tuple[int, int]]] = [
    (3, 17, 1, (3, 3), (1, 1), (1, 1), (1, 1)),
    (17, 16, 1, (2, 3), (2, 1), (0, 2), (1, 2)),
    (32, 33, 1, (1, 1), (2, 2), (0, 0), (1, 1)),
    (34, 6, 2, (2, 2), (3, 2), (1, 0), (2, 3)),
]


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("geometry", GEOMETRIES)
def test_kernels_tile_by_tile(geometry: Any, shared: bool, device: str) -> None:
    C, O, groups, kernel, stride, padding, dilation = geometry
    rays, n, dtype = 2, 2, torch.float32
    lists = [list(pair) for pair in (stride, padding, dilation)]
    x = torch.randn(n if shared else rays * n, C, 6, 5, device=device, dtype=dtype)
    K = torch.randn(rays, O, C // groups, *kernel, device=device, dtype=dtype)
    shape = shape_of(x, K, shared, Geometry(*lists, groups))
    exact_x, exact_K = x.double().requires_grad_(), K.double().requires_grad_()
    rows = [exact_x if shared else exact_x[m * n : (m + 1) * n] for m in range(rays)]
    wanted = torch.cat([F.conv2d(rows[m], exact_K[m], None, stride, padding, dilation, groups) for m in range(rays)])
    G = torch.randn(wanted.shape, device=device, dtype=dtype)
    wanted_dx, wanted_dK = torch.autograd.grad(wanted, [exact_x, exact_K], G.double())

    nhwc = [between_nans(t.permute(0, 2, 3, 1).contiguous(), device) for t in (x, G)]
    kernels = between_nans(K.permute(0, 1, 3, 4, 2).contiguous(), device)
    with configs.assume(configs.TARGETS["sm_90"], tile=SMALL):
        y = conv_gemm.forward(nhwc[0], kernels, None, shape)
        dx = conv_gemm.input_gradient(nhwc[1], kernels, shape)
        gradients = conv_kernel_gradient.kernel_gradients(*nhwc, shape, 2)
        each, total = gradients.sums(dtype, each=True, total=True)
        of_rays = gradients.bias(dtype)
        of_all = conv_kernel_gradient.kernel_gradients(*nhwc, shape, 1).bias(dtype)
    close = {"atol": 2e-4, "rtol": 1e-4}
    torch.testing.assert_close(y.permute(0, 3, 1, 2).double(), wanted.detach(), **close)
    torch.testing.assert_close(dx.permute(0, 3, 1, 2).double(), wanted_dx, **close)
    assert each is not None
    assert total is not None
    assert of_rays is not None
    assert of_all is not None
    torch.testing.assert_close(of_rays.double(), G.double().unflatten(0, (rays, n)).sum((1, 3, 4)), **close)
    torch.testing.assert_close(of_all.double(), G.double().sum((0, 2, 3)), **close)
    torch.testing.assert_close(each.double(), wanted_dK, **close)
    torch.testing.assert_close(total.double(), wanted_dK.sum(0), **close)


def test_positions_are_split_and_added_in_order(device: str) -> None:
    x, G = torch.randn(1, 16, 26, 27, device=device), torch.randn(1, 16, 26, 26, device=device)
    shape = shape_of(x, torch.empty(1, 16, 16, 1, 2), False, Geometry([1, 1], [0, 0], [1, 1], 1))
    nhwc = [t.permute(0, 2, 3, 1).contiguous() for t in (x, G)]
    with configs.assume(configs.TARGETS["sm_90"], tile=SMALL), launch.recording() as launches:
        conv_kernel_gradient.kernel_gradients(*nhwc, shape)
    assert launches[0].arguments["splits"] == 5
    with configs.assume(configs.TARGETS["sm_90"], tile=SMALL):
        runs = [conv_kernel_gradient.kernel_gradients(*nhwc, shape) for _ in (0, 1)]
        found = [run.sums(x.dtype, each=False, total=True)[1] for run in runs]
    assert found[0] is not None
    assert found[1] is not None
    assert torch.equal(found[0], found[1])
    exact = torch.nn.grad.conv2d_weight(x.double(), (16, 16, 1, 2), G.double())
    torch.testing.assert_close(found[0].double(), exact, atol=5e-4, rtol=1e-4)


@pytest.mark.parametrize("rays", [1, 11])
@pytest.mark.parametrize("form", ["matricised", "loralib", "wide", "dense"])
@pytest.mark.parametrize("channels_last", [False, True])
def test_kernels_are_merged_with_one_rounding(rays: int, form: str, channels_last: bool, device: str) -> None:
    shape, T = (6, 5, 3, 3), 5
    sides = {"matricised": (6, 45, 3), "loralib": (18, 15, 6), "wide": (6, 45, 14)}  # wide: R = 70
    W = torch.randn(shape, device=device).bfloat16()
    W = W.contiguous(memory_format=torch.channels_last) if channels_last else W
    lam = torch.rand(T, rays, device=device).t()
    factors: LowRank | Dense
    if form == "dense":
        factors = Dense(torch.randn(T, *shape, device=device).bfloat16())
        deltas = factors.given[0].double()
    else:
        p, q, r = sides[form]
        factors = LowRank(
            torch.randn(T, r, p, device=device).bfloat16().transpose(1, 2),  # strides of their own
            torch.randn(T, r, q, device=device).bfloat16(),
            shape,
        )
        A, B = factors.given
        deltas = (A.double() @ B.double()).view(T, *shape)
    exact = W.double() + torch.tensordot(lam.double(), deltas, dims=1)
    found = merge.kernels_of_rays(W, factors, lam).permute(0, 1, 4, 2, 3)
    # Half a unit in the last of bfloat16's 8 bits, at most 2^-8 of the value, and a little for the sum in float32.
    assert bool(((found.double() - exact).abs() <= exact.abs() * 2**-8 + 1e-4).all())


@pytest.mark.parametrize("splits, weight", [(1, False), (3, True)])
@pytest.mark.parametrize("form, r", [("matricised", 3), ("matricised", 6), ("loralib", 6)])
def test_gradients_of_kernels_are_pulled_back(form: str, r: int, splits: int, weight: bool, device: str) -> None:
    """R of 15 and 30, columns that no tile divides, and several tiles, stretches and splits."""
    (p, q), shape, T, rays = ((34, 45) if form == "matricised" else (102, 15)), (34, 5, 3, 3), 5, 4
    A = torch.randn(T, r, p, device=device).bfloat16().transpose(1, 2)
    B, lam = torch.randn(T, r, q, device=device).bfloat16(), torch.rand(T, rays, device=device).t()
    dK = torch.randn(rays, splits, 34, 9, 5, device=device)  # the taps before the channels, as the kernels work
    partial = torch.full((rays, splits, p * q + 34), torch.nan, device=device)
    partial[:, :, : p * q] = dK.view(rays, splits, -1)
    factors = LowRank(A, B, shape)
    assert merge_pull.fits(factors, partial.device)
    total, (dA, dB), dlam = merge_pull.run(factors, partial, lam, weight=weight)

    exact = [t.double().requires_grad_() for t in (A, B, lam)]
    K = torch.tensordot(exact[2], exact[0] @ exact[1], dims=1).view(rays, *shape)
    G = dK.double().sum(1).transpose(2, 3).reshape(rays, *shape)
    wanted = torch.autograd.grad(K, exact, G)
    assert (total is not None) == weight
    if total is not None:
        torch.testing.assert_close(total.double(), G.sum(0), rtol=2**-8, atol=1e-4)
    for found, want in zip((dA, dB, dlam), wanted, strict=True):
        torch.testing.assert_close(found.double(), want, rtol=2**-8, atol=1e-3)


# ---------------------------------------------------------------------------------------------------------- the plans


@pytest.mark.parametrize(
    "algorithm, form", [("merged", "matricised"), ("merged", "loralib"), ("factored", "matricised")]
)
def test_more_than_64_columns(algorithm: str, form: str, device: str) -> None:
    case = guarded(conv_case(2, 1, 3, 5, 5, 5 if form == "loralib" else 14, form=form, size=(4, 4)), device)
    assert_equals_definition("conv2d", case, torch.float32, algorithm, tested="triton")


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_one_preference_a_row(algorithm: str, device: str) -> None:
    case = guarded(conv_case(7, 1, 3, 4, 2, 1, size=(3, 4), bias=2), device)
    assert_equals_definition("conv2d", case, torch.float32, algorithm, tested="triton")


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize(
    "channels, outputs, size, channels_last", [(1, 3, (5, 4), False), (3, 1, (5, 4), False), (3, 5, (3, 3), True)]
)
def test_strides_are_those_that_the_compiler_expects(
    algorithm: str, shared: bool, channels: int, outputs: int, size: tuple[int, int], channels_last: bool, device: str
) -> None:
    case = guarded(conv_case(2, 2, channels, outputs, 2, 2, size=size, shared=shared), device, channels_last)
    call = (*case.values(), [outputs, channels, 3, 3], [1, 1], [0, 0], [1, 1], 1, shared, f"triton.{algorithm}")
    arguments = [case[name] for name in ("x", "weight", "bias", "A", "B", "lam")]
    torch.library.opcheck(
        torch.ops.palora.conv2d.default, (*arguments, *call[6:]), test_utils=("test_schema", "test_faketensor")
    )
    y, S = torch.ops.palora.conv2d(*arguments, *call[6:])
    needs = [True] * 5
    rest = (*call[6:-2], 1, needs, *call[-2:])
    torch.library.opcheck(
        torch.ops.palora.conv2d_backward.default,
        (torch.ones_like(y), arguments[0], arguments[1], *arguments[3:], S, *rest),
        test_utils=("test_schema", "test_faketensor"),
    )


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("shared", [False, True])
def test_only_the_gradients_that_are_needed(algorithm: str, shared: bool, device: str) -> None:
    case = guarded(conv_case(2, 2, 3, 4, 2, 2, size=(4, 3), shared=shared), device)
    x, weight, lam = case["x"], case["weight"], case["lam"]
    factors = LowRank(case["A"], case["B"], weight.shape)
    _, backward = conv.PLANS[algorithm]
    grad = torch.randn(4, 4, 2, 1, device=device)
    geometry = Geometry([1, 1], [0, 0], [1, 1], 1)

    def gradients(needs: Needs) -> list[Tensor | None]:
        call = Call(x, weight, None, factors, lam, shared, 1, geometry)
        dx, dweight, dbias, dfactors, dlam = backward(call, grad, None, needs)
        return [dx, dweight, dbias, *(dfactors or [None, None]), dlam]

    everything = gradients(Needs(True, True, True, True, True))
    for i in range(5):
        for only in (True, False):  # this one only, or all but this one
            flags = [(j == i) == only for j in range(5)]
            wanted = [*flags[:4], flags[3], flags[4]]
            for found, full, flag in zip(gradients(Needs(*flags)), everything, wanted, strict=True):
                assert (found is not None) == flag
                if found is not None and full is not None:
                    torch.testing.assert_close(found, full, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(
    "op, algorithm", [("conv2d", "merged"), ("conv2d", "library"), ("conv2d", "factored"), ("conv2d_delta", "basis")]
)
def test_empty_batch(op: str, algorithm: str, device: str) -> None:
    case = guarded(conv_case(3, 0, 2, 3, 2, 1, form="dense" if op == "conv2d_delta" else "matricised", bias=2), device)
    assert_equals_definition(op, case, torch.float32, algorithm, tested="triton")


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_gradient_of_stride_zero(algorithm: str, device: str) -> None:
    case = convert(guarded(conv_case(2, 2, 3, 4, 2, 2, size=(4, 3)), device), torch.float32)
    with pk.force_plan(conv2d=algorithm):
        found = torch.autograd.grad(pk.conv2d(**case, backend="triton").sum(), list(case.values()))
    expected = run(pk.conv2d, case, None, backend="reference")
    for got, name in zip(found, case, strict=True):
        torch.testing.assert_close(got, expected[name], atol=1e-4, rtol=1e-4)


# ---------------------------------------------------------------------------------------------------------- decisions


def _meta_launches(dtype: torch.dtype, channels: int) -> list[launch.Launch]:
    case = {k: v.to("meta", dtype if k != "lam" else None) for k, v in conv_case(3, 4, channels, 8, 2, 2).items()}
    factors = LowRank(case["A"], case["B"], case["weight"].shape)
    geometry, layout = Geometry([1, 1], [1, 1], [1, 1], 1), torch.channels_last
    forward, backward = conv.PLANS["merged"]
    call = Call(case["x"], case["weight"], case["bias"], factors, case["lam"], False, 1, geometry, layout)
    with launch.recording() as launches:
        y, S = forward(call)
        backward(call, y, S, Needs(True, True, True, True, True))
    return launches


def test_all_rays_are_one_launch() -> None:
    names = [entry.name for entry in _meta_launches(torch.bfloat16, 16)]
    assert names == [
        "merge_low_rank", "conv_gemm", "merge_low_rank", "conv_gemm", "conv_kernel_gradient", "pull_low_rank",
    ]  # fmt: skip


def test_float32_follows_what_convolutions_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """As torch.nn.Conv2d: cuDNN's setting, not that of matrix products."""

    def precisions() -> set[str]:
        launches = _meta_launches(torch.float32, 16)
        return {e.arguments["PRECISION"] for e in launches if "PRECISION" in e.arguments}

    matmul: Any = torch.backends.cuda.matmul
    matmul.allow_tf32 = True
    try:
        assert precisions() == {"ieee", "tf32x3"}  # three tf32 products make one of float32
    finally:
        matmul.allow_tf32 = False
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    assert precisions() == {"tf32", "tf32x3"}
    assert configs.kind(torch.float32) == "ieee"


@pytest.mark.parametrize("algorithm", ["merged", "factored", "basis"])
def test_no_setting_is_changed_while_an_op_runs(algorithm: str, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not for a moment: another thread would compute with it."""
    seen: set[tuple[bool, bool]] = set()

    class Watching(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            seen.add((torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32))
            return func(*args, **(kwargs or {}))

    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    forward, backward = conv.PLANS[algorithm]
    case = {name: t.to(device) for name, t in conv_case(2, 1, 4, 4, 2, 1).items()}
    geometry, layout = Geometry([1, 1], [1, 1], [1, 1], 1), torch.channels_last
    factors = LowRank(case["A"], case["B"], (4, 4, 3, 3))
    with Watching():
        call = Call(case["x"], case["weight"], None, factors, case["lam"], False, 0, geometry, layout)
        y, S = forward(call)
        backward(call, y, S, Needs(True, True, False, True, True))
    assert seen == {(True, False)}


@pytest.mark.parametrize(
    "channels, flat", [(1, True), (3, True), (15, True), (16, False), (20, True), (32, False), (48, False)]
)
def test_few_channels_are_gathered(channels: int, flat: bool) -> None:
    assert few(channels) == flat
    assert {
        e.arguments["FLAT"] for e in _meta_launches(torch.bfloat16, channels) if e.name == "conv_kernel_gradient"
    } == {flat}


def _sizes(**change: Any) -> Sizes:
    base: dict[str, Any] = {
        "backend": "triton", "rays": 5, "n": 128, "positions": 64, "K": 576, "O": 64, "R": 8, "elements": 3,
        "groups": 1, "shared": False, "matricised": True,
    }  # fmt: skip
    return Sizes(**{**base, **change})


@pytest.mark.parametrize(
    "change, algorithm",
    [
        ({}, "merged"),  # many rows a ray: merging is nothing beside the product
        ({"n": 1, "K": 4608, "O": 512, "positions": 16}, "factored"),  # few rows: five kernels are most of the traffic
        ({"shared": True, "n": 256, "positions": 1024}, "factored"),  # one convolution for all rays
        ({"shared": True, "K": 27, "n": 256, "positions": 1024, "matricised": False}, "merged"),  # too little to save
        ({"shared": True, "K": 4608, "O": 512, "n": 256, "rays": 11, "matricised": False}, "basis"),
        ({"groups": 2, "n": 1, "K": 4608, "O": 512, "positions": 16}, "basis"),  # `factored` has no groups
        ({"n": 256, "K": 250, "O": 20, "R": 2, "channels": 10}, "factored"),  # too few to be fetched as vectors
        ({"n": 256, "K": 250, "O": 20, "R": 10, "channels": 10, "matricised": False}, "basis"),
    ],
)
def test_plans_on_a_gpu(change: dict[str, Any], algorithm: str) -> None:
    assert plans.convolution(_sizes(**change)) == algorithm
