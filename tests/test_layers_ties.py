"""Weights that several modules share: what is merged answers as the adapted model does."""

from __future__ import annotations

import types
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from layer_cases import randomise_adapters
from torch import Tensor, nn

import palora

RAY = torch.tensor([0.3, 0.7], dtype=torch.float64)


class TinyLM(nn.Module):
    """A head whose weight is the embedding's."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 6)
        self.mid = nn.Linear(6, 6)
        self.head = nn.Linear(6, 11, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(torch.tanh(self.mid(self.embed(tokens))))


class TwoOfOne(nn.Module):
    """Two layers of one weight, and one of one bias."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 6)
        self.b.weight = self.a.weight
        self.c.bias = self.a.bias

    def forward(self, x: Tensor) -> Tensor:
        return self.c(torch.tanh(self.b(torch.tanh(self.a(x)))))


class UsedTwice(nn.Module):
    """One layer under two names, called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first = self.again = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.again(torch.tanh(self.first(x)))


class Convolutions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 3, 3, padding=1), nn.Conv2d(3, 3, 3, padding=1)
        self.b.weight = self.a.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.tanh(self.a(x)))


MODELS: dict[str, tuple[Any, Any, bool]] = {  # model, input, whether merging has to untie
    "embedding and head": (TinyLM, lambda: torch.randint(0, 11, (4, 7)), True),
    "two layers of one weight": (TwoOfOne, lambda: torch.randn(4, 6).double(), True),
    "one layer used twice": (UsedTwice, lambda: torch.randn(4, 6).double(), False),
    "two convolutions of one kernel": (Convolutions, lambda: torch.randn(2, 3, 5, 5).double(), True),
}


def _merged(model: nn.Module) -> tuple[nn.Module, list[str]]:
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        plain = palora.merge(model, RAY)
    return plain, [str(w.message) for w in seen]


@pytest.mark.parametrize("family", ["lora", "dora"])
@pytest.mark.parametrize("name", MODELS)
def test_merged_equals_adapted(name: str, family: str) -> None:
    build, data, unties = MODELS[name]
    plain, x = build().double(), data()
    before, keys = plain(x), list(plain.state_dict())
    model = palora.adapt(plain, 2, 2, family=family)
    merged, said = _merged(model)
    torch.testing.assert_close(merged(x), before)
    if family == "lora":  # fresh adapters change nothing, and ties stay (DoRA's lengths round)
        assert not said
        assert len(list(merged.parameters())) == len(list(build().parameters()))
    randomise_adapters(model)
    kept = {key: value.clone() for key, value in model.state_dict().items()}
    with palora.at(model, RAY):
        expected = model(x)
    merged, said = _merged(model)
    torch.testing.assert_close(merged(x), expected)
    assert list(merged.state_dict()) == keys
    assert any("untied" in text for text in said) == unties
    for key, value in model.state_dict().items():
        assert torch.equal(value, kept[key]), key


def test_the_embedding_does_not_move() -> None:
    model = randomise_adapters(palora.adapt(TinyLM().double(), 2, 2))
    merged, said = _merged(model)
    assert torch.equal(merged.embed.weight, model.embed.weight)
    assert "embed.weight and head.weight" in said[0]


def test_ties_of_layers_that_are_not_adapted_stay() -> None:
    model = randomise_adapters(palora.adapt(TinyLM().double(), 2, 2, exclude=["head"]))
    merged, said = _merged(model)
    assert not said
    assert merged.head.weight is merged.embed.weight


def test_equal_weights_are_tied_again() -> None:
    """Two layers of one weight whose adapters do nothing keep one weight; the bias of the third is shared as before."""
    merged, said = _merged(palora.adapt(TwoOfOne().double(), 2, 2))
    assert not said
    assert merged.a.weight is merged.b.weight
    assert merged.a.bias is merged.c.bias
    merged, _ = _merged(randomise_adapters(palora.adapt(TwoOfOne().double(), 2, 2)))
    assert merged.a.weight is not merged.b.weight
    assert merged.a.bias is merged.c.bias


def test_a_configuration_that_ties_on_loading_says_no_more() -> None:
    plain = TinyLM().double()
    plain.config = types.SimpleNamespace(tie_word_embeddings=True)
    model = randomise_adapters(palora.adapt(plain, 2, 2))
    merged, _ = _merged(model)
    assert merged.config.tie_word_embeddings is False
    assert model.config.tie_word_embeddings is True


@pytest.mark.needs("safetensors")
@pytest.mark.parametrize("name", MODELS)
def test_files_of_shared_weights(name: str, tmp_path: Path) -> None:
    build, data, _ = MODELS[name]
    model = randomise_adapters(palora.adapt(build().double(), 2, 2))
    palora.save_adapters(model, tmp_path / "a.safetensors", base=True)
    other = palora.load_adapters(build().double(), tmp_path / "a.safetensors")
    x = data()
    with palora.at(model, RAY):
        expected = model(x)
    with palora.at(other, RAY):
        torch.testing.assert_close(other(x), expected)
    assert len(list(other.parameters())) == len(list(model.parameters()))


def test_members_of_an_ensemble_stay_tied() -> None:
    from palora.layers import ensemble

    model = ensemble(TwoOfOne().double(), 2)
    x = torch.randn(4, 6).double()
    with palora.at(model, RAY):
        expected = model(x)
    merged, said = _merged(model)
    torch.testing.assert_close(merged(x), expected)
    assert not said
    assert merged.a.weight is merged.b.weight
