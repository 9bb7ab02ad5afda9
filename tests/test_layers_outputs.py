"""Outputs whose rows are not in dimension 0, sparse ones, numbers for all rays, and batches of one sample."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from layer_cases import randomise_adapters
from row_cases import RAYS, Net, linears, randn
from torch import Tensor, nn

import palora


def _adapted(call: Callable[..., Any], **layers: nn.Module) -> nn.Module:
    layers = layers or linears(a=(5, 6), b=(6, 3))
    return randomise_adapters(palora.adapt(Net(call, **layers).double(), 2, 2))


def _leaves(value: Any) -> list[Tensor]:
    return [value] if isinstance(value, Tensor) else list(value)


def assert_split_as_alone(model: nn.Module, x: Tensor) -> None:
    with palora.at(model, RAYS):
        found = _leaves(palora.split(model(x), 3))
    for m, ray in enumerate(RAYS):
        for y, expected in zip(found, _leaves(palora.merge(model, ray)(x)), strict=True):
            torch.testing.assert_close(y[m], expected)


def _state(m: Any, x: Tensor) -> tuple[Tensor, Tensor]:
    h, state = m.r(m.a(x))
    return m.b(h), state


PLACES: dict[str, Callable[..., Any]] = {
    "the batch second": lambda m, x: m.a(x).transpose(0, 1),
    "the batch last": lambda m, x: m.a(x).movedim(0, -1),
    "the batch in three places": lambda m, x: (m.a(x), m.b(m.a(x)).transpose(0, 1), m.a(x).movedim(0, 2)),
    "rows of tokens": lambda m, x: m.a(x).flatten(0, 1),
    "all in one": lambda m, x: m.a(x).flatten(),
    "what does not depend on the batch": lambda m, x: (m.a(x), torch.ones(6, 2)),
    "a number that does not depend on the batch": lambda m, x: (m.a(x), torch.tensor(2.0)),
    "integers": lambda m, x: m.a(x).argmax(-1).T,
    "sparse": lambda m, x: m.a(x).relu().flatten(1).to_sparse(),
    "sparse, the batch second": lambda m, x: m.a(x).relu().flatten(1).T.to_sparse(),
    "sparse, with dense rows": lambda m, x: m.a(x).relu().to_sparse(1),
}


@pytest.mark.parametrize("n", [1, 2, 4])
@pytest.mark.parametrize("name", list(PLACES))
def test_outputs_are_split_where_their_rows_are(name: str, n: int) -> None:
    """Six tokens: a multiple of the rays' number, so that nothing but the trial can tell."""
    assert_split_as_alone(_adapted(PLACES[name]), randn(n, 6, 5))


@pytest.mark.parametrize("n", [1, 3, 4])
def test_the_state_of_a_recurrent_layer(n: int) -> None:
    model = _adapted(_state, a=nn.Linear(5, 6), r=nn.GRU(6, 6, 3, batch_first=True), b=nn.Linear(6, 3))
    assert_split_as_alone(model, randn(n, 7, 5))
    report = palora.check(model, randn(n, 3, 5))
    assert report.ok, str(report)


def test_gradients_flow_through_a_split_sparse_output() -> None:
    model = _adapted(lambda m, x: m.a(x).relu().to_sparse())
    x = randn(4, 5)
    with palora.at(model, RAYS):
        parts = palora.split(model(x), 3)
    torch.sparse.sum(parts).backward()
    found = model.a.lora_A.grad.clone()
    model.zero_grad()
    for ray in RAYS:
        with palora.at(model, ray):
            model(x).to_dense().sum().backward()
    torch.testing.assert_close(found, model.a.lora_A.grad)


OTHER_LAYOUTS: dict[str, Callable[..., Any]] = {
    "sparse_csr": lambda m, x: m.a(x).to_sparse_csr(),
    "nested": lambda m, x: torch.nested.as_nested_tensor(list(m.a(x)), layout=torch.jagged),
}


