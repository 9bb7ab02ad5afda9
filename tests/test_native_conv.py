"""The native plans of `conv2d` and `conv2d_delta` against the loop over merged kernels in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from kernel_cases import assert_equals_definition, conv_case, convert, run
from native_cases import needs_native

import palora_kernels as pk

pytestmark = needs_native

GEOMETRIES: list[dict[str, Any]] = [
    {},
    {"stride": 2, "padding": 1},
    {"stride": (2, 1), "padding": (0, 2), "dilation": (1, 2)},
    {"stride": (1, 3), "padding": (3, 0), "dilation": (2, 1)},
    {"padding": "same"},
]


def _check(op: str, case: dict[str, Any], dtype: torch.dtype, x_needs_gradient: bool, **options: Any) -> None:
    """As assert_equals_definition; without a gradient for x the direct plan runs its own backward."""
    if x_needs_gradient:
        assert_equals_definition(op, case, dtype, "direct", "native", shared=True, **options)
        return
    x = case.pop("x").to(dtype).double()
    rounded = {k: None if v is None else (v if k == "lam" else v.to(dtype).double()) for k, v in case.items()}
    function = getattr(pk, op)

    def reference(**kw: Any) -> torch.Tensor:
        return function(x, **kw, **options, shared=True, backend="reference")

    def native(**kw: Any) -> torch.Tensor:
        with pk.force_plan(**{op: "direct"}):
            return function(x.to(dtype), **kw, **options, shared=True, backend="native")

    exact = convert(rounded, torch.float64)
    grad = torch.randn(reference(**exact).shape).to(dtype).double()
    expected, found = run(reference, exact, grad), run(native, convert(rounded, dtype), grad)
    tolerance = {torch.float64: 1e-10, torch.float32: 2e-4, torch.bfloat16: 6e-2}[dtype]
    for name, want in expected.items():
        scale = max(want.abs().max().item(), 1.0) if want.numel() else 1.0
        torch.testing.assert_close(found[name].double(), want, atol=tolerance * scale, rtol=0, msg=name)


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize(
    "form, weight",  # the loralib form without a weight does not give the kernel's shape
    [("matricised", True), ("matricised", False), ("loralib", True), ("dense", True), ("dense", False)],
)
@pytest.mark.parametrize("x_needs_gradient", [True, False])
def test_direct_equals_the_definition(
    geometry: dict[str, Any], form: str, weight: bool, x_needs_gradient: bool
) -> None:
    op = "conv2d_delta" if form == "dense" else "conv2d"
    case = conv_case(4, 2, 3, 5, 2, 2, shared=True, form=form, weight=weight)
    _check(op, case, torch.float64, x_needs_gradient, **geometry)


@pytest.mark.parametrize(
    "M, n, C, O, T",
    [(1, 3, 1, 1, 1), (5, 4, 1, 10, 2), (3, 2, 2, 17, 3), (2, 0, 1, 4, 2), (7, 1, 3, 33, 2)],
)
@pytest.mark.parametrize("bias", [0, 1, 2])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_sizes_biases_and_dtypes(M: int, n: int, C: int, O: int, T: int, bias: int, dtype: torch.dtype) -> None:
    case = conv_case(M, n, C, O, T, 1, size=(9, 13), kernel=(3, 2), shared=True, bias=bias)
    _check("conv2d", case, dtype, False)


def test_layouts_and_strided_gradients() -> None:
    case = convert(conv_case(3, 2, 2, 5, 2, 2, shared=True), torch.float32)
    case["x"] = case["x"].detach()
    for layout in (torch.contiguous_format, torch.channels_last):
        x = case["x"].to(memory_format=layout)
        leaves = [v for k, v in case.items() if k != "x"]
        y = pk.conv2d(**{**case, "x": x}, shared=True, backend="native")
        assert y.is_contiguous(memory_format=layout)
        found = torch.autograd.grad(y.sum(), leaves)  # a gradient of stride 0
        expected = torch.autograd.grad(pk.conv2d(**case, shared=True, backend="reference").sum(), leaves)
        for got, want in zip(found, expected, strict=True):
            torch.testing.assert_close(got, want, atol=1e-3, rtol=1e-4)


def test_no_gradient_for_lam_leaves_only_the_combinations() -> None:
    """Without dlam the backward sums over the rays first; the results are those of the whole gradient."""
    case = convert(conv_case(5, 3, 1, 10, 2, 1, size=(12, 12), kernel=(5, 5), shared=True), torch.float64)
    for name in ("x", "lam"):
        case[name] = case[name].detach()
    leaves = [case[k] for k in ("weight", "bias", "A", "B")]
    found = torch.autograd.grad(pk.conv2d(**case, shared=True, backend="native").pow(2).sum(), leaves)
    expected = torch.autograd.grad(pk.conv2d(**case, shared=True, backend="reference").pow(2).sum(), leaves)
    for got, want in zip(found, expected, strict=True):
        torch.testing.assert_close(got, want)


@pytest.mark.parametrize("channels_last", [False, True])
def test_opcheck(channels_last: bool) -> None:
    case = convert(conv_case(3, 2, 3, 5, 2, 2, shared=True), torch.float64)
    x = case["x"].detach()
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    arguments = (x, case["weight"], case["bias"], case["A"], case["B"], case["lam"])
    geometry = ([5, 3, 3, 3], [1, 1], [1, 1], [1, 1], 1, True, "native.direct")
    torch.library.opcheck(torch.ops.palora.conv2d.default, (*arguments, *geometry))


def test_the_same_result_every_time() -> None:
    case = convert(conv_case(5, 32, 1, 10, 2, 1, size=(28, 28), kernel=(5, 5), shared=True), torch.float32)
    case["x"] = case["x"].detach()
    leaves = [v for k, v in case.items() if k != "x"]
    results = []
    for _ in range(4):
        y = pk.conv2d(**case, shared=True, backend="native")
        results.append((y, *torch.autograd.grad(y, leaves, torch.ones_like(y))))
    for result in results[1:]:
        for got, want in zip(result, results[0], strict=True):
            assert torch.equal(got, want)


@pytest.mark.parametrize("form", ["matricised", "loralib"])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("groups, shared, bias", [(1, False, 1), (2, False, 2), (1, True, 0)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_merged_equals_the_definition(
    form: str, layout: torch.memory_format, groups: int, shared: bool, bias: int, dtype: torch.dtype
) -> None:
    case = conv_case(3, 2, 4, 6, 2, 2, form=form, groups=groups, shared=shared, bias=bias)
    for name in ("x", "weight"):
        case[name] = case[name].to(memory_format=layout)
    assert_equals_definition("conv2d", case, dtype, "merged", "native", shared=shared, groups=groups, padding=1)


@pytest.mark.parametrize("M, n", [(1, 3), (6, 1), (3, 0)])
@pytest.mark.parametrize("weight", [True, False])
@pytest.mark.parametrize("kernel", [(1, 1), (3, 3)])
def test_merged_batch_sizes(M: int, n: int, weight: bool, kernel: tuple[int, int]) -> None:
    case = conv_case(M, n, 2, 3, 3, 1, kernel=kernel, weight=weight)
    case["x"] = case["x"].to(memory_format=torch.channels_last)
    assert_equals_definition("conv2d", case, torch.float64, "merged", "native")


TILED: list[dict[str, Any]] = [
    {},
    {"padding": 1},
    {"stride": 2, "padding": 1},
    {"stride": (2, 3), "padding": (4, 0), "dilation": (1, 2)},  # more padding than the kernel reaches
    {"stride": (3, 2), "padding": (0, 3), "dilation": (2, 3)},  # stride and dilation without a common factor
    {"stride": 4, "dilation": 2},  # pixels that no output sees
]


@pytest.mark.parametrize("geometry", TILED)
@pytest.mark.parametrize("form, groups", [("matricised", 1), ("loralib", 2), ("dense", 1), ("dense", 3)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_tiled_equals_the_definition(geometry: dict[str, Any], form: str, groups: int, dtype: torch.dtype) -> None:
    op = "conv2d_delta" if form == "dense" else "conv2d"
    case = conv_case(3, 2, 6, 12, 2, 2, size=(11, 14), form=form, groups=groups)
    case["x"] = case["x"].to(memory_format=torch.channels_last)
    assert_equals_definition(op, case, dtype, "tiled", "native", groups=groups, **geometry)


@pytest.mark.parametrize(
    "M, n, C, O, size, kernel",
    [
        (2, 3, 1, 1, (1, 1), (1, 1)),
        (1, 1, 17, 33, (5, 29), (3, 2)),
        (2, 1, 3, 150, (4, 13), (1, 3)),  # more outputs than one panel
        (5, 2, 10, 20, (12, 12), (5, 5)),
        (1, 2, 2, 63, (70, 3), (3, 3)),
        (3, 0, 2, 4, (5, 5), (3, 3)),
        (1, 1, 48, 80, (40, 40), (3, 3)),  # more than one band of rows
    ],
)
@pytest.mark.parametrize("bias", [0, 1, 2])
def test_tiled_sizes(M: int, n: int, C: int, O: int, size: tuple[int, int], kernel: tuple[int, int], bias: int) -> None:
    for weight in (True, False) if kernel[0] == kernel[1] else (True,):
        case = conv_case(M, n, C, O, 2, 1, size=size, kernel=kernel, bias=bias, weight=weight)
        case["x"] = case["x"].to(memory_format=torch.channels_last)
        padding = tuple(k // 2 for k in kernel)
        assert_equals_definition("conv2d", case, torch.float64, "tiled", "native", padding=padding)


@pytest.mark.parametrize("wanted", ["x", "weight", "bias", "A", "lam"])
def test_tiled_gives_only_the_gradient_that_is_needed(wanted: str) -> None:
    case = conv_case(3, 2, 4, 6, 2, 2)
    case["x"] = case["x"].to(memory_format=torch.channels_last)
    case = convert(case, torch.float64)
    for name, tensor in case.items():
        tensor.requires_grad_(name == wanted)
    grad = torch.randn(6, 6, 5, 4).double()
    (want,) = torch.autograd.grad(pk.conv2d(**case, backend="reference"), case[wanted], grad)
    with pk.force_plan(conv2d="tiled"):
        (found,) = torch.autograd.grad(pk.conv2d(**case, backend="native"), case[wanted], grad)
    torch.testing.assert_close(found, want)


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("weight", [True, False])
@pytest.mark.parametrize("bias", [0, 1, 2])
@pytest.mark.parametrize("M, n, T, r", [(4, 2, 2, 1), (1, 3, 1, 3), (3, 2, 3, 5), (2, 0, 2, 2)])
def test_factored_equals_the_definition(shared: bool, weight: bool, bias: int, M: int, n: int, T: int, r: int) -> None:
    case = conv_case(M, n, 5, 18, T, r, shared=shared, weight=weight, bias=bias)
    case["x"] = case["x"].to(memory_format=torch.channels_last)
    assert_equals_definition("conv2d", case, torch.float64, "factored", "native", shared=shared, padding=1, stride=2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [(5, 4), (30, 40)])  # few positions: oneDNN; many: tiles
def test_factored_in_narrower_dtypes_and_both_libraries(dtype: torch.dtype, size: tuple[int, int]) -> None:
    case = conv_case(3, 1, 64, 192, 2, 2, size=size, shared=True)
    for name in ("weight", "B"):
        case[name] = case[name] / 24
    case["x"] = case["x"].to(memory_format=torch.channels_last)
    assert_equals_definition("conv2d", case, dtype, "factored", "native", shared=True, padding=1)


@pytest.mark.parametrize("form, weight", [("dense", True), ("dense", False), ("loralib", True)])
@pytest.mark.parametrize("bias", [0, 1, 2])
def test_basis_of_a_shared_input_equals_the_definition(form: str, weight: bool, bias: int) -> None:
    op = "conv2d_delta" if form == "dense" else "conv2d"
    case = conv_case(4, 2, 6, 10, 2, 2, shared=True, weight=weight, bias=bias, form=form)
    case["x"] = case["x"].to(memory_format=torch.channels_last)
    assert_equals_definition(op, case, torch.float64, "basis", "native", shared=True, padding=1)
    assert_equals_definition(op, case, torch.bfloat16, "basis", "native", shared=True, padding=1)


@pytest.mark.parametrize("algorithm", ["direct", "basis"])
@pytest.mark.parametrize("bias", [0, 1, 2])
@pytest.mark.parametrize("scale", [1.0, 0.25])
@pytest.mark.parametrize("lam_needs_gradient", [True, False])
def test_coefficients_with_one_sum_fold_the_common_part(
    algorithm: str, bias: int, scale: float, lam_needs_gradient: bool
) -> None:
    """Preferences add up to one, so that T products serve where T+1 would; results and gradients stay the same."""
    case = conv_case(5, 2, 2, 7, 3, 2, shared=True, bias=bias, form="dense")
    case["x"] = case["x"].to(memory_format=torch.channels_last)
    case["lam"] = scale * torch.softmax(case["lam"].double(), dim=1)
    case = convert(case, torch.float64)
    case["x"] = case["x"].detach()
    case["lam"] = case["lam"].detach().requires_grad_(lam_needs_gradient)
    leaves = [v for v in case.values() if v is not None and v.requires_grad]
    want = pk.conv2d_delta(**case, shared=True, backend="reference")
    with pk.force_plan(conv2d_delta=algorithm):
        found = pk.conv2d_delta(**case, shared=True, backend="native")
    torch.testing.assert_close(found, want)
    grad = torch.randn_like(want)
    for got, expected in zip(
        torch.autograd.grad(found, leaves, grad), torch.autograd.grad(want, leaves, grad), strict=True
    ):
        torch.testing.assert_close(got, expected)
