"""Values that are no tensors, of arguments and of modules' attributes, may turn on a branch: each is tried out."""

from __future__ import annotations

import enum
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from layer_cases import randomise_adapters
from row_cases import RAYS, Net, linears, randn
from torch import Tensor, nn

import palora
from palora.layers import forms, trial_pass


def _mixing(on: Callable[..., Any]) -> nn.Module:
    """Takes the batch's mean off where ``on(option)``."""

    def call(m: Any, x: Tensor, option: Any = None) -> Tensor:
        h = m.a(x)
        return m.b(h - h.mean(0) if on(option) else h)

    return randomise_adapters(palora.adapt(Net(call, **linears(a=(5, 6), b=(6, 3))).double(), 2, 2))


class Way(enum.Enum):
    MEAN = 1
    MIX = 2


class Options:
    def __init__(self, mix: int) -> None:
        self.inner = {"steps": [1, mix]}


ARGUMENTS: dict[str, tuple[Callable[..., Any], Any, Any]] = {
    "an integer": (lambda v: v == 3, 0, 3),
    "a float": (lambda v: v > 1, 0.5, 2.5),
    "a string": (lambda v: v == "mix", "mean", "mix"),
    "a boolean": (lambda v: v, False, True),
    "a string in a list": (lambda v: v[0] == "mix", ["mean"], ["mix"]),
    "an integer in a dict of dicts": (lambda v: v["a"]["b"], {"a": {"b": 0}}, {"a": {"b": 1}}),
    "a number of NumPy's": (lambda v: v > 1, np.float32(0), np.float32(2)),
    "an entry of an enumeration": (lambda v: v is Way.MIX, Way.MEAN, Way.MIX),
    "a set": (lambda v: "mix" in v, {"mean"}, {"mix"}),
    "an object": (lambda v: v.inner["steps"][1], Options(0), Options(1)),
    "a namespace": (lambda v: v.mix, SimpleNamespace(mix=0), SimpleNamespace(mix=1)),
    "a tensor without dimensions": (lambda v: v > 1, torch.tensor(0), torch.tensor(2)),
}


@pytest.mark.parametrize("name", list(ARGUMENTS))
def test_an_argument_that_turns_on_a_mixing_branch_later(name: str) -> None:
    on, off_value, on_value = ARGUMENTS[name]
    model, x = _mixing(on), randn(4, 5)
    with palora.at(model, RAYS):
        found = model(x, off_value)
        with pytest.raises(palora.RowsError, match="mixes the rows"):
            model(x, on_value)
        torch.testing.assert_close(model(x, off_value), found)
        with pytest.raises(palora.RowsError, match="mixes the rows"):
            model(x, option=on_value)


ATTRIBUTES: dict[str, tuple[Any, Any]] = {
    "an integer": (0, 1),
    "a float": (0.0, 0.5),
    "a string": ("", "mix"),
    "an object": (SimpleNamespace(k=0), SimpleNamespace(k=1)),
    "a dict": ({"mix": 0}, {"mix": 1}),
    "a list": ([0, 0], [0, 1]),
}


def _truth(value: Any) -> bool:
    if isinstance(value, SimpleNamespace):
        return bool(value.k)
    return bool(value[-1] if isinstance(value, list) else value["mix"] if isinstance(value, dict) else value)


@pytest.mark.parametrize("name", list(ATTRIBUTES))
def test_an_attribute_that_turns_on_a_mixing_branch_later(name: str) -> None:
    class Inner(nn.Module):
        option: Any = None

        def forward(self, h: Tensor) -> Tensor:
            return h - h.mean(0) if _truth(self.option) else h

    inner = Inner()
    model = nn.Sequential(nn.Linear(5, 6), inner, nn.Linear(6, 3)).double()
    model = randomise_adapters(palora.adapt(model, 2, 2))
    off_value, on_value = ATTRIBUTES[name]
    inner.option, x = off_value, randn(4, 5)
    with palora.at(model, RAYS):
        model(x)
        inner.option = on_value
        with pytest.raises(palora.RowsError, match="mixes the rows"):
            model(x)
        inner.option = off_value
        model(x)


def test_an_object_that_is_changed_in_place() -> None:
    options = Options(0)
    model, x = _mixing(lambda v: v.inner["steps"][1]), randn(4, 5)
    with palora.at(model, RAYS):
        model(x, options)
        options.inner["steps"][1] = 1
        with pytest.raises(palora.RowsError, match="mixes the rows"):
            model(x, options)


def test_values_without_end_are_tried_out_so_many_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """A number of steps, a temperature: once many came out alike, others are taken to be like them."""
    seen: list[str] = []
    run = trial_pass.Runner._pass
    counted = lambda self, one, *rest: (seen.append(one.role), run(self, one, *rest))[1]  # noqa: E731
    monkeypatch.setattr(trial_pass.Runner, "_pass", counted)
    model, x = _mixing(lambda v: False), randn(4, 5)
    with palora.at(model, RAYS):
        for step in range(3 * forms.MOST_VALUES):
            model(x, step)
            model(x, float("nan"))
    assert len(seen) == 2 * 3 * forms.MOST_VALUES


def test_values_that_matter_are_tried_out_without_end() -> None:
    model, x = _mixing(lambda v: v % 7 == 3), randn(4, 5)
    with palora.at(model, RAYS):
        for step in range(3 * forms.MOST_VALUES):
            if step % 7 == 3:
                with pytest.raises(palora.RowsError, match="mixes the rows"):
                    model(x, step)
            else:
                model(x, step)
