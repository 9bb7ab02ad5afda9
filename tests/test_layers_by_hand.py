"""Rows and arguments that are declared: `at(..., rows=)`, `palora.rows`, `rows=`, `expand=` and `keep=` of `adapt`."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import pytest
import torch
from layer_cases import assert_stacked_equals_loop, randomise_adapters
from row_cases import RAYS, Experts, Net, linears, randn
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import palora


def _adapted(model: nn.Module, **options: Any) -> nn.Module:
    return randomise_adapters(palora.adapt(model.double(), 2, 2, **options))


def _experts(tokens: bool = False, make: Any = None) -> nn.Module:
    return _adapted(Experts(True, make or (lambda: nn.Linear(5, 3)), tokens=tokens))


@pytest.mark.parametrize("tokens", [False, True])
def test_experts_for_many_draws_with_their_gradients(tokens: bool) -> None:
    for seed in range(12):
        torch.manual_seed(seed)
        x = randn(3, 4, 5) if tokens else randn(7, 5)
        assert_stacked_equals_loop(_experts(tokens), x, RAYS)


def test_experts_at_one_ray_with_a_ray_a_sample_and_merged() -> None:
    model, x = _experts(), randn(6, 5)
    each = torch.rand(6, 2, dtype=torch.float64)
    with palora.at(model, each, per_sample=True):
        found = model(x)
    for i in range(6):
        with palora.at(model, each[i]):
            torch.testing.assert_close(found[i], model(x)[i])
        torch.testing.assert_close(found[i], palora.merge(model, each[i])(x)[i])


def test_batch_normalisation_of_experts_takes_each_rays_rows_by_themselves() -> None:
    make = lambda: nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))  # noqa: E731
    compared = 0
    for seed in range(8):
        torch.manual_seed(seed)
        model, x = _experts(make=make), randn(40, 5)
        chosen = [palora.merge(model, ray).router(x).argmax(1).bincount(minlength=3) for ray in RAYS]
        if min(int(count.min()) for count in chosen) > 2:  # statistics need rows
            assert_stacked_equals_loop(model, x, RAYS, tolerance=1e-9)
            compared += 1
    assert compared > 2


def test_packed_rows_each_at_its_ray() -> None:
    model = _adapted(nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3)))
    lengths = torch.tensor([3, 1, 4])
    rows = torch.arange(3).repeat_interleave(lengths)
    x = randn(8, 5)
    with palora.at(model, RAYS, rows=rows):
        found = model(x)
    for m, ray in enumerate(RAYS):
        torch.testing.assert_close(found[rows == m], palora.merge(model, ray)(x)[rows == m])


def test_packed_rows_of_a_model_with_statistics_are_each_rays_own() -> None:
    model = _adapted(nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.Linear(6, 3)))
    rows = torch.tensor([0, 2, 1, 0, 1, 2, 2, 0, 1])
    x = randn(9, 5)
    with palora.at(model, RAYS, rows=rows):
        found = model(x)
    for m, ray in enumerate(RAYS):
        torch.testing.assert_close(found[rows == m], palora.merge(model, ray)(x[rows == m]))


@pytest.mark.parametrize(
    "rays, rows, message",
    [
        (RAYS, torch.tensor([0, 3]), "`rows` should hold rays 0 to 2. Found 0 to 3"),
        (RAYS, torch.tensor([0.0, 1.0]), "one dimension of integers"),
        (RAYS, torch.zeros(2, 2, dtype=torch.long), "one dimension of integers"),
        (RAYS[0], torch.tensor([0, 0]), "`rows` goes with rays of shape"),
    ],
)
def test_bad_rows_are_named(rays: Tensor, rows: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        palora.at(_adapted(nn.Sequential(nn.Linear(5, 3))), rays, rows=rows)


def test_ragged_rows_under_a_ray_a_sample_are_refused_even_if_the_number_fits() -> None:
    """Eight packed tokens of four samples: a multiple of four by accident."""
    model = _adapted(nn.Sequential(nn.Linear(5, 3)))
    with palora.at(model, torch.rand(4, 2), per_sample=True):
        with pytest.raises(palora.RowsError, match=r"one row a ray.*Found a batch of 8.*rows="):
            model(randn(8, 5))
        assert model(randn(4, 2, 5)).shape == (4, 2, 3)


def test_padding_that_is_cut_out_inside_takes_its_samples_rays() -> None:
    def call(m: Any, x: Tensor, mask: Tensor) -> Tensor:
        ray = palora.rays_of(m, x)[mask.nonzero()[:, 0]]
        out = x.new_zeros(*mask.shape, 3)
        with palora.rows(m, ray):
            out[mask] = m.b(torch.tanh(m.a(x[mask])))
        return out

    model = _adapted(Net(call, **linears(a=(5, 6), b=(6, 3))))
    x, mask = randn(4, 6, 5), torch.arange(6)[None] < torch.tensor([6, 2, 4, 5])[:, None]
    with palora.at(model, RAYS):
        found = model(x, mask)
    torch.testing.assert_close(found, torch.cat([palora.merge(model, ray)(x, mask) for ray in RAYS]))
    each = torch.rand(4, 2, dtype=torch.float64)
    with palora.at(model, each, per_sample=True):
        found = model(x, mask)
    for i in range(4):
        torch.testing.assert_close(found[i], palora.merge(model, each[i])(x, mask)[i])


def test_a_wrong_index_is_found() -> None:
    def call(m: Any, x: Tensor) -> Tensor:
        own = torch.arange(len(x) - 1, -1, -1)
        with palora.rows(m.a, palora.rays_of(m, x)):  # not gathered as the rows are
            return m.a(x[own])[own]

    model = _adapted(Net(call, a=nn.Linear(5, 3)))
    with palora.at(model, RAYS), pytest.raises(palora.RowsError, match=r"does not see the rows that `palora\.rows`"):
        model(randn(4, 5))


def test_rows_inside_a_checkpoint_are_recomputed_with_their_rays() -> None:
    plain = _experts()
    torch.manual_seed(2)
    x = randn(7, 5)

    def gradients(net: nn.Module, use: bool, reentrant: bool) -> list[Tensor | None]:
        net.zero_grad()
        with palora.at(net, RAYS):
            y = checkpoint(net, x.clone().requires_grad_(), use_reentrant=reentrant) if use else net(x)
        with palora.at(net, (9.0, -9.0)):
            y.square().sum().backward()
        return [None if p.grad is None else p.grad.clone() for p in net.parameters()]

    expected = gradients(plain, False, False)
    for reentrant in (False, True):
        for found, want in zip(gradients(plain, True, reentrant), expected, strict=True):
            torch.testing.assert_close(found, want)


class SequenceFirst(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.mix, self.out = nn.Linear(6, 6), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.tanh(self.mix(x.transpose(0, 1))).transpose(0, 1))


@pytest.mark.parametrize("family", ["lora", "dora"])
def test_declared_layouts_with_their_gradients(family: str) -> None:
    model = _adapted(SequenceFirst(), rows={"mix": 1}, family=family)
    assert_stacked_equals_loop(model, randn(2, 9, 6), RAYS)
    each = torch.rand(2, 2, dtype=torch.float64)
    x = randn(2, 9, 6)
    with palora.at(model, each, per_sample=True):
        found = model(x)
    for i in range(2):
        torch.testing.assert_close(found[i], palora.merge(model, each[i])(x)[i])


def test_declared_layouts_that_do_not_fit_are_refused() -> None:
    model = _adapted(nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 3)), rows={"1": 1}, trial=False)
    with palora.at(model, RAYS), pytest.raises(ValueError, match="batch of 6 rows in dimension 1"):
        model(randn(2, 9, 6))
    model = _adapted(nn.Sequential(nn.Linear(6, 3)), rows={"0": 2}, trial=False)
    with palora.at(model, RAYS), pytest.raises(ValueError, match="in dimension 2"):
        model(randn(2, 6))


@pytest.mark.parametrize(
    "options, message",
    [
        ({"rows": {"a": -1}}, "a dimension .* or 'inner'. Found -1"),
        ({"rows": {"nothing": 1}}, "`rows` pattern 'nothing' matches no module"),
        ({"expand": {"x": "1"}}, "`expand` should give dimensions"),
        ({"expand": "y"}, "`expand` pattern 'y' matches no argument. Arguments: x"),
        ({"keep": ["y"]}, "`keep` pattern 'y' matches no argument. Arguments: x"),
        ({"keep": 3}, "`keep` should be a pattern|not iterable"),
    ],
)
def test_bad_declarations_are_named(options: dict[str, Any], message: str) -> None:
    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(5, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.a(x)

    with pytest.raises((ValueError, TypeError), match=message):
        palora.adapt(Plain(), 2, 2, **options)


def test_an_argument_that_is_declared_and_does_not_fit_is_named() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(5, 6)

        def forward(self, x: Tensor, scale: Tensor) -> Tensor:
            return self.a(x) * scale

    model = _adapted(Two(), expand="scale")
    with palora.at(model, RAYS):
        with pytest.raises(ValueError, match=r"Argument `scale` should have its batch of 4 in dimension 0.*\(3, 1\)"):
            model(randn(4, 5), randn(3, 1))
        assert model(randn(4, 5), randn(4, 1)).shape == (12, 6)


@pytest.mark.parametrize("n", [3, 4, 5])
def test_a_table_is_kept_at_every_size_of_the_batch_whichever_came_first(n: int) -> None:
    model = _adapted(Net(lambda m, x, table: m.a(x) @ table.T, a=nn.Linear(5, 6)))
    table = randn(4, 6)
    for size in (n, 4, 3, 5):
        x = randn(size, 5)
        with palora.at(model, RAYS):
            found = palora.split(model(x, table), 3)
        torch.testing.assert_close(found, torch.stack([palora.merge(model, ray)(x, table) for ray in RAYS]))


def test_layers_that_a_pass_leaves_out_are_named_once() -> None:
    model = _adapted(Net(lambda m, x, both: m.a(x) + (m.b(x) if both else 0), **linears(a=(5, 3), b=(5, 3))))
    with palora.at(model, (0.5, 0.5)):
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            model(randn(4, 5), True)
        with pytest.warns(palora.UnusedAdapterWarning, match="adapters of 'b'"):
            model(randn(4, 5), False)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            model(randn(4, 5), False)
    other = copy.deepcopy(model)
    with palora.at(other, (0.5, 0.5)), warnings.catch_warnings():
        warnings.simplefilter("error", palora.UnusedAdapterWarning)
        with pytest.raises(palora.UnusedAdapterWarning):
            other(randn(4, 5), False)


def test_the_weight_may_be_read_between_passes_and_looked_at_within() -> None:
    seen: list[Any] = []

    def call(m: Any, x: Tensor) -> Tensor:
        w = m.a.weight
        seen.append((w.dtype, w.shape, w.device, w.requires_grad, w.numel(), isinstance(w, nn.Parameter)))
        return m.a(x.to(w)) + x.new_zeros(1) * torch.zeros_like(w).sum()

    model = _adapted(Net(call, a=nn.Linear(5, 3)))
    with palora.at(model, RAYS):
        model(randn(4, 5))
        assert model.a.weight is model.a._parameters["weight"]
    assert seen[0] == (torch.float64, (3, 5), torch.device("cpu"), True, 15, True)
    model.a.weight.data.mul_(2)
    state = model.state_dict()
    model.load_state_dict(state)
    model.call = lambda m, x: x @ m.a.weight.T  # type: ignore[assignment]
    with palora.at(model, (0.5, 0.5)), pytest.raises(palora.UnsupportedModuleError, match="weight of 'a' was read"):
        model(randn(4, 5))


def test_compiled_models_with_declared_rows() -> None:
    torch._dynamo.reset()
    model = _adapted(SequenceFirst(), rows={"mix": 1}, expand="x")
    x = randn(2, 9, 6)

    def call(r: Tensor, x: Tensor) -> Tensor:
        with palora.at(model, r):
            return model(x)

    compiled = torch.compile(call, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(RAYS, x), call(RAYS, x))


def test_a_compiled_model_that_changes_its_input_in_place() -> None:
    torch._dynamo.reset()
    model = _adapted(nn.Sequential(nn.ReLU(inplace=True), nn.Linear(5, 3)))
    x = randn(4, 5)
    with palora.at(model, RAYS):
        found = torch.compile(model, fullgraph=True, backend="aot_eager")(x.clone())
    torch.testing.assert_close(found, torch.cat([palora.merge(model, ray)(x.clone()) for ray in RAYS]))


def test_a_compiled_model_with_patterns_of_arguments() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(5, 6)

        def forward(self, x: Tensor, scale: Tensor, table: Tensor) -> Tensor:
            return self.fc(x) * scale @ table.T

    torch._dynamo.reset()
    model = _adapted(Scaled(), expand=["sca*"], keep="tab*")
    args = randn(4, 5), randn(4, 1), randn(4, 6)
    with palora.at(model, RAYS):
        found = torch.compile(model, fullgraph=True, backend="aot_eager")(*args)
    torch.testing.assert_close(found, torch.cat([palora.merge(model, ray)(*args) for ray in RAYS]))


def test_the_first_argument_may_be_the_table() -> None:
    model = _adapted(Net(lambda m, table, x: m.a(x) @ table.T, a=nn.Linear(5, 6)))
    for n in (3, 4, 7):
        table, x = randn(4, 6), randn(n, 5)
        with palora.at(model, RAYS):
            found = model(table, x)
        torch.testing.assert_close(found, torch.cat([palora.merge(model, ray)(table, x) for ray in RAYS]))


def test_a_state_that_is_handed_on_under_many_rays() -> None:
    """What a pass returned has the rows of all rays already, and goes into the next as it is."""
    for kind in (nn.GRU, nn.LSTM):

        class Stream(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.enter, self.leave = nn.Linear(5, 6), nn.Linear(6, 3)
                self.rnn = kind(6, 6, batch_first=True)  # noqa: B023

            def forward(self, x: Tensor, state: Any = None) -> tuple[Tensor, Any]:
                y, state = self.rnn(self.enter(x), state)
                return self.leave(y), state

        model = _adapted(Stream())
        parts = randn(4, 3, 5), randn(4, 2, 5), randn(4, 3, 5)
        with palora.at(model, RAYS):
            state, found = None, []
            for x in parts:
                y, state = model(x, state)
                found.append(palora.split(y, 3))
        for m, ray in enumerate(RAYS):
            plain, state = palora.merge(model, ray), None
            for x, y in zip(parts, found, strict=True):
                expected, state = plain(x, state)
                torch.testing.assert_close(y[m], expected)
