"""Calls without inputs, outputs, tasks, columns or rows: every plan answers as the definition does, with zeros where
nothing is summed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from kernel_cases import assert_equals_definition, conv_case, linear_case, linear_delta_case
from triton_cases import assert_triton_equals_definition

import palora_kernels as pk
from palora_kernels.backends import backends

pytest.importorskip("triton")

from palora_kernels.triton.launching import availability

if availability.status() != "available":  # a GPU that Triton does not support
    pytest.skip(availability.status(), allow_module_level=True)


@pytest.mark.parametrize("empty", ["n", "K", "O", "T", "r"])
@pytest.mark.parametrize("algorithm", ["factored", "split", "splitk", "library", "persistent", "merged"])
@pytest.mark.parametrize("shared", [False, True])
def test_linear(shared: bool, algorithm: str, empty: str, device: str) -> None:
    sizes = {"M": 3, "n": 2, "K": 8, "O": 16, "T": 2, "r": 2, empty: 0}
    for bias in (0, 2):
        case = linear_case(*sizes.values(), shared=shared, bias=bias)
        assert_triton_equals_definition(
            "linear", case, torch.bfloat16, algorithm, device=device, layout="contiguous", shared=shared
        )


@pytest.mark.parametrize("empty", ["n", "K", "O", "T"])
@pytest.mark.parametrize("algorithm", ["basis", "merged"])
@pytest.mark.parametrize("shared", [False, True])
def test_linear_delta(shared: bool, algorithm: str, empty: str, device: str) -> None:
    sizes = {"M": 3, "n": 2, "K": 5, "O": 4, "T": 2, empty: 0}
    case = linear_delta_case(*sizes.values(), shared=shared, bias=2)
    assert_triton_equals_definition("linear_delta", case, torch.float32, algorithm, device=device, shared=shared)


@pytest.mark.parametrize("empty", ["n", "T", "r"])
@pytest.mark.parametrize("algorithm", ["merged", "library", "factored", "basis"])
def test_conv(algorithm: str, empty: str, device: str) -> None:
    sizes = {"M": 3, "n": 2, "C": 3, "O": 4, "T": 2, "r": 2, empty: 0}
    for op, form in (("conv2d", "matricised"), ("conv2d_delta", "dense")):
        if form == "matricised" or algorithm != "factored":
            case = conv_case(*sizes.values(), size=(4, 3), bias=2, form=form)
            assert_triton_equals_definition(op, case, torch.float32, algorithm, device=device)


@pytest.mark.parametrize("empty", ["K", "O", "T", "r"])
@pytest.mark.parametrize("algorithm", ["factored", "merged", "basis"])
@pytest.mark.parametrize("backend", ["eager", "native"])
def test_other_backends(backend: str, algorithm: str, empty: str) -> None:
    if backends()[backend] != "available":
        pytest.skip(backends()[backend])
    sizes = {"M": 3, "n": 2, "K": 5, "O": 4, "T": 2, "r": 2, empty: 0}
    options: dict[str, Any] = {"dtype": torch.float64, "algorithm": algorithm, "tested": backend}
    for shared in (False, True):
        if algorithm == "basis":
            made = linear_delta_case(*list(sizes.values())[:-1], shared=shared, bias=2)
        else:
            made = linear_case(*sizes.values(), shared=shared, bias=2)
        assert_equals_definition("linear_delta" if algorithm == "basis" else "linear", made, shared=shared, **options)
    if empty in ("T", "r"):
        assert_equals_definition("conv2d", conv_case(*sizes.values(), size=(4, 3)), **options)


@pytest.mark.parametrize("C, O", [(0, 4), (3, 0)])
def test_a_convolution_without_channels_is_refused(C: int, O: int) -> None:
    """As torch.nn.Conv2d is, whatever the backend and the plan."""
    with pytest.raises(ValueError, match="at least one output channel, one input channel"):
        pk.conv2d(**conv_case(2, 1, C, O, 2, 1, size=(4, 3)))
