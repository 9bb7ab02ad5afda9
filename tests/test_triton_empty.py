"""Calls without inputs, outputs, tasks, columns or rows: every plan answers as the definition does, with zeros where
nothing is summed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from kernel_cases import conv_case, linear_case, linear_delta_case
from triton_cases import assert_triton_equals_definition

pytest.importorskip("triton")

from palora_kernels.triton import availability

if availability.status() != "available":  # a GPU that Triton does not support
    pytest.skip(availability.status(), allow_module_level=True)

SIZES: dict[str, dict[str, int]] = {name: {name: 0} for name in ("n", "K", "O", "T", "r")}


@pytest.mark.parametrize("empty", SIZES)
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


@pytest.mark.parametrize("empty", ["n", "C", "O", "T", "r"])
@pytest.mark.parametrize("algorithm", ["merged", "library", "factored", "basis"])
def test_conv(algorithm: str, empty: str, device: str) -> None:
    sizes: dict[str, Any] = {"M": 3, "n": 2, "C": 3, "O": 4, "T": 2, "r": 2, empty: 0}
    case = conv_case(*sizes.values(), size=(4, 3), bias=2)
    assert_triton_equals_definition("conv2d", case, torch.float32, algorithm, device=device)
