"""Batches without rows, in every mode: outputs without rows, and gradients that are zero."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import palora
from palora.layers import ensemble

CASES: dict[str, tuple[Any, Any]] = {
    "linear": (lambda: nn.Sequential(nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, 3)), lambda: torch.randn(0, 5)),
    "tokens": (lambda: nn.Sequential(nn.Linear(5, 6), nn.LayerNorm(6), nn.Linear(6, 3)), lambda: torch.randn(0, 7, 5)),
    "conv": (
        lambda: nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Conv2d(4, 3, 3, groups=1), nn.Flatten()),
        lambda: torch.randn(0, 2, 6, 6),
    ),
    "norm": (
        lambda: nn.Sequential(nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(64, 3)),
        lambda: torch.randn(0, 2, 6, 6),
    ),
}
KINDS = ["lora", "dora", "ensemble"]
MODES: dict[str, tuple[Any, bool]] = {
    "one": ((0.3, 0.7), False),
    "one of many": ([(0.3, 0.7)], False),
    "many": ([(0.3, 0.7), (1.0, 0.0), (0.5, 0.5)], False),
    "per sample": (torch.empty(0, 2), True),
}


def _adapted(case: str, kind: str) -> tuple[nn.Module, Tensor]:
    build, batch = CASES[case]
    model = ensemble(build(), 2) if kind == "ensemble" else palora.adapt(build(), 2, 2, family=kind)
    return model.double().eval(), batch().double()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("case", CASES)
def test_no_rows_in_no_rows_out(case: str, kind: str, mode: str) -> None:
    model, x = _adapted(case, kind)
    rays, per_sample = MODES[mode]
    expected = palora.merge(model, (0.3, 0.7))(x)
    x.requires_grad_()
    with palora.at(model, rays, per_sample=per_sample):
        y = model(x)
    assert y.shape == expected.shape
    y.sum().backward()
    assert x.grad is not None
    for parameter in model.parameters():
        assert parameter.grad is None or not parameter.grad.any()
    if mode == "many":
        assert palora.split(y, 3).shape == (3, *expected.shape)


@pytest.mark.parametrize("case", CASES)
def test_rows_without_a_ray_of_theirs_are_refused(case: str) -> None:
    model, x = _adapted(case, "lora")
    rows = torch.zeros(3, *x.shape[1:], dtype=x.dtype)
    with palora.at(model, torch.empty(0, 2), per_sample=True), pytest.raises(ValueError, match="per_sample=True"):
        model(rows)


def test_a_sweep_over_empty_batches_counts_the_others() -> None:
    model = palora.adapt(nn.Linear(5, 2), 2, 2).double()
    x, y = torch.randn(4, 5).double(), torch.randn(4, 2).double()

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs - targets).square()

    rays = palora.simplex_grid(2, 2)
    expected = palora.sweep(model, [(x, y)], loss, rays)
    found = palora.sweep(model, [(x[:0], y[:0]), (x, y), (x[:0], y[:0])], loss, rays)
    torch.testing.assert_close(found.losses, expected.losses)
    with pytest.raises(ValueError, match="at least one sample"):
        palora.sweep(model, [(x[:0], y[:0])], loss, rays)
