"""Ray-wise batch normalisation: as a loop over rays would normalise, and as it would update the running statistics."""

from __future__ import annotations

import copy

import pytest
import torch
from layer_cases import assert_stacked_equals_loop, randomise_adapters
from torch import nn

import palora

NORMS = {
    1: (nn.BatchNorm1d, nn.Linear, (6, 5)),
    2: (nn.BatchNorm2d, lambda i, o: nn.Conv2d(i, o, 3, padding=1), (6, 5, 4, 4)),
}


def _net(dims: int, **options: object) -> nn.Module:
    norm, layer, _ = NORMS[dims]
    return nn.Sequential(layer(5, 7), norm(7, **options), nn.ReLU(), layer(7, 5), norm(5, **options)).double()


@pytest.mark.parametrize("dims", [1, 2])
@pytest.mark.parametrize(
    "options",
    [{}, {"momentum": None}, {"momentum": 0.0}, {"affine": False}, {"track_running_stats": False}],
)
def test_training_equals_the_loop(dims: int, options: dict[str, object]) -> None:
    model = randomise_adapters(palora.adapt(_net(dims, **options), 3, 2))
    rays = torch.rand(4, 3, dtype=torch.float64)
    assert_stacked_equals_loop(model, torch.randn(NORMS[dims][2], dtype=torch.float64), rays)


def test_the_gradients_of_the_rays_are_joined_once() -> None:
    """Sliced ray by ray, each of M gradients would be as large as the whole batch's."""
    norm = nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(7))
    model = palora.adapt(norm, 2, 1)
    with palora.at(model, torch.rand(4, 2)):
        y = model(torch.randn(6, 5))
    seen, reached = {y.grad_fn}, [y.grad_fn]
    while reached:
        for function, _ in reached.pop().next_functions:  # type: ignore[union-attr]
            if function is not None and function not in seen:
                seen.add(function)
                reached.append(function)
    names = [function.name() for function in seen if function is not None]
    assert sum("NativeBatchNorm" in name for name in names) == 4
    assert sum("Split" in name for name in names) == 1
    assert not any("Slice" in name for name in names)


def test_evaluation_uses_running_statistics() -> None:
    model = randomise_adapters(palora.adapt(_net(2), 2, 1))
    with palora.at(model, torch.rand(3, 2)):
        model(torch.randn(6, 5, 4, 4, dtype=torch.float64))
    rays = torch.rand(3, 2, dtype=torch.float64)
    assert_stacked_equals_loop(model.eval(), torch.randn(6, 5, 4, 4, dtype=torch.float64), rays)


def test_three_dimensions() -> None:
    net = nn.Sequential(nn.BatchNorm3d(3), nn.Flatten(), nn.Linear(3 * 8, 2)).double()
    model = randomise_adapters(palora.adapt(net, 2, 1))
    rays = torch.rand(3, 2, dtype=torch.float64)
    assert_stacked_equals_loop(model, torch.randn(4, 3, 2, 2, 2, dtype=torch.float64), rays)


@pytest.mark.parametrize("momentum", [0.1, None])
def test_before_the_expansion_point_the_loop_would_update_once_per_ray_too(momentum: float | None) -> None:
    net = nn.Sequential()
    net.add_module("trunk", nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6, momentum=momentum), nn.ReLU()))
    net.add_module("head", nn.Linear(6, 2))
    model = palora.adapt(net.double(), 2, 1, include="head", expand_at="head")
    randomise_adapters(model)
    with palora.at(model, torch.rand(2, 2)):
        model(torch.randn(8, 5, dtype=torch.float64))  # running statistics away from their start
    assert_stacked_equals_loop(
        model, torch.randn(8, 5, dtype=torch.float64), torch.rand(4, 2, dtype=torch.float64), tolerance=1e-9
    )


def test_per_sample_uses_the_whole_batch() -> None:
    model = randomise_adapters(palora.adapt(_net(1), 2, 1))
    plain = copy.deepcopy(model)
    x, ray = torch.randn(6, 5, dtype=torch.float64), torch.tensor([0.3, 0.7], dtype=torch.float64)
    with palora.at(model, ray.expand(6, 2), per_sample=True):
        found = model(x)
    with palora.at(plain, ray):
        torch.testing.assert_close(found, plain(x))
    torch.testing.assert_close(model[1].running_mean, plain[1].running_mean)
    assert model[1].num_batches_tracked == 1


def test_frozen_base_keeps_statistics_in_training_mode() -> None:
    model = palora.adapt(_net(1), 2, 1, train_base=False)
    model.train()
    before = model[1].running_mean.clone()
    with palora.at(model, torch.rand(3, 2)):
        model(torch.randn(6, 5, dtype=torch.float64))
    assert torch.equal(model[1].running_mean, before)
    assert not model[1].training
    trainable = {name.split(".")[-1] for name, p in model.named_parameters() if p.requires_grad}
    assert trainable == {"lora_A", "lora_B"}


def test_keys_stay_as_they_were() -> None:
    net = _net(2)
    keys = set(net.state_dict())
    palora.adapt(net, 2, 1)
    assert {k for k in net.state_dict() if "lora" not in k} == keys
