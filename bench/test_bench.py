"""The rows of `palora bench` under pytest-benchmark: `pytest bench --benchmark-only`.

A row whose check against float64 fails is a failed test and shows no time.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from palora.bench import layers, models, ops
from palora.bench.case import Maker
from palora.engine.setup import pick_device

DEVICE = pick_device("auto")
CASES = [*ops.cases(DEVICE, torch.float32), *layers.cases(DEVICE), *models.cases(DEVICE)]


@pytest.mark.parametrize("column", ["ours", "authors", "floor"])
@pytest.mark.parametrize("group, make", CASES, ids=[f"{group}-{i}" for i, (group, _) in enumerate(CASES)])
def test_row(benchmark: Any, group: str, make: Maker, column: str) -> None:
    case = make()
    error = case.check()
    assert error <= case.tolerance, f"{case.name} is wrong: error {error:.1e} > {case.tolerance:.1e}"
    benchmark.group = f"{group}: {case.name}"
    benchmark.extra_info["column"] = column
    benchmark.pedantic(case.columns()[column], rounds=10, warmup_rounds=2)
