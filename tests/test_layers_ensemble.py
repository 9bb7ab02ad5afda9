"""Ensembles in weight space: stacked rays equal a loop over plain mixtures, in float64."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

import palora
from palora import models
from palora.layers import UnsupportedModuleError, ensemble, ray_layers

RAYS = torch.tensor([[1.0, 0.0], [0.3, 0.7], [0.5, 0.5], [0.0, 1.0]], dtype=torch.float64)


class Mixed(nn.Module):
    """A bit of everything that can be mixed: grouped and padded convolutions, four norms, a residual."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 4, 3, padding="same", padding_mode="reflect")
        self.norm = nn.BatchNorm2d(4)
        self.conv = nn.Conv2d(4, 4, 3, padding=1, groups=2, bias=False)
        self.group = nn.GroupNorm(2, 4)
        self.instance = nn.InstanceNorm2d(4, affine=True)
        self.fc = nn.Linear(4, 5)
        self.layer = nn.LayerNorm(5)
        self.out = nn.Linear(5, 3, bias=False)
        self.plain = nn.BatchNorm1d(3, affine=False)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.norm(self.stem(x)))
        x = x + self.instance(self.group(self.conv(x)))
        return self.plain(self.out(self.layer(self.fc(x.mean((2, 3))))))


def scattered(model: nn.Module) -> nn.Module:
    """Norms start at 1 and 0 in every member: move them, so that mixing them is seen."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


@pytest.mark.parametrize("training", [True, False])
def test_stacked_equals_looped(training: bool) -> None:
    model = scattered(ensemble(Mixed().double(), 2)).train(training)
    x = torch.randn(6, 2, 5, 5, dtype=torch.float64)
    weight = torch.randn(4, 6, 3, dtype=torch.float64)
    looped = copy.deepcopy(model)
    with palora.at(model, RAYS):
        stacked = palora.split(model(x), 4)
    (stacked * weight).sum().backward()
    rows = []
    for ray, w in zip(RAYS, weight, strict=True):
        with palora.at(looped, ray):
            rows.append(looped(x))
        (rows[-1] * w).sum().backward()
    torch.testing.assert_close(stacked, torch.stack(rows), rtol=1e-11, atol=1e-12)
    pairs = zip(model.named_parameters(), looped.parameters(), strict=True)
    for (name, p), q in pairs:
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-9, atol=1e-11, msg=name)
    for (name, b), c in zip(model.named_buffers(), looped.buffers(), strict=True):
        torch.testing.assert_close(b, c, rtol=1e-12, atol=1e-13, msg=name)


def test_merged_is_the_plain_mixture_of_the_members() -> None:
    members = [scattered(Mixed().double()) for _ in range(3)]
    expected = copy.deepcopy(members)
    model = ensemble(members[0], members[1:]).eval()
    ray = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
    plain = palora.merge(model, ray)
    assert {type(m).__module__.split(".")[0] for m in plain.modules()} <= {"torch", __name__}
    states = [m.state_dict() for m in expected]
    assert plain.state_dict().keys() == states[0].keys()
    for name, value in plain.state_dict().items():
        mixture = sum(float(a) * s[name] for a, s in zip(ray, states, strict=True))
        if "running" in name or "num_batches" in name:
            mixture = states[0][name]
        torch.testing.assert_close(value, mixture, rtol=1e-12, atol=1e-14, msg=name)
    x = torch.randn(3, 2, 5, 5, dtype=torch.float64)
    with palora.at(model, ray):
        torch.testing.assert_close(model(x), plain(x), rtol=1e-11, atol=1e-12)
    with palora.at(model, ray.expand(3, 3), per_sample=True):
        torch.testing.assert_close(model(x), plain(x), rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize(
    ("name", "settings", "base"),
    [("lenet", {"tasks": 2}, 27_450), ("mlp", {"inputs": 468, "hidden": (256,), "outputs": (2, 2)}, 121_092)],
)
def test_two_members_are_a_hundred_per_cent_more_parameters(name: str, settings: dict, base: int) -> None:
    model = ensemble(models.build(name, **settings), 2)
    assert sum(p.numel() for p in model.parameters()) == 2 * base


def test_norms_count_too() -> None:
    base = models.build("segnet", outputs=(2, 1))
    before = sum(p.numel() for p in base.parameters())
    assert sum(p.numel() for p in ensemble(base, 3).parameters()) == 3 * before


def test_members_start_independently_or_alike() -> None:
    for independent in (True, False):
        model = ensemble(models.build("lenet"), 2, independent=independent)
        weight = model.trunk.conv1.weight
        assert weight.shape == (2, 10, 1, 5, 5)
        assert torch.equal(weight[0], weight[1]) is not independent
    torch.manual_seed(0)
    alone = models.build("segnet", outputs=(2,))
    torch.manual_seed(0)
    model = ensemble(models.build("segnet", outputs=(2,)), 2)
    conv = model.trunk.encoder.stage2.blocks[0].conv
    assert torch.equal(conv.weight[0], alone.trunk.encoder.stage2.blocks[0].conv.weight)
    assert (conv.bias == 0).all()  # the second member starts as SegNet does, not as its layers would
    assert conv.weight[1].std().item() == pytest.approx(conv.weight[0].std().item(), rel=0.05)


def test_rays_are_the_members_not_the_tasks() -> None:
    model = ensemble(models.build("lenet"), 3)
    x = torch.randn(2, 1, 28, 28)
    with palora.at(model, torch.eye(3)):
        assert palora.split(model(x), 3)[0].shape == (3, 2, 10)
    with pytest.raises(ValueError, match=r"should have shape \(3,\)"):
        palora.at(model, (0.5, 0.5))
    assert all(layer.tasks == 3 for layer in ray_layers(model).values())


@pytest.mark.needs("safetensors")
def test_what_cannot_be_mixed_is_refused_before_anything_changes() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.PReLU())
    with pytest.raises(UnsupportedModuleError, match=r"PReLU '1' with parameters of its own"):
        ensemble(model, 2)
    assert type(model[0]) is nn.Linear
    with pytest.raises(ValueError, match="`members` should be an integer >= 1"):
        ensemble(nn.Linear(2, 2), 0)
    with pytest.raises(ValueError, match=r"`members\[0\]` should have the structure.*'weight'"):
        ensemble(nn.Linear(2, 2), [nn.Linear(3, 2)])
    with pytest.raises(ValueError, match="adapters or members already"):
        ensemble(palora.adapt(nn.Linear(2, 2), 2, 1), 2)
    with pytest.raises(ValueError, match="adapted already"):
        palora.adapt(nn.Sequential(ensemble(nn.Linear(2, 2), 2), nn.Linear(2, 2)), 2, 1)
    with pytest.raises(ValueError, match="no adapted layers"):
        palora.save_adapters(ensemble(nn.Linear(2, 2), 2), "unused")
