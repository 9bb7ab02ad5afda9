"""What `summary` says was adapted and what was not; and models that PEFT has adapted."""

from __future__ import annotations

import types
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import palora
from palora.layers import UnsupportedModuleError, adapter_parameters


class Conv1D(nn.Module):
    """GPT-2's: a linear layer with its weight the other way round."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(inputs, outputs)), nn.Parameter(torch.zeros(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight + self.bias


def _net() -> nn.Module:
    return nn.Sequential(
        nn.Embedding(7, 4), Conv1D(4, 6), nn.LayerNorm(6), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2, bias=False)
    )


def test_counts_and_reasons() -> None:
    model = palora.adapt(_net(), 2, 3, exclude=["5"])
    found = palora.summary(model)
    assert [one.name for one in found.adapted] == ["3"]
    assert [one.name for one in found.unadapted] == ["0", "1", "2", "5"]
    linear = found.adapted[0]
    assert (linear.kind, linear.parameters, linear.adapter, linear.trainable) == ("PaLoRALinear", 35, 66, 101)
    reasons = {one.name: one.reason for one in found.unadapted}
    assert "not Embedding" in reasons["0"]
    assert "not Conv1D" in reasons["1"]
    assert "excluded" in reasons["5"]
    assert found.adapter == sum(p.numel() for p in adapter_parameters(model)) == 2 * 3 * (6 + 5)
    assert found.parameters + found.adapter == sum(p.numel() for p in model.parameters())
    assert "1 of 5 layers adapted" in str(found)


def test_a_frozen_base_and_a_plain_model() -> None:
    model = palora.adapt(_net(), 2, 3, train_base=False)
    found = palora.summary(model)
    assert found.trainable == found.adapter > 0
    plain = palora.summary(_net())
    assert plain.adapter == 0
    assert not plain.adapted
    assert plain.trainable == plain.parameters == sum(p.numel() for p in _net().parameters())


def test_shared_parameters_count_once() -> None:
    tied = nn.Sequential(nn.Embedding(7, 4), nn.Linear(4, 7, bias=False))
    tied[1].weight = tied[0].weight
    assert palora.summary(tied).parameters == 28


def test_what_dora_adds_learns_with_its_factors() -> None:
    model = palora.adapt(nn.Linear(4, 3), 2, 2, family="dora")
    assert any(p is model.magnitude for p in adapter_parameters(model))
    assert palora.summary(model).adapter == 2 * 2 * (4 + 3) + 3


class PeftLike(nn.Module):
    """A layer as PEFT makes it, for machines without PEFT."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base_layer = base
        self.lora_A = nn.ModuleDict({"default": nn.Linear(base.in_features, 2, bias=False)})
        self.lora_B = nn.ModuleDict({"default": nn.Linear(2, base.out_features, bias=False)})

    def forward(self, x: Tensor) -> Tensor:
        return self.base_layer(x) + self.lora_B["default"](self.lora_A["default"](x))


def test_peft_layers_are_refused() -> None:
    model = nn.Sequential(PeftLike(nn.Linear(4, 4)), nn.Linear(4, 3))
    keys = list(model.state_dict())
    with pytest.raises(UnsupportedModuleError, match=r"PEFT's PeftLike '0'; merge PEFT's adapters first"):
        palora.adapt(model, 2, 2)
    assert list(model.state_dict()) == keys
    assert palora.adapt(model, 2, 2, exclude=["0"]) is model


def test_peft_is_known_by_its_package_too() -> None:
    kind: Any = types.new_class("Linear", (nn.Module,))
    kind.__module__ = "peft.tuners.vera.layer"
    layer = kind()
    layer.base_layer = nn.Linear(4, 4)
    with pytest.raises(UnsupportedModuleError, match="PEFT's Linear"):
        palora.adapt(nn.Sequential(layer), 2, 2)


@pytest.mark.parametrize("layer", [lambda: nn.Linear(4, 3), lambda: nn.Conv2d(4, 3, 1)])
@pytest.mark.parametrize("family", ["lora", "dora"])
def test_float32_adapters_on_a_base_in_sixteen_bits(layer: Any, family: str) -> None:
    """Master weights as PEFT keeps them: the same answers as with adapters in 16 bits, and gradients in float32."""
    torch.manual_seed(0)
    model = palora.adapt(nn.Sequential(layer()).bfloat16(), 2, 2, family=family)
    for p in adapter_parameters(model):
        p.data = torch.randn_like(p).float().bfloat16().float()
    same = palora.adapt(nn.Sequential(layer()).bfloat16(), 2, 2, family=family)
    same.load_state_dict(model.state_dict())
    x = torch.randn(5, 4, *((1, 1) if isinstance(model[0], nn.Conv2d) else ())).bfloat16()
    rays = torch.rand(3, 2)
    answers = []
    for one in (model, same):
        with palora.at(one, rays):
            answers.append(one(x))
        answers[-1].float().square().sum().backward()
    assert answers[0].dtype == torch.bfloat16
    torch.testing.assert_close(answers[0], answers[1], atol=0.05, rtol=0.05)
    assert all(p.grad is not None and p.grad.dtype == torch.float32 for p in adapter_parameters(model))
    plain = palora.merge(model, (0.3, 0.7))
    assert plain[0].weight.dtype == torch.bfloat16
