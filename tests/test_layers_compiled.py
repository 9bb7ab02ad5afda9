"""Compiled models are tried out before the compiled code runs; what cannot be is told once."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from layer_cases import randomise_adapters
from row_cases import RAYS, Net, linears, randn
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

import palora
from palora.layers import adapted_layers
from palora.layers.compiled import UntriedWarning


@pytest.fixture(autouse=True)
def fresh() -> None:
    torch._dynamo.reset()


def _adapted(call: Callable[..., Any]) -> nn.Module:
    return randomise_adapters(palora.adapt(Net(call, **linears(a=(5, 6), b=(6, 3))).double(), 2, 2))


def _wrapped(model: nn.Module) -> Any:
    return torch.compile(model, fullgraph=True, backend="eager")


def _in_place(model: nn.Module) -> nn.Module:
    model.compile(fullgraph=True, backend="eager")
    return model


COMPILED: dict[str, Callable[[nn.Module], Any]] = {
    "torch.compile": _wrapped,
    "model.compile": _in_place,
    "the average of a compiled one": lambda model: AveragedModel(_wrapped(model)),
    "a compiled average": lambda model: _wrapped(AveragedModel(model)),
}


def assert_as_merged(compiled: nn.Module, model: nn.Module, *args: Tensor) -> None:
    with palora.at(compiled, RAYS):
        found = palora.split(compiled(*args), 3)
    torch.testing.assert_close(found, torch.stack([palora.merge(model, ray)(*args) for ray in RAYS]))


@pytest.mark.parametrize("name", list(COMPILED))
def test_a_model_that_mixes_rows_is_refused_as_it_is_uncompiled(name: str) -> None:
    model = _adapted(lambda m, x: m.b(m.a(x) - m.a(x).mean(0)))
    compiled = COMPILED[name](model)
    for _ in range(2):
        with palora.at(compiled, RAYS), pytest.raises(palora.RowsError, match="'b' does not see each ray's samples"):
            compiled(randn(4, 5))
    each = torch.rand(4, 2, dtype=torch.float64)
    with palora.at(compiled, each, per_sample=True), pytest.raises(palora.RowsError, match="'b'"):
        compiled(randn(4, 5))
    with palora.at(compiled, RAYS[0]):
        compiled(randn(4, 5))


@pytest.mark.parametrize("name", list(COMPILED))
def test_tables_and_outputs_with_another_place_are_known_to_compiled_code(name: str) -> None:
    model = _adapted(lambda m, x, table: m.a(x) @ table.T)
    compiled = COMPILED[name](model)
    for n in (4, 3, 4, 6):
        assert_as_merged(compiled, model, randn(n, 5), randn(4, 6))
    model = _adapted(lambda m, x: m.a(x).transpose(0, 1))
    assert_as_merged(COMPILED[name](model), model, randn(4, 6, 5))


def test_what_a_trial_found_makes_nothing_compile_again() -> None:
    counters = torch._dynamo.utils.counters
    counters.clear()
    compiled = _wrapped(_adapted(lambda m, x: m.b(m.a(x))))
    for step in range(6):
        with palora.at(compiled, torch.rand(3, 2, dtype=torch.float64)):
            compiled(randn(4, 5))
        if step == 0:
            graphs = counters["stats"]["unique_graphs"]
    assert counters["stats"]["unique_graphs"] == graphs


def test_a_model_that_is_adapted_anew_is_tried_anew() -> None:
    model = Net(lambda m, x: m.b(m.a(x)), **linears(a=(5, 6), b=(6, 3))).double()
    compiled = _wrapped(model)
    palora.adapt(compiled, 2, 2, include="a")
    with palora.at(compiled, RAYS):
        compiled(randn(4, 5))
    plain = palora.merge(compiled, RAYS[0])
    plain.call = lambda m, x: m.b(m.a(x).softmax(0))  # type: ignore[assignment]
    again = _wrapped(palora.adapt(plain, 2, 2))
    with palora.at(again, RAYS), pytest.raises(palora.RowsError, match="'b'"):
        again(randn(4, 5))
    other = copy.deepcopy(again)
    assert len(adapted_layers(other)) == 2
    with palora.at(other, RAYS), pytest.raises(palora.RowsError, match="'b'"):
        other(randn(4, 5))


def _function(model: nn.Module) -> Callable[[Tensor], Tensor]:
    def call(x: Tensor) -> Tensor:
        with palora.at(model, RAYS):
            return model(x)

    return torch.compile(call, fullgraph=True, backend="eager")  # type: ignore[no-any-return]


def _parent(model: nn.Module) -> Callable[[Tensor], Tensor]:
    parent: Any = _wrapped(nn.Sequential(model, nn.Tanh()))

    def call(x: Tensor) -> Tensor:
        with palora.at(parent, RAYS):
            return parent(x)  # type: ignore[no-any-return]

    return call


@pytest.mark.parametrize("around", [_function, _parent])
def test_what_is_compiled_from_around_says_once_that_it_was_not_tried_out(around: Any) -> None:
    model = _adapted(lambda m, x: m.b(m.a(x)))
    call = around(model)
    with pytest.warns(UntriedWarning, match=r"was not tried out.*call it once outside.*palora.check"):
        call(randn(4, 5))
    with warnings.catch_warnings():
        warnings.simplefilter("error", UntriedWarning)
        call(randn(7, 5))


def _run_outside(model: nn.Module) -> None:
    with palora.at(model, RAYS):
        model(randn(4, 5))


def _check(model: nn.Module) -> None:
    assert palora.check(model, randn(4, 5))


@pytest.mark.parametrize("asked", [_run_outside, _check])
@pytest.mark.parametrize("around", [_function, _parent])
def test_nothing_is_said_of_a_model_that_was_tried_or_checked(around: Any, asked: Any) -> None:
    model = _adapted(lambda m, x: m.b(m.a(x)))
    asked(model)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UntriedWarning)
        around(model)(randn(4, 5))
