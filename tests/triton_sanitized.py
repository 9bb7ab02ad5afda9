"""Every plan under ttsem, which executes the compiler's intermediate code on the CPU. test_triton_races.py runs this
file by `python -m ttsem.sanitize pytest`; on its own it would need a GPU."""

from __future__ import annotations

import pytest
import torch
import triton_plans
import triton_toys


@pytest.mark.parametrize("name", triton_plans.CASES)
def test_plan(name: str) -> None:
    # The merged plan leaves a product of bfloat16 with a float32 result to cuBLAS, which only a GPU has.
    dtype = torch.float32 if name.startswith("linear merged") else torch.bfloat16
    for result in triton_plans.run(name, dtype, "cuda"):
        assert bool(torch.isfinite(result.float()).all())


def test_planted_read_out_of_bounds() -> None:
    triton_toys.copy[(4,)](torch.randn(100, device="cuda"), torch.empty(128, device="cuda"), 128, block=32)


def test_planted_race() -> None:
    triton_toys.same_place[(2,)](torch.empty(32, device="cuda"), block=32)
