"""What each method trains: compared with loops that know nothing of the engine."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from engine_runs import small_set, tiny
from method_cases import every_method
from torch import Tensor, nn

import palora
from palora import methods
from palora.data import Batches
from palora.engine import train
from palora.engine.setup import assemble
from palora.engine.state import load_checkpoint
from palora.engine.trainer import forward_pass, initial_state, losses_of
from palora.errors import PaloraError
from palora.models import LeNet


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(palora.data, "load", lambda *args, **options: small_set())


def batch(size: int = 16) -> tuple[Tensor, tuple[Tensor, ...]]:
    split = small_set().train
    return split.inputs[:size], tuple(target[:size] for target in split.targets)


def step_gradients(config: Any) -> tuple[Any, dict[str, Tensor]]:
    """Gradients of the engine's first step, by parameter name, and its parts."""
    parts = assemble(config)
    inputs, targets = batch()
    rays = parts.method.rays(0.5)
    parts.model.train()
    losses = losses_of(parts, forward_pass(parts, config), inputs, targets)(rays)
    parts.method.backward(parts.model, losses, rays)
    return parts, {name: p.grad for name, p in parts.model.named_parameters()}


@pytest.mark.needs("PIL")
def test_linear_scalarisation_is_the_gradient_of_the_mean_loss() -> None:
    parts, found = step_gradients(tiny(method="ls"))
    torch.manual_seed(0)
    model = LeNet()
    inputs, targets = batch()
    sum(F.cross_entropy(y, t) / 2 for y, t in zip(model(inputs), targets, strict=True)).backward()
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad, rtol=1e-4, atol=1e-7, msg=name)
    assert sum(p.numel() for p in parts.model.parameters()) == 27_450


@pytest.mark.needs("PIL")
def test_palora_is_the_sum_over_rays_of_the_weighted_losses() -> None:
    """Against one plain merged model per ray: the gradient of W is the sum of theirs."""
    config = tiny(method_options={"rays": 4, "alpha": 2.0})
    parts = assemble(config)
    for name, parameter in parts.model.named_parameters():
        if "lora" in name:
            nn.init.normal_(parameter, std=0.1)
    inputs, targets = batch()
    rays = parts.method.rays(0.9)
    assert rays.shape == (4, 2)
    losses = losses_of(parts, forward_pass(parts, config), inputs, targets)(rays)
    parts.method.backward(parts.model, losses, rays)
    total: dict[str, Tensor] = {}
    for m, ray in enumerate(rays):
        plain = palora.merge(parts.model, ray)
        for parameter in plain.parameters():
            parameter.requires_grad_()
        single = [F.cross_entropy(y, t) for y, t in zip(plain(inputs), targets, strict=True)]
        torch.testing.assert_close(losses[m], torch.stack(single), rtol=1e-4, atol=1e-5)
        (ray * torch.stack(single)).sum().backward()
        for name, parameter in plain.named_parameters():
            total[name] = total.get(name, torch.zeros(())) + parameter.grad
    adapted = dict(parts.model.named_parameters())
    assert total.keys() <= adapted.keys()
    for name, gradient in total.items():
        torch.testing.assert_close(adapted[name].grad, gradient, rtol=1e-3, atol=1e-5, msg=name)


@pytest.mark.needs("PIL")
def test_adapters_learn_t_times_as_fast() -> None:
    parts = assemble(tiny())
    state = initial_state(parts, tiny(lr=1e-3))
    rates = {id(p): g["lr"] for g in state.optimizer.param_groups for p in g["params"]}
    for name, parameter in parts.model.named_parameters():
        assert rates.pop(id(parameter)) == pytest.approx(2e-3 if "lora" in name else 1e-3), name
    assert not rates  # and nothing else is trained, nothing twice