@pytest.mark.parametrize("name", list(OTHER_LAYOUTS))
def test_other_layouts_are_refused_by_split_and_compared_by_check(name: str) -> None:
    model = _adapted(OTHER_LAYOUTS[name])
    with palora.at(model, RAYS):
        found = model(randn(4, 5))
    with pytest.raises(TypeError, match=rf"or sparse COO ones\. Found .*{name}"):
        palora.split(found, 3)
    assert palora.check(model, randn(4, 5)).ok


def test_check_compares_sparse_outputs() -> None:
    assert palora.check(_adapted(lambda m, x: m.a(x).to_sparse()), randn(4, 5)).ok
    report = palora.check(_adapted(lambda m, x: m.b(m.a(x)).softmax(0).to_sparse()), randn(4, 5))
    assert (report.ok, report.module) == (False, "")


SQUEEZED: dict[str, Callable[..., Any]] = {
    "between layers": lambda m, x: m.b(torch.tanh(m.a(x)).squeeze()),
    "the first dimension": lambda m, x: m.b(m.a(x)).squeeze(0),
    "at the end": lambda m, x: m.b(m.a(x)).squeeze(),
    "to a number": lambda m, x: m.b(m.a(x)).sum(-1).squeeze(),
    "in two places": lambda m, x: (m.a(x).squeeze(), m.b(m.a(x).squeeze()).squeeze()),
}


@pytest.mark.parametrize("n", [1, 2, 4])
@pytest.mark.parametrize("name", list(SQUEEZED))
def test_a_model_that_squeezes_whatever_the_batch(name: str, n: int) -> None:
    model = _adapted(SQUEEZED[name])
    assert_split_as_alone(model, randn(n, 5))
    assert_split_as_alone(model, randn(n, 1, 5)[:, 0])
    report = palora.check(model, randn(n, 5))
    assert report.ok, str(report)


def test_a_squeezed_feature_that_meets_another_dimension_is_refused() -> None:
    """Alone the features are normalised, with other rays the rays."""
    model = _adapted(lambda m, x: m.b(m.a(x).squeeze().softmax(0)))
    with palora.at(model, RAYS), pytest.raises(palora.RowsError, match="'b'"):
        model(randn(1, 5))


def test_layers_take_a_sample_without_a_batch_at_one_ray_as_torchs_do() -> None:
    linear, conv = _adapted(lambda m, x: m.a(x)), _adapted(lambda m, x: m.c(x), c=nn.Conv2d(2, 4, 3, padding=1))
    for model, x in ((linear, randn(5)), (conv, randn(2, 6, 6))):
        plain = palora.merge(model, RAYS[1])
        with palora.at(model, RAYS[1]):
            torch.testing.assert_close(model(x), plain(x))
        with palora.at(model, RAYS), pytest.raises(palora.RowsError, match="one sample without a dimension"):
            model(x)
        with palora.at(model, RAYS[1]), pytest.raises(ValueError, match="Found"):
            model(torch.tensor(1.0).double())


def test_one_number_for_all_rays_is_told_once_and_not_split() -> None:
    model = _adapted(lambda m, x: (m.a(x), m.a(x).pow(2).mean()))
    with palora.at(model, RAYS):
        with pytest.warns(palora.ReducedOutputWarning, match=r"one number for all 3 rays.*reduction='none'"):
            found = model(randn(4, 5))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            model(randn(4, 5))
    with pytest.raises(ValueError, match=r"Found one number for all rays.*reduction='none'"):
        palora.split(found, 3)
    with palora.at(model, RAYS[0]), warnings.catch_warnings():
        warnings.simplefilter("error")
        model(randn(4, 5))


@pytest.mark.parametrize("how", ["mean", "sum"])
def test_check_names_one_number_for_all_rays_and_the_module_that_made_it(how: str) -> None:
    class Loss(nn.Module):
        def forward(self, y: Tensor) -> Tensor:
            return y.pow(2).mean() if how == "mean" else y.pow(2).sum()

    model = _adapted(lambda m, x: (m.a(x), m.loss(m.a(x))), a=nn.Linear(5, 6), loss=Loss())
    report = palora.check(model, randn(4, 5))
    assert (report.ok, report.part, report.module) == (False, "stacked", "loss")
    assert f"one number for all rays, the {how} of" in report.cause
    assert "reduction='none'" in report.remedy
