"""PaLoRALinear and PaLoRAConv2d by themselves: what they compute, how they start, every option of Conv2d."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from layer_cases import assert_stacked_equals_loop, randomise_adapters
from torch import nn

import palora


def _rays(M: int = 4, T: int = 2) -> torch.Tensor:
    return torch.distributions.Dirichlet(torch.ones(T)).sample((M,)).double()


def test_linear_is_equation_two() -> None:
    layer = randomise_adapters(palora.PaLoRALinear(5, 3, tasks=2, rank=4, alpha=6.0, dtype=torch.float64))
    x, ray = torch.randn(7, 5, dtype=torch.float64), torch.tensor([0.3, 0.7], dtype=torch.float64)
    delta = sum(ray[t] * layer.lora_A[t] @ layer.lora_B[t] for t in range(2))
    with palora.at(layer, ray):
        torch.testing.assert_close(layer(x), x @ (layer.weight + 6 / 4 * delta).T + layer.bias)


def test_linear_factor_shapes_and_start() -> None:
    layer = palora.PaLoRALinear(400, 30, tasks=5, rank=3)
    assert layer.lora_A.shape == (5, 30, 3)
    assert layer.lora_B.shape == (5, 3, 400)
    assert not layer.lora_A.any()
    # Kaiming-uniform(a=sqrt 5) is U(-1/sqrt(fan_in), 1/sqrt(fan_in)); initialised whole, fan-in would be r*K.
    bound = 1 / math.sqrt(400)
    for t in range(5):
        assert 0.9 * bound < layer.lora_B[t].abs().max().item() <= bound
        assert layer.lora_B[t].std().item() == pytest.approx(bound / math.sqrt(3), rel=0.1)


@pytest.mark.parametrize("form", ["matricised", "loralib"])
def test_conv_is_equation_two(form: str) -> None:
    layer = palora.PaLoRAConv2d(4, 6, 3, tasks=2, rank=2, alpha=3.0, form=form, groups=2, dtype=torch.float64)
    randomise_adapters(layer)
    x, ray = torch.randn(2, 4, 8, 8, dtype=torch.float64), torch.tensor([0.2, 0.8], dtype=torch.float64)
    delta = sum(ray[t] * layer.lora_A[t] @ layer.lora_B[t] for t in range(2)).view_as(layer.weight)
    with palora.at(layer, ray):
        expected = F.conv2d(x, layer.weight + 1.5 * delta, layer.bias, groups=2)
        torch.testing.assert_close(layer(x), expected)


def test_conv_factor_shapes() -> None:
    matricised = palora.PaLoRAConv2d(8, 6, (3, 5), tasks=2, rank=4, groups=2)
    assert matricised.lora_A.shape == (2, 6, 4)
    assert matricised.lora_B.shape == (2, 4, 4 * 15)
    loralib = palora.PaLoRAConv2d(8, 6, 3, tasks=2, rank=4, form="loralib", groups=2)
    assert loralib.lora_A.shape == (2, 6 // 2 * 3, 4 * 3)
    assert loralib.lora_B.shape == (2, 4 * 3, 8 * 3)


OPTIONS: list[dict[str, Any]] = [
    {"kernel_size": 3, "stride": 2, "padding": 1},
    {"kernel_size": 3, "padding": "same", "dilation": 2},
    {"kernel_size": 4, "padding": "same"},
    {"kernel_size": 3, "padding": "valid", "bias": False},
    {"kernel_size": 3, "padding": (2, 1), "padding_mode": "reflect"},
    {"kernel_size": 3, "padding": 1, "padding_mode": "circular", "groups": 2},
    {"kernel_size": 3, "padding": "same", "padding_mode": "replicate"},
    {"kernel_size": (1, 3), "groups": 4},
    {"kernel_size": 1},
]


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("channels_last", [False, True])
def test_all_options_of_conv2d(options: dict[str, Any], channels_last: bool) -> None:
    plain = nn.Conv2d(4, 8, **options).double()
    layer = randomise_adapters(palora.PaLoRAConv2d.from_conv2d(plain, 2, 2))
    x, ray = torch.randn(3, 4, 9, 8, dtype=torch.float64), torch.tensor([0.4, 0.6], dtype=torch.float64)
    if channels_last:
        x = x.to(memory_format=torch.channels_last)
    assert_stacked_equals_loop(layer, x, _rays())
    with palora.at(layer, ray), torch.no_grad():
        found = layer(x)
        plain.weight.copy_(layer.merged_weight(ray))
    torch.testing.assert_close(found, plain(x))


def test_from_linear_shares_the_parameters() -> None:
    plain = nn.Linear(5, 3)
    layer = palora.PaLoRALinear.from_linear(plain, tasks=2, rank=1)
    assert layer.weight is plain.weight
    assert layer.bias is plain.bias
    assert type(plain) is nn.Linear
    assert not hasattr(plain, "lora_A")
    assert plain.state_dict().keys() == {"weight", "bias"}


def test_hand_built_models_need_no_adapt() -> None:
    """`at` on a model with hand-placed layers makes that model the expansion point."""
    model = nn.Sequential(
        palora.PaLoRALinear(5, 8, tasks=2, rank=2), nn.Tanh(), palora.PaLoRALinear(8, 3, tasks=2, rank=1)
    ).double()
    randomise_adapters(model)
    assert_stacked_equals_loop(model, torch.randn(6, 5, dtype=torch.float64), _rays())


@pytest.mark.parametrize("tokens", [(), (7,), (3, 2)])
def test_linear_with_token_axes(tokens: tuple[int, ...]) -> None:
    layer = randomise_adapters(palora.PaLoRALinear(5, 3, tasks=2, rank=2, dtype=torch.float64))
    assert_stacked_equals_loop(layer, torch.randn(4, *tokens, 5, dtype=torch.float64), _rays())


def test_empty_batch() -> None:
    layer = palora.PaLoRALinear(5, 3, tasks=2, rank=2)
    with palora.at(layer, torch.rand(4, 2)):
        y = layer(torch.randn(0, 5, requires_grad=True))
    assert y.shape == (0, 3)
    y.sum().backward()
    assert layer.lora_A.grad is not None


def test_bfloat16_and_autocast() -> None:
    layer = randomise_adapters(palora.PaLoRALinear(64, 32, tasks=2, rank=2), std=0.1)
    x, rays = torch.randn(8, 64), torch.rand(3, 2)
    with palora.at(layer, rays):
        exact = layer(x)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            mixed = layer(x)
        low = layer.to(torch.bfloat16)(x.to(torch.bfloat16))
    assert mixed.dtype == low.dtype == torch.bfloat16
    torch.testing.assert_close(mixed.float(), exact, atol=0.1, rtol=0.05)
    torch.testing.assert_close(low.float(), exact, atol=0.1, rtol=0.05)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"tasks": 0}, "`tasks` should be an integer >= 1"),
        ({"rank": 0}, "`rank` should be an integer >= 1"),
        ({"rank": 1.5}, "`rank` should be an integer >= 1"),
        ({"alpha": float("nan")}, "`alpha` should be a finite number"),
    ],
)
def test_bad_settings_are_named(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        palora.PaLoRALinear(5, 3, **{"tasks": 2, "rank": 1, **arguments})


def test_bad_forms_are_named() -> None:
    with pytest.raises(ValueError, match="`form` should be one of matricised, loralib"):
        palora.PaLoRAConv2d(4, 6, 3, 2, 1, form="svd")
    with pytest.raises(ValueError, match="square kernel"):
        palora.PaLoRAConv2d(4, 6, (3, 5), 2, 1, form="loralib")
