"""Every model that exists: stacked rays equal the loop over rays, and a merged model equals the adapted one."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from layer_cases import assert_merged_equals_adapted, assert_stacked_equals_loop, randomise_adapters
from torch import nn

import palora

MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], int]] = {
    "LeNet": (lambda: palora.models.LeNet(), (3, 1, 28, 28), 2),
    "LeNet-3": (lambda: palora.models.LeNet(tasks=3), (2, 1, 28, 28), 3),
    "MLP": (lambda: palora.models.MLP(21, (32, 32), (1,) * 7), (5, 21), 7),
    "ResNet18": (lambda: palora.models.ResNet18((1, 2, 5)), (2, 3, 64, 64), 3),
    "SegNet": (lambda: palora.models.SegNet((7, 1)), (2, 3, 32, 64), 2),
}
LARGE = ("ResNet18", "SegNet")


def _adapted(name: str, form: str) -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    make, shape, tasks = MODELS[name]
    model = palora.adapt(make().double(), tasks, rank=2, alpha=1.5, form=form)
    std = 0.02 if name in LARGE else 0.2
    randomise_adapters(model, std)
    rays = torch.distributions.Dirichlet(torch.ones(tasks)).sample((3,)).double()
    return model, torch.randn(shape, dtype=torch.float64), rays


@pytest.mark.parametrize("form", ["matricised", "loralib"])
@pytest.mark.parametrize("name", list(MODELS))
def test_stacked_equals_looped(name: str, form: str) -> None:
    rays = 2 if name in LARGE else 3  # the large ones take seconds a pass in float64
    model, x, all_rays = _adapted(name, form)
    # Deep networks with batch statistics of two samples amplify rounding: 1e-16 grows to 1e-9 and beyond.
    assert_stacked_equals_loop(model, x, all_rays[:rays], tolerance=1e-6 if name in LARGE else 1e-10)


@pytest.mark.parametrize("name", list(MODELS))
def test_merged_equals_adapted(name: str) -> None:
    model, x, rays = _adapted(name, "matricised")
    assert_merged_equals_adapted(model, x, rays[:1], tolerance=1e-8)


@pytest.mark.parametrize("name", list(MODELS))
def test_fresh_adapters_leave_the_model_unchanged(name: str) -> None:
    make, shape, tasks = MODELS[name]
    model = make().eval()
    x = torch.randn(shape)
    keys, weights = list(model.state_dict()), [p.detach().clone() for p in model.parameters()]
    with torch.no_grad():
        before = model(x)
        palora.adapt(model, tasks, rank=3)
        with palora.at(model, torch.full((tasks,), 1 / tasks)):
            after = model(x)
        plain = palora.merge(model, torch.eye(tasks)[0])
    for got, want in zip(after, before, strict=True):
        torch.testing.assert_close(got, want, atol=1e-4, rtol=1e-4)
    assert list(plain.state_dict()) == keys
    for got, want in zip(plain.parameters(), weights, strict=True):
        torch.testing.assert_close(got, want)
