"""`conv2d` and `conv2d_delta`: every plan against the loop over merged kernels in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from kernel_cases import assert_equals_definition, conv_case, convert

import palora_kernels as pk

GEOMETRIES: list[dict[str, Any]] = [
    {},
    {"stride": 2, "padding": 1},
    {"stride": (2, 1), "padding": (0, 2), "dilation": (1, 2)},
    {"padding": "same"},
    {"padding": "valid"},
]


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("algorithm", ["merged", "basis", "factored"])
def test_low_rank_equals_the_definition(geometry: dict[str, Any], shared: bool, algorithm: str) -> None:
    case = conv_case(4, 2, 3, 5, 2, 2, shared=shared)
    assert_equals_definition("conv2d", case, torch.float64, algorithm, shared=shared, **geometry)


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("algorithm", ["merged", "basis"])
@pytest.mark.parametrize("weight", [True, False])
def test_delta_equals_the_definition(geometry: dict[str, Any], shared: bool, algorithm: str, weight: bool) -> None:
    case = conv_case(4, 2, 3, 5, 2, 2, shared=shared, weight=weight, form="dense")
    assert_equals_definition("conv2d_delta", case, torch.float64, algorithm, shared=shared, **geometry)


@pytest.mark.parametrize("algorithm", ["merged", "basis", "factored"])
@pytest.mark.parametrize("bias", [0, 1, 2])
@pytest.mark.parametrize("M, n", [(1, 3), (6, 1), (3, 0), (2, 2)])
@pytest.mark.parametrize("shared", [False, True])
def test_biases_and_batch_sizes(algorithm: str, bias: int, M: int, n: int, shared: bool) -> None:
    case = conv_case(M, n, 2, 3, 3, 1, shared=shared, bias=bias)
    assert_equals_definition("conv2d", case, torch.float64, algorithm, shared=shared)


@pytest.mark.parametrize("algorithm", ["merged", "basis"])
@pytest.mark.parametrize("form", ["matricised", "loralib", "dense"])
@pytest.mark.parametrize("groups", [2, 4])
def test_groups(algorithm: str, form: str, groups: int) -> None:
    op = "conv2d_delta" if form == "dense" else "conv2d"
    case = conv_case(3, 2, 4, 8, 2, 2, groups=groups, form=form)
    assert_equals_definition(op, case, torch.float64, algorithm, groups=groups)


@pytest.mark.parametrize("algorithm", ["merged", "basis"])
def test_loralib_form_views_the_product_as_the_kernel(algorithm: str) -> None:
    case = conv_case(3, 2, 4, 6, 2, 2, form="loralib")
    assert_equals_definition("conv2d", case, torch.float64, algorithm)


@pytest.mark.parametrize("algorithm", ["merged", "basis", "factored"])
@pytest.mark.parametrize("kernel", [(1, 1), (3, 1), (2, 5)])
def test_kernels_that_are_not_square(algorithm: str, kernel: tuple[int, int]) -> None:
    assert_equals_definition("conv2d", conv_case(3, 2, 3, 4, 2, 2, kernel=kernel), torch.float64, algorithm)


def test_without_a_common_part() -> None:
    for algorithm in ("merged", "basis", "factored"):
        case = conv_case(3, 2, 3, 4, 2, 2, weight=False)
        assert_equals_definition("conv2d", case, torch.float64, algorithm)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("algorithm", ["merged", "basis", "factored"])
@pytest.mark.parametrize("shared", [False, True])
def test_lower_precision(dtype: torch.dtype, algorithm: str, shared: bool) -> None:
    case = conv_case(3, 4, 4, 8, 2, 2, shared=shared)
    assert_equals_definition("conv2d", case, dtype, algorithm, shared=shared, padding=1)


@pytest.mark.parametrize("shared", [False, True])
def test_gradcheck(shared: bool) -> None:
    for form, algorithms in (("matricised", ("merged", "basis", "factored")), ("dense", ("merged", "basis"))):
        op = "conv2d_delta" if form == "dense" else "conv2d"
        for algorithm in algorithms:
            made = conv_case(2, 1, 2, 2, 2, 1, size=(3, 4), kernel=(2, 2), shared=shared, bias=2, form=form)
            case = convert(made, torch.float64)
            names = list(case)

            def call(*values: torch.Tensor, op: str = op, names: list[str] = names) -> torch.Tensor:
                arguments = dict(zip(names, values, strict=True))
                return getattr(pk, op)(**arguments, shared=shared, backend="eager")

            with pk.force_plan(**{op: algorithm}):
                assert torch.autograd.gradcheck(call, tuple(case.values()))


@pytest.mark.parametrize("algorithm", ["merged", "basis", "factored"])
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("channels", [1, 3])
def test_channels_last_goes_in_and_comes_out(algorithm: str, shared: bool, channels: int) -> None:
    case = conv_case(3, 2, channels, 4, 2, 2, shared=shared)
    nhwc = {**case, "x": case["x"].to(memory_format=torch.channels_last)}
    with pk.force_plan(conv2d=algorithm):
        y = pk.conv2d(**nhwc, shared=shared)
    assert y.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(y, pk.conv2d(**case, shared=shared, backend="reference"), atol=1e-4, rtol=1e-4)


def test_one_preference_a_row() -> None:
    case = conv_case(7, 1, 2, 3, 2, 1)
    y = pk.conv2d(**case, padding=1)
    for i in range(7):
        delta = sum(case["lam"][i, t] * case["A"][t] @ case["B"][t] for t in range(2))
        kernel = case["weight"] + delta.view_as(case["weight"])
        torch.testing.assert_close(
            y[i : i + 1], F.conv2d(case["x"][i : i + 1], kernel, case["bias"], padding=1), atol=1e-4, rtol=1e-4
        )


def test_gradient_of_stride_zero() -> None:
    case = convert(conv_case(3, 2, 3, 4, 2, 2), torch.float64)
    found = torch.autograd.grad(pk.conv2d(**case).sum(), list(case.values()))
    expected = torch.autograd.grad(pk.conv2d(**case, backend="reference").sum(), list(case.values()))
    for got, want in zip(found, expected, strict=True):
        torch.testing.assert_close(got, want)


@pytest.mark.parametrize(
    "change, options, message",
    [
        ({"x": torch.randn(3, 7, 6)}, {}, r"`x` should have shape \(P, C, H, W\)"),
        ({"x": torch.randn(7, 3, 7, 6)}, {}, r"M\*n rows"),
        ({"x": torch.randn(6, 4, 7, 6)}, {}, r"`x` should have 3 channels"),
        ({"x": torch.randn(6, 3, 2, 6)}, {}, r"at least as large as the kernel"),
        ({"A": torch.randn(2, 4, 2)}, {}, r"as many elements as the kernel"),
        ({}, {"stride": 0}, r"`stride` should be"),
        ({}, {"groups": 2}, r"`groups` should be a divisor"),
        ({}, {"padding": "full"}, r"`padding` should be"),
        ({}, {"padding": "same", "stride": 2}, r"needs stride 1"),
    ],
)
def test_bad_arguments_are_named(change: dict[str, torch.Tensor], options: dict[str, Any], message: str) -> None:
    case = {**conv_case(3, 2, 3, 5, 2, 2), **change}
    with pytest.raises(ValueError, match=message):
        pk.conv2d(**case, **options)
