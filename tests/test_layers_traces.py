"""A trial before the first stacked pass leaves no trace in what a model holds, and takes part of hooks and modes."""

from __future__ import annotations

import collections
import itertools
import random
import types
from collections.abc import Callable
from typing import Any

import pytest
import torch
from layer_cases import randomise_adapters
from row_cases import RAYS, Net, randn
from torch import Tensor, nn

import palora


class Counts:
    """An object that is no module."""

    def __init__(self) -> None:
        self.n, self.seen, self.total = 0, [0.0], torch.zeros(2)


class Keeps(nn.Module):
    """A model with something of its own, which every pass changes."""

    def __init__(self, held: Any, change: Callable[[Any], Any]) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(5, 4), nn.Linear(4, 3)
        self.held, self.change = held, change

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            self.change(self.held)
        return self.last(self.first(x).tanh())  # type: ignore[no-any-return]


HELD: dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]] = {
    "nested lists": (lambda: {"k": [1]}, lambda held: held["k"].append(1)),
    "tensors in a list": (lambda: [torch.zeros(2)], lambda held: held[0].add_(1)),
    "a counter": (collections.Counter, lambda held: held.update(["k"])),
    "a default": (lambda: collections.defaultdict(list), lambda held: held["k"].append(1)),
    "an object": (Counts, lambda held: setattr(held, "n", held.n + 1)),
    "lists of an object": (Counts, lambda held: held.seen.append(1.0)),
    "tensors of an object": (Counts, lambda held: held.total.add_(1)),
    "a namespace": (lambda: types.SimpleNamespace(n=0), lambda held: setattr(held, "n", held.n + 1)),
    "an iterator": (lambda: itertools.count(), next),
    "random numbers": (lambda: random.Random(0), lambda held: held.random()),
    "a Parameter": (lambda: nn.Parameter(torch.zeros(2), requires_grad=False), lambda held: held.add_(1)),
    "a Parameter's data": (lambda: nn.Parameter(torch.zeros(2)), lambda held: held.data.mul_(2).add_(1)),
}


@pytest.mark.parametrize("name", HELD)
def test_what_a_model_holds_is_as_after_one_pass(name: str) -> None:
    make, change = HELD[name]
    found = []
    for trial in (True, False):
        model = palora.adapt(Keeps(make(), change).double(), 2, 2, trial=trial)
        with palora.at(model, RAYS):
            model(randn(4, 5))
        held = model.held
        if isinstance(held, random.Random):
            held = held.random()
        found.append(repr(vars(held) if isinstance(held, Counts) else held))
    assert found[0] == found[1]


def test_a_layer_whose_parameter_is_scaled_in_every_pass_is_not_refused() -> None:
    def forward(model: Any, x: Tensor) -> Tensor:
        with torch.no_grad():
            model.last.bias.mul_(0.5)
        return model.last(model.first(x))  # type: ignore[no-any-return]

    model = palora.adapt(Net(forward, first=nn.Linear(5, 4), last=nn.Linear(4, 3)).double(), 2, 2)
    before = model.last.bias.detach().clone()
    with palora.at(model, RAYS):
        model(randn(4, 5))
    torch.testing.assert_close(model.last.bias.detach(), before / 2)


def _mlp() -> Any:
    net = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3))
    return randomise_adapters(palora.adapt(net.double(), 2, 2))


HOOKS: dict[str, Callable[[Any], Any]] = {
    "after a layer": lambda model: model[0].register_forward_hook(lambda m, a, y: y - y.mean(0)),
    "before a layer": lambda model: model[2].register_forward_pre_hook(lambda m, a: (a[0] - a[0].mean(0),)),
}


@pytest.mark.parametrize("name", HOOKS)
def test_a_hook_that_mixes_the_batch_is_refused(name: str) -> None:
    model = _mlp()
    HOOKS[name](model)
    assert not palora.check(model, randn(4, 5)).ok
    with pytest.raises(palora.layers.RowsError, match="mixes the rows"), palora.at(model, RAYS):
        model(randn(4, 5))


def test_a_hook_that_changes_values_row_by_row_is_right_and_one_that_records_is_called_once() -> None:
    model, seen = _mlp(), []
    model[0].register_forward_hook(lambda m, a, y: y * 2)
    model[0].register_forward_hook(lambda m, a, y: seen.append(y.shape))
    assert palora.check(model, randn(4, 5)).ok
    assert not seen
    x = randn(4, 5)
    with palora.at(model, RAYS):
        stacked = palora.split(model(x), len(RAYS))
    assert seen == [(4 * len(RAYS), 8)]
    for y, ray in zip(stacked, RAYS, strict=True):
        with palora.at(model, ray):
            torch.testing.assert_close(y, model(x))


class Centred(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.centre = False

    def forward(self, x: Tensor) -> Tensor:
        return x - x.mean(0) if self.training or self.centre else x


CHANGES: dict[str, Callable[[Any], Any]] = {
    "the mode of a module": lambda model: model[1].train(),
    "a flag": lambda model: setattr(model[1], "centre", True),
    "a module": lambda model: model.__setitem__(1, Centred()),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_changes_after_a_trial_is_tried_again(name: str) -> None:
    net = nn.Sequential(nn.Linear(5, 8), Centred(), nn.Linear(8, 3)).double().eval()
    model = randomise_adapters(palora.adapt(net, 2, 2))
    with palora.at(model, RAYS):
        model(randn(4, 5))
    CHANGES[name](model)
    with pytest.raises(palora.layers.RowsError, match="mixes the rows"), palora.at(model, RAYS):
        model(randn(4, 5))


def test_sparse_outputs_are_compared() -> None:
    def forward(model: Any, x: Tensor) -> Tensor:
        return model.last(x).to_sparse()  # type: ignore[no-any-return]

    model = randomise_adapters(palora.adapt(Net(forward, last=nn.Linear(5, 3)).double(), 2, 2))
    with palora.at(model, RAYS):
        assert model(randn(4, 5)).shape == (4 * len(RAYS), 3)
