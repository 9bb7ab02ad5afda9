"""Weights that something computes: parametrisations, weight_norm, spectral_norm, pruning, before and after `adapt`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from layer_cases import randomise_adapters
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune, spectral_norm, weight_norm

import palora
from palora.layers import UnsupportedModuleError

RAY = torch.tensor([0.3, 0.7], dtype=torch.float64)
pytestmark = pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")


class Doubled(nn.Module):
    def forward(self, w: Tensor) -> Tensor:
        return 2 * w


KINDS: dict[str, Callable[[nn.Module], Any]] = {
    "parametrizations.spectral_norm": parametrizations.spectral_norm,
    "parametrizations.weight_norm": parametrizations.weight_norm,
    "parametrizations.orthogonal": parametrizations.orthogonal,
    "a parametrisation of one's own": lambda layer: parametrize.register_parametrization(layer, "weight", Doubled()),
    "a parametrised bias": lambda layer: parametrize.register_parametrization(layer, "bias", Doubled()),
    "two parametrisations": lambda layer: (
        parametrize.register_parametrization(layer, "weight", Doubled()),
        parametrize.register_parametrization(layer, "weight", Doubled()),
    ),
    "spectral_norm (hook)": spectral_norm,
    "weight_norm (hook)": weight_norm,
    "weight_norm of all (hook)": lambda layer: weight_norm(layer, dim=None),
    "pruned": lambda layer: prune.l1_unstructured(layer, "weight", amount=0.5),
    "pruned twice": lambda layer: (
        prune.l1_unstructured(layer, "weight", amount=0.3),
        prune.random_unstructured(layer, "weight", amount=0.3),
    ),
    "pruned bias": lambda layer: prune.l1_unstructured(layer, "bias", amount=0.5),
    "pruned rows": lambda layer: prune.ln_structured(layer, "weight", amount=0.5, n=2, dim=0),
}
NETS: dict[str, tuple[Any, Any]] = {
    "linear": (lambda: nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3)), lambda: torch.randn(4, 5)),
    "conv": (
        lambda: nn.Sequential(nn.Conv2d(2, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(128, 3)),
        lambda: torch.randn(4, 2, 6, 6),
    ),
}


def _case(net: str) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    build, batch = NETS[net]
    return build().double(), batch().double()


@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("net", NETS)
def test_after_adapt_merged_equals_adapted(net: str, kind: str, trained: bool) -> None:
    plain, x = _case(net)
    keys = list(plain.state_dict())
    model = randomise_adapters(palora.adapt(plain, 2, 2))
    KINDS[kind](model[0])
    if trained:  # the computed weight is then no leaf of the graph
        optimiser = torch.optim.SGD(model.parameters(), 0.1)
        with palora.at(model, torch.rand(3, 2)):
            model(x).square().mean().backward()
        optimiser.step()
    model.eval()
    with palora.at(model, RAY):
        expected = model(x)
    merged = palora.merge(model, RAY)
    torch.testing.assert_close(merged(x), expected)
    assert sorted(merged.state_dict()) == sorted(keys)
    assert type(merged[0]) in (nn.Linear, nn.Conv2d)
    with palora.at(model, RAY):  # the original goes on
        torch.testing.assert_close(model(x), expected)


def test_merging_in_training_mode_does_not_go_on_estimating() -> None:
    model = randomise_adapters(palora.adapt(_case("linear")[0], 2, 2))
    parametrizations.spectral_norm(model[0])
    x = torch.randn(4, 5).double()
    merged = palora.merge(model, RAY)
    assert merged.training
    assert merged[0].training
    model.eval()
    with palora.at(model, RAY):
        torch.testing.assert_close(merged(x), model(x))


@pytest.mark.parametrize("kind", [kind for kind in KINDS if "bias" not in kind])
@pytest.mark.parametrize("net", NETS)
def test_before_adapt_it_is_refused_by_name_or_excluded(net: str, kind: str) -> None:
    plain, x = _case(net)
    KINDS[kind](plain[0])
    plain.eval()
    before = plain(x)
    with pytest.raises(UnsupportedModuleError, match="'0'"):
        palora.adapt(plain, 2, 2)
    torch.testing.assert_close(plain(x), before)
    model = palora.adapt(plain, 2, 2, exclude=["0"])
    nn.init.normal_(model[-1].lora_A)
    with palora.at(model, RAY):
        expected = model(x)
    torch.testing.assert_close(palora.merge(model, RAY)(x), expected)


def test_an_adapter_that_is_computed_is_merged_and_not_saved(tmp_path: Path) -> None:
    model, x = randomise_adapters(palora.adapt(_case("linear")[0], 2, 2)), torch.randn(4, 5).double()
    parametrize.register_parametrization(model[2], "lora_B", Doubled())
    with palora.at(model, RAY):
        expected = model(x)
    torch.testing.assert_close(palora.merge(model, RAY)(x), expected)
    with pytest.raises(UnsupportedModuleError, match="lora_B of layer '2' is computed by a parametrisation"):
        palora.save_adapters(model, tmp_path / "a.safetensors")


def test_an_unknown_computation_is_refused_by_name() -> None:
    model = palora.adapt(_case("linear")[0], 2, 2)
    weight = model[0].weight.detach().clone()
    del model[0].weight
    model[0].weight = weight
    with pytest.raises(UnsupportedModuleError, match="layer '0'"):
        palora.merge(model, RAY)


def test_a_pruned_head_that_is_tied() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.head = nn.Embedding(11, 6), nn.Linear(6, 11)
            self.head.weight = self.embed.weight

        def forward(self, tokens: Tensor) -> Tensor:
            return self.head(self.embed(tokens))

    model = randomise_adapters(palora.adapt(Tied().double(), 2, 2))
    parametrize.register_parametrization(model.head, "weight", Doubled())
    tokens = torch.randint(0, 11, (4, 7))
    with palora.at(model, RAY):
        expected = model(tokens)
    with pytest.warns(UserWarning, match="untied"):
        merged = palora.merge(model, RAY)
    torch.testing.assert_close(merged(tokens), expected)
    assert torch.equal(merged.embed.weight, model.embed.weight)
