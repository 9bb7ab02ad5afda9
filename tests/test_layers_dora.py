"""Magnitude and direction apart, against the formula written out."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import palora
from palora.layers import DoRAConv2d, DoRALinear
from palora.models import LeNet

RAYS = torch.tensor([[1.0, 0.0], [0.3, 0.7], [0.5, 0.5]], dtype=torch.float64)


def adapted(form: str = "matricised") -> nn.Module:
    model = palora.adapt(LeNet().double(), 2, rank=2, alpha=3.0, form=form, family="dora")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora" in name or "magnitude" in name:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def by_hand(layer: DoRALinear | DoRAConv2d, ray: Tensor) -> Tensor:
    delta = sum(ray[t] * layer.lora_A[t] @ layer.lora_B[t] for t in range(2)) * (3.0 / 2)
    V = (layer.weight + delta.reshape(layer.weight.shape)).flatten(1)
    W = layer.magnitude[:, None] * V / V.pow(2).sum(1, keepdim=True).sqrt()
    return W.reshape(layer.weight.shape)


def test_adapting_changes_no_output() -> None:
    model = LeNet().double()
    x = torch.randn(2, 1, 28, 28, dtype=torch.float64)
    before = model(x)
    palora.adapt(model, 2, 1, family="dora")
    with palora.at(model, RAYS):
        after = palora.split(model(x), 3)
    for one, many in zip(before, after, strict=True):
        torch.testing.assert_close(many, one.expand_as(many), rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("form", ["matricised", "loralib"])
def test_stacked_equals_merged_models_written_by_hand(form: str) -> None:
    model = adapted(form)
    x = torch.randn(3, 1, 28, 28, dtype=torch.float64)
    factor = torch.randn(3, 3, 10, dtype=torch.float64)
    with palora.at(model, RAYS):
        outputs = palora.split(model(x), 3)
    (outputs[0] * factor).sum().backward()
    merged = copy.deepcopy(model)
    merged.zero_grad()
    total = torch.zeros((), dtype=torch.float64)
    for m, ray in enumerate(RAYS):
        plain = palora.merge(model, ray)
        weights = {
            f"{name}.weight": by_hand(layer, ray)
            for name, layer in merged.named_modules()
            if isinstance(layer, (DoRALinear, DoRAConv2d))
        }
        for name, weight in weights.items():
            torch.testing.assert_close(plain.state_dict()[name], weight.detach(), rtol=1e-11, atol=1e-12)
        biases = {name: p for name, p in merged.named_parameters() if name.endswith("bias")}
        y = torch.func.functional_call(LeNet().double(), {**weights, **biases}, x)
        torch.testing.assert_close(outputs[1][m], y[1], rtol=1e-9, atol=1e-10)
        total = total + (y[0] * factor[m]).sum()
    total.backward()
    for (name, p), q in zip(model.named_parameters(), merged.parameters(), strict=True):
        if p.grad is not None:
            torch.testing.assert_close(p.grad, q.grad, rtol=1e-7, atol=1e-9, msg=name)


def test_frozen_base_leaves_factors_and_magnitudes() -> None:
    model = palora.adapt(LeNet(), 2, 1, family="dora", train_base=False)
    trained = {name.rsplit(".", 1)[1] for name, p in model.named_parameters() if p.requires_grad}
    assert trained == {"lora_A", "lora_B", "magnitude"}


@pytest.mark.needs("safetensors")
def test_saved_and_loaded(tmp_path: Path) -> None:
    model = adapted()
    palora.save_adapters(model, tmp_path / "a.safetensors")
    fresh = LeNet().double()
    fresh.load_state_dict(model.state_dict(), strict=False)
    palora.load_adapters(fresh, tmp_path / "a.safetensors")
    x = torch.randn(2, 1, 28, 28, dtype=torch.float64)
    for one, other in zip(*(palora.merge(m, (0.4, 0.6))(x) for m in (model, fresh)), strict=True):
        assert torch.equal(one, other)


def test_unknown_family_is_refused() -> None:
    with pytest.raises(ValueError, match="`family` should be one of lora, dora"):
        palora.adapt(LeNet(), 2, 1, family="vera")
