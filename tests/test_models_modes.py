"""Adapted networks with all rays stacked: channels_last, bf16 autocast and torch.compile give what the loop gives."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from layer_cases import randomise_adapters
from torch import Tensor, nn

import palora
from palora.models import MLP, LeNet, ResNet18, SegNet

NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], int]] = {
    "MultiMNIST": (lambda: LeNet(2), (1, 28, 28), 2),
    "MultiMNIST-3": (lambda: LeNet(3), (1, 28, 28), 3),
    "Census": (lambda: MLP(468, (256,), (2, 2)), (468,), 2),
    "SARCOS": (lambda: MLP(21, (256, 256, 256), (1,) * 7), (21,), 7),
    "UTKFace": (lambda: ResNet18((1, 2, 5), image_size=32), (3, 32, 32), 3),
    "CityScapes": (lambda: SegNet((7, 1)), (3, 32, 32), 2),
    "NYUv2": (lambda: SegNet((13, 1, 3), unit_length=(2,)), (3, 32, 32), 3),
}
DEEP = ("UTKFace", "CityScapes", "NYUv2")
IMAGES = [name for name, (_, shape, _) in NETWORKS.items() if len(shape) == 3]


def adapted(name: str, form: str = "loralib") -> tuple[nn.Module, Tensor, Tensor]:
    """The network with adapters that are not zero, two samples, and two rays."""
    make, shape, tasks = NETWORKS[name]
    model = palora.adapt(make(), tasks, rank=2, form=form)
    randomise_adapters(model, 0.02 if name in DEEP else 0.1)
    rays = torch.tensor([[0.7] + [0.3 / (tasks - 1)] * (tasks - 1), [1 / tasks] * tasks])
    return model, torch.randn(2, *shape), rays


def stacked(model: nn.Module, x: Tensor, rays: Tensor) -> list[Tensor]:
    with torch.no_grad(), palora.at(model, rays):
        return list(palora.split(model(x), len(rays)))


def looped(model: nn.Module, x: Tensor, rays: Tensor) -> list[Tensor]:
    each = []
    for ray in rays:
        with torch.no_grad(), palora.at(model, ray):
            each.append(model(x))
    return [torch.stack(column) for column in zip(*each, strict=True)]


def close(found: list[Tensor], expected: list[Tensor], tolerance: float) -> None:
    """To `tolerance` of the largest value: small ones are what cancellation leaves."""
    for a, b in zip(found, expected, strict=True):
        assert a.shape == b.shape
        scale = max(1.0, b.float().abs().max().item())
        assert (a.float() - b.float()).abs().max().item() <= tolerance * scale


@pytest.mark.parametrize("name", IMAGES)
def test_channels_last(name: str) -> None:
    model, x, rays = adapted(name)
    model.eval()
    expected = looped(model, x, rays)
    model = model.to(memory_format=torch.channels_last)
    close(stacked(model, x.contiguous(memory_format=torch.channels_last), rays), expected, 1e-4)


@pytest.mark.parametrize("name", NETWORKS)
def test_bf16_autocast(name: str) -> None:
    """Each ray stays the function that float32 computes, by the root mean square over its outputs."""
    model, x, rays = adapted(name, "matricised")
    model.eval()
    exact = looped(model, x, rays)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found, single = stacked(model, x, rays), looped(model, x, rays)
    assert found[0].dtype == torch.bfloat16
    # Unpooling puts a value elsewhere where two maxima are alike in eight bits: SegNet differs in single pixels.
    limit = 0.35 if name in ("CityScapes", "NYUv2") else 0.05
    for a, b, c in zip(found, single, exact, strict=True):
        size = c.square().mean().sqrt().clamp(min=0.01)
        assert (a.float() - c).square().mean().sqrt() <= limit * size
        assert (a.float() - b.float()).square().mean().sqrt() <= limit * size


@pytest.mark.parametrize("name", [pytest.param(n, marks=[pytest.mark.slow] if n in DEEP else []) for n in NETWORKS])
@pytest.mark.parametrize("training", [False, True])
def test_one_graph_of_all_rays(name: str, training: bool) -> None:
    """torch.compile(fullgraph=True) of forward and backward, with the values and statistics of eager mode."""
    model, x, rays = adapted(name)
    model, x = model.double().train(training), x.double()
    twin = copy.deepcopy(model)

    def total(model: nn.Module, rows: Tensor) -> Tensor:
        with palora.at(model, rays):
            return sum((y**2).mean() for y in model(rows))  # type: ignore[return-value]

    def results(model: nn.Module, function: Callable[[nn.Module, Tensor], Tensor]) -> list[Tensor]:
        value = function(model, x)
        value.backward()
        return [value.detach(), *(p.grad for p in model.parameters() if p.grad is not None), *model.buffers()]

    compiled = results(model, torch.compile(total, fullgraph=True, backend="aot_eager"))
    eager = results(twin, total)
    assert len(eager) == len(compiled)
    for a, b in zip(compiled, eager, strict=True):
        close([a], [b], 1e-6)


@pytest.mark.parametrize("name", DEEP)
def test_statistics_of_every_ray_in_channels_last(name: str) -> None:
    """Training: each ray is normalised by its own statistics, and the running ones see all rays in turn."""
    model, x, rays = adapted(name)
    model, x = model.double(), x.double()
    twin = copy.deepcopy(model)
    expected = looped(twin, x, rays)
    model = model.to(memory_format=torch.channels_last)
    # Batch statistics of two samples amplify rounding: 1e-16 grows to 1e-9 and beyond.
    close(stacked(model, x.contiguous(memory_format=torch.channels_last), rays), expected, 1e-6)
    buffers, own = dict(twin.named_buffers()), dict(model.named_buffers())
    assert any("running_var" in key for key in buffers)
    close(list(own.values()), list(buffers.values()), 1e-6)
    assert all(int(own[key]) == len(rays) for key in own if key.endswith("num_batches_tracked"))


@pytest.mark.parametrize("name", DEEP)
def test_statistics_of_every_ray_under_bf16_autocast(name: str) -> None:
    """The running statistics are those of a loop in float32 but for the rounding of the activations."""
    model, _, rays = adapted(name)
    x = torch.randn(4, 3, 64, 64)[:, :, : 32 if name == "UTKFace" else 64, : 32 if name == "UTKFace" else 64]
    twin = copy.deepcopy(model)
    before = {key: value.clone() for key, value in twin.named_buffers()}
    looped(twin, x, rays)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = stacked(model, x, rays)
    assert all(y.isfinite().all() for y in found)
    expected, own = dict(twin.named_buffers()), dict(model.named_buffers())
    for kind in ("running_mean", "running_var"):
        keys = [key for key in own if key.endswith(kind)]
        error = torch.cat([own[key] - expected[key] for key in keys]).norm()
        change = torch.cat([expected[key] - before[key] for key in keys]).norm()
        assert error <= 0.1 * change, kind
