"""COSMOS: counts, conditioning and penalty, each written a second time."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from palora import methods, models
from palora.methods.cosmos import Conditioned
from palora.models import MLP, LeNet

RAYS = torch.tensor([[0.2, 0.8], [0.7, 0.3], [0.5, 0.5]])


@pytest.mark.parametrize(
    ("model", "tasks", "expected"),
    [
        # Two more channels for ten 5 × 5 filters, and two bias-free transposed convolutions of 2 × 2 channels.
        (LeNet(), 2, 27_450 + 2 * 10 * 25 + 2 * 2 * (16 + 36)),
        (LeNet(tasks=3), 3, 30_510 + 3 * 10 * 25 + 3 * 3 * (16 + 36)),
        (MLP(468, (256,), (2, 2)), 2, 121_092 + 2 * 256),
    ],
)
def test_parameter_counts(model: nn.Module, tasks: int, expected: int) -> None:
    adapted = methods.build("cosmos", tasks).adapt(model)
    assert sum(p.numel() for p in adapted.parameters()) == expected


def test_images_get_the_preference_as_channels() -> None:
    method = methods.build("cosmos", 2)
    model = method.adapt(LeNet())
    x = torch.randn(4, 1, 28, 28)
    outputs = method.forward(model, x, RAYS)
    first, _, second, _ = model.maps
    for m, ray in enumerate(RAYS):
        seed = torch.relu(torch.einsum("c,cokl->okl", ray, first.weight))  # (2, 4, 4)
        big = torch.relu(nn.functional.conv_transpose2d(seed[None], second.weight, stride=2, padding=1))
        assert big.shape == (1, 2, 10, 10)
        nearest = torch.arange(28) * 10 // 28
        channels = big[:, :, nearest][:, :, :, nearest].expand(4, -1, -1, -1)
        expected = model.model(torch.cat([x, channels], 1))
        for y, z in zip(outputs, expected, strict=True):
            torch.testing.assert_close(y[m], z, rtol=1e-4, atol=1e-6)


def test_tables_get_the_preference_as_features() -> None:
    method = methods.build("cosmos", 2)
    model = method.adapt(MLP(5, (6,), (3, 2)))
    x = torch.randn(4, 5)
    outputs = method.forward(model, x, RAYS)
    for m, ray in enumerate(RAYS):
        expected = model.model(torch.cat([x, ray.expand(4, 2)], 1))
        torch.testing.assert_close(outputs[1][m], expected[1])


def test_penalty_is_the_cosine_of_losses_and_preference() -> None:
    losses, rays = torch.tensor([[3.0, 4.0]], requires_grad=True), torch.tensor([[0.6, 0.4]])
    method = methods.build("cosmos", 2, {"cosine": 2.0})
    cosine = (3 * 0.6 + 4 * 0.4) / (5 * (0.36 + 0.16) ** 0.5)
    assert method.objective(losses, rays).item() == pytest.approx(3.4 - 2 * cosine, rel=1e-6)
    aligned = methods.build("cosmos", 2)  # λ = 8, the baselines' setting
    assert aligned.objective(2 * rays, rays).item() == pytest.approx(1.04 - 8, rel=1e-6)


def test_batch_statistics_are_a_rays_own() -> None:
    torch.manual_seed(0)
    model = Conditioned(models.ResNet18((1, 2), image_size=32), 2).train()
    single = copy.deepcopy(model)
    x = torch.randn(3, 3, 32, 32)
    together = model(x, RAYS[:2])
    for m in range(2):
        for y, z in zip(together, single(x, RAYS[m : m + 1]), strict=True):
            torch.testing.assert_close(y[3 * m : 3 * m + 3], z, rtol=1e-4, atol=1e-5)
    statistics: list[tuple[Tensor, Tensor]] = list(zip(model.buffers(), single.buffers(), strict=True))
    for one, other in statistics:
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
