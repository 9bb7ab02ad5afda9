"""Models adapted in part: what has no adapters runs once for all rays, and the values are those of a loop."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

import palora
from palora.layers import adapter_parameters
from palora.models import MLP, LeNet, ResNet18, SegNet

RAYS = 3
HEADS_ONLY = {
    "lenet": (lambda: LeNet(2), (3, 1, 28, 28), 2),
    "mlp": (lambda: MLP(5, (7, 6), (1, 3, 2)), (3, 5), 3),
    "resnet18": (lambda: ResNet18((1, 2, 5), image_size=32), (2, 3, 32, 32), 3),
}


def adapted(model: nn.Module, tasks: int, **options) -> tuple[nn.Module, Tensor]:
    """`model` in float64 with adapters that are not zero, and rays on the simplex."""
    palora.adapt(model.double(), tasks=tasks, rank=2, alpha=3.0, **options)
    for p in adapter_parameters(model):
        nn.init.normal_(p, std=0.05)
    rays = torch.rand(RAYS, tasks, dtype=torch.float64)
    return model, rays / rays.sum(1, keepdim=True)


def segnet_from_decoder() -> tuple[nn.Module, Tensor, Tensor]:
    """An encoder without adapters; the decoder repeats features and pooling indices for every ray."""
    points = ["trunk.decoder", "heads.0", "heads.1"]
    model, rays = adapted(SegNet((4, 3)), 2, include=["trunk.decoder*", "heads*"], expand_at=points)
    return model, torch.randn(2, 3, 40, 64, dtype=torch.float64), rays


def assert_same(actual: Tensor, expected: Tensor, what: str) -> None:
    """Equal to rounding, relative to the largest entry: small ones are what cancellation leaves."""
    scale = max(1.0, expected.abs().max().item())
    assert (actual - expected).abs().max().item() <= 1e-9 * scale, what


def total(outputs: Sequence[Tensor]) -> Tensor:
    return sum(y.square().sum() for y in outputs)


@pytest.mark.parametrize("name", HEADS_ONLY)
def test_with_adapted_heads_the_trunk_runs_once(name: str) -> None:
    make, shape, tasks = HEADS_ONLY[name]
    heads = [f"heads.{t}" for t in range(tasks)]
    model, rays = adapted(make(), tasks, include=["heads*"], expand_at=heads)
    model.eval()
    x = torch.randn(*shape, dtype=torch.float64)
    rows = []
    handle = model.trunk.register_forward_hook(lambda _module, _args, features: rows.append(len(features)))
    with palora.at(model, rays):
        stacked = palora.split(model(x), RAYS)
    handle.remove()
    assert rows == [len(x)]
    for m, ray in enumerate(rays):
        with palora.at(model, ray):
            for t, expected in enumerate(model(x)):
                assert_same(stacked[t][m], expected, f"ray {m}, task {t}")


def test_segnet_expands_at_its_decoder_with_the_pooling_indices() -> None:
    model, x, rays = segnet_from_decoder()
    model.eval()
    rows = []
    handle = model.trunk.encoder.register_forward_hook(lambda _module, _args, out: rows.append(len(out[0])))
    with palora.at(model, rays):
        stacked = palora.split(model(x), RAYS)
    handle.remove()
    assert rows == [len(x)]
    for m, ray in enumerate(rays):
        with palora.at(model, ray):
            for t, expected in enumerate(model(x)):
                assert_same(stacked[t][m], expected, f"ray {m}, task {t}")


def test_segnet_trains_with_an_encoder_that_runs_once_for_all_rays() -> None:
    model, x, rays = segnet_from_decoder()
    loop = copy.deepcopy(model)
    with palora.at(model, rays):
        total(palora.split(model(x), RAYS)).backward()
    for ray in rays:
        with palora.at(loop, ray):
            total(loop(x)).backward()
    for (name, p), q in zip(model.named_parameters(), loop.parameters(), strict=True):
        assert_same(p.grad, q.grad, f"gradient of {name}")
    for (name, b), c in zip(model.named_buffers(), loop.buffers(), strict=True):
        assert_same(b.double(), c.double(), name)
