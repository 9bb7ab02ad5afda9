"""Inputs that are no ordinary dense tensors are refused in one sentence; and models that are changed after `adapt`."""

from __future__ import annotations

import warnings

import pytest
import torch
from torch import Tensor, nn

import palora

RAYS = torch.tensor([[0.9, 0.1], [0.2, 0.8]])


def ragged(layout: torch.layout) -> Tensor:
    return torch.nested.nested_tensor([torch.randn(3, 4), torch.randn(2, 4)], layout=layout)


def adapted() -> nn.Module:
    return palora.adapt(nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 3)), tasks=2, rank=1)


@pytest.mark.parametrize("layout", [torch.jagged, torch.strided])
def test_nested_tensors(layout: torch.layout) -> None:
    model = adapted()
    with pytest.raises(TypeError, match="Argument `input` should be an ordinary tensor"), palora.at(model, RAYS):
        model(ragged(layout))
    with pytest.raises(TypeError, match="should be an ordinary tensor"), palora.at(model, RAYS, per_sample=True):
        model(ragged(layout))
    with pytest.raises(TypeError, match=r"'0' takes dense tensors\. Found a nested one"), palora.at(model, RAYS[0]):
        model(ragged(layout))


@pytest.mark.parametrize("rays", [RAYS, RAYS[0]])
@pytest.mark.parametrize("kind", ["to_sparse", "to_sparse_csr"])
def test_sparse_tensors(rays: Tensor, kind: str) -> None:
    model = adapted()
    with pytest.raises(TypeError, match=r"dense tensor.* Found one of layout torch\.sparse_"), palora.at(model, rays):
        model(getattr(torch.eye(4), kind)())


@pytest.mark.parametrize("rays", [RAYS, RAYS[0]])
def test_symbolic_tracing_and_arrays(rays: Tensor) -> None:
    model = adapted()
    with pytest.raises(TypeError, match=r"'0' expected a tensor\. Found a Proxy; for"), palora.at(model, rays):
        torch.fx.symbolic_trace(model)
    with pytest.raises(TypeError, match=r"'0' expected a tensor\. Found a list"), palora.at(model, RAYS[0]):
        model([[1.0, 2.0, 3.0, 4.0]])


def test_a_second_adapt_with_other_tasks_is_refused_and_changes_nothing() -> None:
    model = palora.adapt(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 3)), tasks=2, rank=1, include="0")
    with pytest.raises(ValueError, match=r"`tasks` should be 2, as layer '0' has\. Found 3"):
        palora.adapt(model, tasks=3, rank=1, include="1")
    assert type(model[1]) is nn.Linear


def test_complex_weights_are_refused() -> None:
    with pytest.raises(palora.UnsupportedModuleError, match="complex64; only real floating point weights"):
        palora.adapt(nn.Sequential(nn.Linear(4, 3, dtype=torch.complex64)), tasks=2, rank=1)


class OwnRay(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        with palora.at(self, RAYS[0]):
            x = self.first(x)
        return self.second(x)


def test_layers_taken_out_or_run_in_a_block_of_the_forward_are_not_called_unused() -> None:
    shorter = adapted()
    del shorter[0]
    with warnings.catch_warnings():
        warnings.simplefilter("error", palora.UnusedAdapterWarning)
        for model in (shorter, palora.adapt(OwnRay(), tasks=2, rank=1)):
            with palora.at(model, RAYS):
                model(torch.randn(5, 4))
