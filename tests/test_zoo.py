"""Public architectures at many rays: exact, or refused in one sentence."""

from __future__ import annotations

import re

import pytest
import torch
from zoo import EXHIBITS, Exhibit, tried

import palora


@pytest.mark.parametrize("n", [2, 5])
@pytest.mark.parametrize("name", list(EXHIBITS))
def test_exact_or_refused(name: str, n: int) -> None:
    result = tried(name, n)
    refusal = EXHIBITS[name].refusal
    if refusal is not None:
        assert re.search(refusal, result.refusal), result
        assert "\n" not in result.refusal
    else:
        assert not result.refusal
        assert result.difference < 1e-6, result


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name, one in EXHIBITS.items() if "adapted" not in name])
def test_check_says_the_same(name: str) -> None:
    exhibit: Exhibit = EXHIBITS[name]
    torch.manual_seed(0)
    model = exhibit.make()
    try:
        palora.adapt(model, 2, 2, **(exhibit.options or {}))
    except palora.UnsupportedModuleError:
        assert exhibit.refusal
        return
    report = palora.check(model, exhibit.args(3))
    assert bool(report) == (exhibit.refusal is None), str(report)
