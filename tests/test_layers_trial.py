"""The trial before a first stacked pass: it leaves no trace, it refuses nothing that is right, and it runs once."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from layer_cases import randomise_adapters
from row_cases import RAYS, Net, linears, randn
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

import palora
from palora.layers import trial_pass


@pytest.fixture
def trials(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The passes that trials run, by role."""
    seen: list[str] = []
    run = trial_pass.Runner._pass

    def counted(self: Any, one: Any, *rest: Any) -> Any:
        seen.append(one.role)
        return run(self, one, *rest)

    monkeypatch.setattr(trial_pass.Runner, "_pass", counted)
    return seen


def _mlp(*extra: nn.Module) -> nn.Module:
    layers = [nn.Linear(5, 8), *extra, nn.Tanh(), nn.Linear(8, 3)]
    return randomise_adapters(palora.adapt(nn.Sequential(*layers).double(), 2, 2))


def test_once_for_every_form_of_the_arguments(trials: list[str]) -> None:
    model = _mlp()
    for n in (4, 7, 30):
        with palora.at(model, RAYS):
            model(randn(n, 5))
    assert trials == ["stacked", "first", "second"]
    with palora.at(model, RAYS):
        model(randn(4, 6, 5))  # another number of dimensions
    with palora.at(model.eval(), RAYS):
        model(randn(4, 5))  # another mode
    assert len(trials) == 9
    with palora.at(model, (0.5, 0.5)):
        model(randn(4, 2, 3, 5))  # one ray: any rows are its own
    with palora.at(model, RAYS[:1]):
        model(randn(4, 2, 3, 5))
    assert len(trials) == 9


def test_nothing_is_tried_where_something_looks_at_every_operation(trials: list[str]) -> None:
    model = _mlp()
    with palora.at(model, RAYS), FlopCounterMode(display=False):
        model(randn(4, 5))
    assert not trials


def test_trial_false_leaves_it_out(trials: list[str]) -> None:
    model = palora.adapt(nn.Sequential(nn.Linear(5, 3)).double(), 2, 2, trial=False)
    with palora.at(model, RAYS):
        model(randn(4, 5))
    assert not trials


class Traces(nn.Module):
    """Everything that a pass may leave behind."""

    def __init__(self) -> None:
        super().__init__()
        self.fc, self.norm, self.out = nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Linear(8, 3)
        self.drop = nn.Dropout(0.5)
        self.register_buffer("seen", torch.zeros(()))
        self.calls, self.kept = 0, []  # type: ignore[var-annotated]

    def forward(self, x: Tensor, cache: Any) -> Tensor:
        self.calls += 1
        self.kept.append(x.shape)
        self.seen += 1
        self.seen = self.seen + random.random()
        cache.rows += len(x)
        x += torch.rand_like(x)
        return self.out(self.drop(self.norm(self.fc(x))))


class Cache:
    rows = 0


