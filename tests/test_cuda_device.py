"""The CUDA plans on CPU tensors: their operators run the device sources compiled for the host (see `cuda_host`)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from cuda_host import library, needs_compiler
from kernel_cases import assert_equals_definition, conv_case, linear_case, linear_delta_case
from torch import Tensor

from palora_kernels import implementations

pytestmark = needs_compiler


@pytest.fixture(scope="module")
def host_operators(pytestconfig: pytest.Config) -> None:
    assert pytestconfig.cache is not None
    torch.ops.load_library(str(library(Path(pytestconfig.cache.mkdir("cuda_host")))))


@pytest.fixture(autouse=True)
def cuda_plans(host_operators: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The backend "eager" uses the CUDA plans; memory that is never written is NaN."""
    monkeypatch.setitem(implementations.MODULES, "eager", "palora_kernels.native.cuda.{}")
    torch.use_deterministic_algorithms(True, warn_only=True)
    yield
    torch.use_deterministic_algorithms(False)


SHAPES = [  # M, n, K, O, T, r
    (5, 4, 7, 6, 2, 1),
    (3, 1, 8, 9, 7, 3),  # a preference per row
    (4, 0, 6, 3, 2, 2),
    (2, 3, 32, 16, 1, 3),  # whole packs in every dtype
    (2, 5, 11, 17, 4, 20),  # above the fused rank
    (1, 70, 64, 65, 3, 6),  # several tiles
]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("algorithm", ["factored", "merged"])
def test_linear_equals_the_definition(shape: tuple[int, ...], shared: bool, algorithm: str) -> None:
    for bias, dtype in ((0, torch.float32), (1, torch.bfloat16), (2, torch.float64), (1, torch.float16)):
        case = linear_case(*shape, shared=shared, bias=bias, weight=dtype != torch.float64)
        assert_equals_definition("linear", case, dtype, algorithm, shared=shared)


@pytest.mark.parametrize("shape", SHAPES[:4])
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("algorithm", ["merged", "basis"])
def test_linear_delta_equals_the_definition(shape: tuple[int, ...], shared: bool, algorithm: str) -> None:
    for bias, dtype in ((0, torch.float32), (1, torch.bfloat16), (2, torch.float64)):
        case = linear_delta_case(*shape[:5], shared=shared, bias=bias, weight=dtype != torch.float64)
        assert_equals_definition("linear_delta", case, dtype, algorithm, shared=shared)


def _channels_last(case: dict[str, Tensor | None]) -> dict[str, Tensor | None]:
    form = {"memory_format": torch.channels_last}
    return {k: v.contiguous(**form) if v is not None and k in ("x", "weight") else v for k, v in case.items()}


CONVS = [  # M, n, C, O, T, r
    (3, 2, 2, 6, 2, 2),
    (2, 1, 4, 8, 3, 1),  # whole packs
    (2, 0, 2, 4, 2, 1),
]


@pytest.mark.parametrize("shape", CONVS)
@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("algorithm", ["merged", "basis", "factored"])
def test_conv2d_equals_the_definition(shape: tuple[int, ...], shared: bool, last: bool, algorithm: str) -> None:
    forms = ("matricised",) if algorithm == "factored" else ("matricised", "loralib", "dense")
    dtypes = (torch.float32, torch.bfloat16, torch.float64) if len(forms) > 1 else (torch.bfloat16,)
    for form, bias, dtype in zip(forms, (1, 2, 1), dtypes, strict=False):
        weight = form == "loralib" or dtype != torch.float64
        case = conv_case(*shape, size=(4, 4), shared=shared, bias=bias, weight=weight, form=form)
        case = _channels_last(case) if last else case
        op = "conv2d_delta" if form == "dense" else "conv2d"
        assert_equals_definition(op, case, dtype, algorithm, shared=shared, padding=1)


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("algorithm", ["merged", "basis"])
def test_grouped_strided_convolutions(last: bool, algorithm: str) -> None:
    for shared, form in ((False, "matricised"), (True, "loralib"), (True, "dense"), (False, "dense")):
        case = conv_case(3, 1, 4, 6, 2, 1, size=(7, 5), groups=2, shared=shared, bias=2, form=form)
        case = _channels_last(case) if last else case
        op = "conv2d_delta" if form == "dense" else "conv2d"
        options = {"stride": 2, "dilation": 1, "padding": 1, "groups": 2}
        assert_equals_definition(op, case, torch.float64, algorithm, shared=shared, **options)


def test_long_sums_use_several_parts() -> None:
    from palora_kernels.native.cuda import ops

    x, y = torch.randn(2, 700, 8), torch.randn(1, 3, 700, 8)
    torch.testing.assert_close(ops.column_sums(x), x.sum(1), atol=1e-4, rtol=1e-5)
    x = torch.randn(2, 3000, 8)
    y = torch.randn(1, 3, 3000, 8)
    torch.testing.assert_close(ops.dots(x, y), torch.einsum("gnk,tnk->gt", x, y[0]), atol=1e-3, rtol=1e-4)
    assert torch.equal(ops.dots(x, y), ops.dots(x, y))


def test_views_that_are_not_aligned_or_not_dense() -> None:
    """Offsets of one element, odd row strides, broadcast rows: the narrow paths, and no access outside."""
    from palora_kernels.native.cuda import ops

    lam, A, S = torch.rand(3, 2), torch.randn(2, 8, 2), torch.randn(6, 4)
    want = torch.randn(6, 8)
    for base in (want, torch.empty(6, 9)[:, 1:].copy_(want), torch.empty(49)[1:].view(6, 8).copy_(want)):
        y = torch.full((6, 8), float("nan"))
        left = S.unflatten(1, (2, 2)).transpose(0, 1)[None]
        ops.update(y[None], left, A[None], lam, base=base[None], rows_per_ray=2)
        scaled = S.view(3, 2, 2, 2) * lam[:, None, :, None]
        expected = want + scaled.view(6, 4) @ A.transpose(1, 2).reshape(4, 8)
        torch.testing.assert_close(y, expected, atol=1e-5, rtol=1e-5)


def test_operators_name_what_does_not_fit() -> None:
    from palora_kernels.native.cuda import ops

    y, left, right = torch.zeros(1, 4, 3), torch.zeros(1, 2, 4, 1), torch.zeros(1, 2, 3, 1)
    with pytest.raises(RuntimeError, match=r"`lam` should be contiguous"):
        ops.update(y, left, right, torch.ones(2, 2), rows_per_ray=1)
    with pytest.raises(RuntimeError, match=r"`base` has another dtype"):
        ops.update(y, left, right, torch.ones(1, 2), base=y.double())
    with pytest.raises(RuntimeError, match=r"adjacent elements"):
        ops.update(torch.zeros(1, 3, 4).mT, left, right, torch.ones(1, 2))
    with pytest.raises(RuntimeError, match=r"float32, float64, bfloat16 and float16"):
        ops.update(y.int(), left, right, None)