@pytest.mark.needs("moocore")
def test_adam_moves_by_the_learning_rate(tmp_path: Path) -> None:
    """Adam's first step is ±lr for every weight with a gradient, whatever its size: the rates in effect."""
    run = train(tiny(limit=16, epochs=1, lr=1e-3), tmp_path / "run")
    after = load_checkpoint(run.last)["model"]
    parts = assemble(tiny())
    moved = {name: (after[name] - before).abs().max() for name, before in parts.model.state_dict().items()}
    for name, distance in moved.items():
        expected = 2e-3 if name.endswith("lora_A") else 1e-3
        if not name.endswith("lora_B"):  # no gradient while lora_A is zero
            assert distance == pytest.approx(expected, rel=0.02), name


@pytest.mark.needs("moocore")
def test_single_task_equals_independent_runs(tmp_path: Path) -> None:
    config = tiny(method="stl", epochs=1)
    run = train(config, tmp_path / "run")
    together = load_checkpoint(run.last)["model"]
    for task in range(2):
        torch.manual_seed(config.seed)
        model = LeNet().to(memory_format=torch.channels_last)
        optimizer = torch.optim.Adam(model.parameters(), lr=config.lr, fused=True)
        for inputs, targets in Batches(small_set().train.take(96), 16, seed=config.seed):
            optimizer.zero_grad()
            inputs = inputs.to(memory_format=torch.channels_last)
            F.cross_entropy(model(inputs)[task], targets[task]).backward()
            optimizer.step()
        for name, alone in model.state_dict().items():
            torch.testing.assert_close(
                together[f"copies.{task}.{name}"], alone, rtol=1e-5, atol=1e-7, msg=f"{task}: {name}"
            )


def test_single_task_outputs_come_from_separate_copies() -> None:
    method = methods.build("stl", 2)
    model = method.adapt(LeNet())
    x = torch.randn(3, 1, 28, 28)
    before = [y.clone() for y in method.forward(model, x, method.rays(1.0))]
    assert before[0].shape == (1, 3, 10)
    with torch.no_grad():
        for parameter in model.copies[1].parameters():
            parameter.zero_()
    after = method.forward(model, x, method.rays(1.0))
    assert torch.equal(after[0], before[0])
    assert not torch.equal(after[1], before[1])


@pytest.mark.parametrize("name", every_method())
def test_every_method_keeps_the_contract(name: str) -> None:
    method = methods.build(name, 2, seed=3)
    assert method.name == name
    assert method.summary
    model = method.adapt(LeNet())
    rays = method.rays(0.5)
    torch.testing.assert_close(rays.sum(1), torch.ones(len(rays)))
    outputs = method.forward(model, torch.randn(4, 1, 28, 28), rays)
    assert [tuple(y.shape) for y in outputs] == [(len(rays), 4, 10)] * 2
    losses = torch.rand(len(rays), 2)
    assert method.objective(losses, rays).shape == ()
    grouped = [id(p) for group in method.parameter_groups(model, 0.1) for p in group["params"]]
    assert sorted(grouped) == sorted(id(p) for p in model.parameters())
    grid = method.evaluation_rays(10)
    assert grid.shape[1] == 2
    method.load_state_dict(copy.deepcopy(method.state_dict()))


@pytest.mark.parametrize("schedule", ["dirichlet", "annealed-dirichlet", "annealed", "fixed"])
def test_schedules_go_on_where_they_were(schedule: str) -> None:
    options = {"schedule": schedule, "rays": 4}
    first = methods.build("palora", 3, options, seed=5)
    for tau in (0.1, 0.2):
        first.rays(tau)
    second = methods.build("palora", 3, options, seed=6)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for tau in (0.3, 0.4):
        assert torch.equal(first.rays(tau), second.rays(tau))


def test_unknown_names_are_one_sentence() -> None:
    with pytest.raises(PaloraError, match=r"no method 'plora'\. Did you mean palora.*palora, ls, stl"):
        methods.get("plora")
    with pytest.raises(PaloraError, match="method 'ls' has no option `rank`"):
        methods.build("ls", 2, {"rank": 1})
    with pytest.raises(ValueError, match="`schedule` should be one of annealed, fixed"):
        methods.build("palora", 2, {"schedule": "slow"})