def test_no_trace_is_left(trials: list[str]) -> None:
    with_trial, without = palora.adapt(Traces(), 2, 2), palora.adapt(Traces(), 2, 2, trial=False)
    without.load_state_dict(with_trial.state_dict())
    hooked: list[str] = []
    for model in (with_trial, without):
        for name, module in model.named_modules():
            module.register_forward_hook(lambda m, a, y, name=name: hooked.append(name))
    found = []
    for model in (with_trial, without):
        torch.manual_seed(3)
        random.seed(3)
        x, cache = torch.ones(6, 5), Cache()
        with palora.at(model, RAYS):
            y = model(x, cache)
        found.append((y, model.calls, model.kept, cache.rows, random.random(), torch.rand(1), x, model.seen))
    assert trials
    for one, other in zip(*found, strict=True):
        assert torch.equal(one, other) if isinstance(one, Tensor) else one == other
    assert with_trial.calls == 1
    assert hooked[: len(hooked) // 2] == hooked[len(hooked) // 2 :]
    for one, other in zip(with_trial.buffers(), without.buffers(), strict=True):
        assert torch.equal(one, other)


class DropPath(nn.Module):
    """A residual branch that is left out for some samples, as vision models do."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        keep = x.new_empty(x.shape[0], *(1,) * (x.dim() - 1)).bernoulli_(0.8)
        return x * keep.div_(0.8)


class OwnNumbers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.numbers = np.random.default_rng(0)

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.from_numpy(self.numbers.random((len(x), 1))).to(x)


STOCHASTIC: dict[str, Callable[[], nn.Module]] = {
    "dropout": lambda: nn.Dropout(0.4),
    "functional dropout": lambda: Net(lambda m, x: F.dropout(x, 0.4, m.training)),
    "alpha dropout": lambda: nn.AlphaDropout(0.4),
    "feature dropout": lambda: Net(lambda m, x: F.dropout1d(x[:, None], 0.4, m.training)[:, 0]),
    "drop path": DropPath,
    "noise": lambda: Net(lambda m, x: x + torch.randn_like(x)),
    "uniform noise": lambda: Net(lambda m, x: x + torch.empty_like(x).uniform_(-1, 1)),
    "a reparametrised sample": lambda: Net(lambda m, x: torch.distributions.Normal(x, 1.0).rsample()),
    "a random number of Python's": lambda: Net(lambda m, x: x * (2.0 if random.random() < 0.5 else 1.0)),
    "random numbers of Python's": lambda: Net(lambda m, x: x * x.new_tensor([[random.random()] for _ in x])),
    "random numbers of NumPy's": lambda: Net(lambda m, x: x * torch.from_numpy(np.random.rand(len(x), 1)).to(x)),
    "a generator of NumPy's": lambda: OwnNumbers(),
    "rrelu": lambda: nn.RReLU(),
    "a random integer a row": lambda: Net(lambda m, x: x + torch.randint(0, 5, (len(x), 1))),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", list(STOCHASTIC))
def test_random_models_are_not_refused(name: str, dtype: torch.dtype, trials: list[str]) -> None:
    for seed in range(3):
        random.seed(seed)
        model = _mlp(STOCHASTIC[name]()).to(dtype)
        with palora.at(model, RAYS):
            assert model(randn(6, 5).to(dtype)).shape == (18, 3)
    assert trials


def test_mixing_a_random_permutation_of_the_batch_is_refused() -> None:
    model = _mlp(Net(lambda m, x: x + x[torch.randperm(len(x))]))
    with palora.at(model, RAYS), pytest.raises(palora.RowsError, match="mixes the rows"):
        model(randn(6, 5))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rounding_is_no_refusal(dtype: torch.dtype) -> None:
    """Batch statistics of two samples amplify rounding, layer after layer, beyond any tolerance."""
    layers: list[nn.Module] = []
    for _ in range(12):
        layers += [nn.Linear(16, 16), nn.BatchNorm1d(16), nn.ReLU()]
    model = randomise_adapters(palora.adapt(nn.Sequential(*layers, nn.Linear(16, 3)), 2, 2)).to(dtype)
    with palora.at(model, RAYS):
        assert model(torch.randn(2, 16).to(dtype)).shape == (6, 3)


def test_a_refusal_is_repeated_and_the_model_works_at_one_ray(trials: list[str]) -> None:
    model = _mlp(Net(lambda m, x: x - x.mean(0)))
    for _ in range(2):
        with palora.at(model, RAYS), pytest.raises(palora.RowsError):
            model(randn(6, 5))
    with palora.at(model, RAYS[0]):
        model(randn(6, 5))
    count = len(trials)
    assert not any(slot for slot in [model[0].rays_state.innermost()])
    with palora.at(model, RAYS), pytest.raises(palora.RowsError):
        model(randn(6, 5))
    assert len(trials) == count


def test_a_model_that_cannot_be_doubled_runs_as_it_is() -> None:
    class Locked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(5, 3)

        def forward(self, x: Tensor, cache: Any) -> Tensor:
            return self.fc(x)

    class NoCopy:
        def __deepcopy__(self, memo: Any) -> Any:
            raise TypeError("not to be copied")

    model = palora.adapt(Locked(), 2, 2)
    with palora.at(model, RAYS):
        assert model(torch.randn(4, 5), NoCopy()).shape == (12, 3)


def test_a_failing_model_fails_with_its_own_error() -> None:
    model = _mlp()
    with palora.at(model, RAYS), pytest.raises(ValueError, match="5 features"):
        model(randn(4, 6))


def test_a_compiled_submodule_and_plain_lists_of_modules() -> None:
    class Listed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(5, 5), nn.Linear(5, 3)
            self.order = [self.a, self.b]

        def forward(self, x: Tensor) -> Tensor:
            for layer in self.order:
                x = layer(x)
            return x

    model = randomise_adapters(palora.adapt(Listed().double(), 2, 2))
    x = randn(4, 5)
    with palora.at(model, RAYS):
        found = model(x)
    torch.testing.assert_close(found, torch.cat([palora.merge(copy.deepcopy(model), ray)(x) for ray in RAYS]))


def test_inference_mode_shares_the_first_layer_and_sees_changes_in_place() -> None:
    model = randomise_adapters(palora.adapt(nn.Sequential(nn.ReLU(inplace=True), nn.Linear(5, 3)).double(), 2, 2))
    plain = _mlp()
    x = randn(4, 5)
    for net in (model, plain):
        with torch.inference_mode(), palora.at(net, RAYS):
            found = net(x.clone())
        torch.testing.assert_close(found, torch.cat([palora.merge(net, ray)(x.clone()) for ray in RAYS]))


def test_layers_of_forms_that_no_trial_saw_take_only_the_batch() -> None:
    """A branch that no trial took: rows of the batch are its own, a multiple of them might be anything."""
    way = {"steps": 0}  # where no trial looks

    def call(m: Any, x: Tensor) -> Tensor:
        return m.a(x) if way["steps"] == 0 else m.b(x.flatten(0, 1)) if way["steps"] == 1 else m.b(x)

    model = randomise_adapters(palora.adapt(Net(call, **linears(a=(5, 3), b=(5, 3))).double(), 2, 2))
    with palora.at(model, RAYS):
        with pytest.warns(palora.UnusedAdapterWarning, match="'b'"):
            model(randn(4, 3, 5))
        way["steps"] = 2
        with pytest.warns(palora.UnusedAdapterWarning, match="'a'"):
            model(randn(4, 3, 5))
        way["steps"] = 1
        with pytest.raises(palora.RowsError, match="'b' did not run when"):
            model(randn(4, 3, 5))


@pytest.mark.parametrize("change", [lambda x: x.data.mul_(2), lambda x: x.mul_(2), lambda x: x.detach()[:, 0].zero_()])
def test_a_batch_that_is_changed_in_place_is_not_shared(change: Callable[[Tensor], Any]) -> None:
    """Also behind the back of its version, which in-place operations raise."""
    model = _mlp()
    model.register_forward_pre_hook(lambda m, args: (change(args[0]), None)[1])
    x = randn(4, 5)
    expected = torch.cat([palora.merge(model, ray)(x.clone()) for ray in RAYS])
    with palora.at(model, RAYS):
        torch.testing.assert_close(model(x.clone()), expected)
