"""Balancing: against weights computed ray by ray and task by task on plain models."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from palora import methods
from palora.engine.chunking import accumulate
from palora.errors import PaloraError
from palora.methods.multiforward import multiforward
from palora.models import MLP

N, M = 6, 3


def made(name: str, dtype: torch.dtype = torch.float64, **options: Any) -> tuple[Any, nn.Module]:
    torch.manual_seed(4)
    settings = {"rays": M} if name == "palora" else {"window": M}
    method = methods.build(name, 2, {**settings, **options}, seed=7)
    model = method.adapt(MLP(5, (7, 6), (3, 3)).to(dtype))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return method, model


def losses_at(method: Any, model: nn.Module, scale: Tensor | None = None) -> Any:
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(N, 5, dtype=torch.float64, generator=generator)
    targets = torch.randint(0, 3, (2, N), generator=generator)
    scale = torch.ones(2, dtype=torch.float64) if scale is None else scale

    def compute(rays: Tensor) -> Tensor:
        outputs = method.forward(model, x, rays)
        rows = [F.cross_entropy(y.flatten(0, 1), t.repeat(len(rays)), reduction="none").view(len(rays), N).mean(1)
                for y, t in zip(outputs, targets, strict=True)]  # fmt: skip
        return torch.stack(rows, 1) * scale

    return compute


def gradients(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.grad for name, p in model.named_parameters()}


@pytest.mark.parametrize("name", ["palora", "pamal"])
@pytest.mark.parametrize("balance", ["gradient", "gradient-last"])
def test_norms_are_those_of_every_ray_alone(name: str, balance: str) -> None:
    method, model = made(name, balance=balance)
    rays = method.rays(0.7).double()
    accumulate(method, model, losses_at(method, model), rays)

    _, other = made(name)
    measured = other.shared_parameters() if balance == "gradient" else list(other.last_shared_layer.parameters())
    compute, total = losses_at(method, other), torch.zeros(())
    for ray in rays:
        losses = compute(ray[None])[0]
        for t in range(2):
            parts = torch.autograd.grad(losses[t], measured, retain_graph=True)
            norm = torch.cat([part.flatten() for part in parts]).norm()
            total = total + ray[t] * losses[t] / (norm + 1e-3)
    total.backward()
    for key, gradient in gradients(other).items():
        torch.testing.assert_close(gradients(model)[key], gradient, rtol=1e-9, atol=1e-12, msg=key)


def test_a_stacked_graph_gives_the_same() -> None:
    """The loop of the engine hands over one ray at a time; a method that is called with all of them is right too."""
    method, model = made("palora", balance="gradient")
    rays = method.rays(0.7).double()
    method.backward(model, losses_at(method, model)(rays), rays)
    _, other = made("palora", balance="gradient")
    accumulate(method, other, losses_at(method, other), rays)
    for key, gradient in gradients(other).items():
        torch.testing.assert_close(gradients(model)[key], gradient, rtol=1e-9, atol=1e-12, msg=key)


@pytest.mark.parametrize(("balance", "whole"), [("gradient", M * 2), ("gradient-last", M), ("none", 1)])
def test_no_more_than_a_backward_pass_per_ray_and_task(balance: str, whole: int) -> None:
    """Counted where every whole backward pass arrives once: at the first layer."""
    method, model = made("palora", balance=balance)
    rays, arrivals = method.rays(0.7).double(), []
    compute = losses_at(method, model)

    def count(layer: nn.Module, args: Any, output: Tensor) -> None:
        output.register_hook(lambda gradient: arrivals.append(gradient.shape))

    model.trunk.fc1.register_forward_hook(count)
    accumulate(method, model, compute, rays)
    assert len(arrivals) == whole
    assert sum(shape[0] for shape in arrivals) <= M * 2 * N  # rows: M·T passes of one ray


def test_gradient_balancing_does_not_see_the_scale_of_a_loss() -> None:
    found = []
    for scale in (1.0, 1e4):
        method, model = made("palora", balance="gradient")
        factors = torch.tensor([1e3, 1e3 * scale], dtype=torch.float64)  # far above ξ
        accumulate(method, model, losses_at(method, model, factors), method.rays(0.7).double())
        found.append(gradients(model))
    for key in found[0]:
        torch.testing.assert_close(found[1][key], found[0][key], rtol=1e-4, atol=1e-7, msg=key)


def test_the_regulariser_is_not_balanced() -> None:
    method, model = made("pamal", balance="gradient", regularisation=2.0)
    rays = method.rays(0.7).double()
    accumulate(method, model, losses_at(method, model), rays)

    plain_method, plain = made("pamal", balance="gradient")
    accumulate(plain_method, plain, losses_at(plain_method, plain), rays)
    penalty = 2.0 * multiforward(losses_at(method, plain)(rays), rays)
    assert penalty > 0
    penalty.backward()
    for key, gradient in gradients(plain).items():
        torch.testing.assert_close(gradients(model)[key], gradient, rtol=1e-9, atol=1e-12, msg=key)


def test_loss_balancing_divides_by_the_mean_of_25_steps() -> None:
    method = methods.build("palora", 2, {"rays": M, "balance": "loss"})
    rays, steps = method.rays(0.5), torch.rand(40, M, 2) + 0.1
    for k, losses in enumerate(steps):
        means = steps[max(0, k - 24) : k + 1].mean((0, 1))
        expected = (rays * losses / means).sum()
        assert method.objective(losses, rays).item() == pytest.approx(expected.item(), rel=1e-5), k
        method.after_step(losses, rays)
    assert methods.build("palora", 2, {"balance": "loss"}).objective(torch.full((5, 2), 3.0), torch.ones(5, 2)) == 10


def test_a_loss_below_zero_still_falls() -> None:
    method = methods.build("palora", 2, {"rays": 1, "balance": "loss"})
    losses = torch.tensor([[-4.0, 2.0]], requires_grad=True)
    method.objective(losses, torch.tensor([[0.5, 0.5]])).backward()
    torch.testing.assert_close(losses.grad, torch.tensor([[0.5 / 4, 0.5 / 2]]))


def test_loss_balancing_as_released() -> None:
    """Pass by pass: ones for the first 26, then 1 − mean_t/Σ mean of the last 25, the current pass included."""
    method = methods.build("pamal", 2, {"window": M, "balance": "loss", "as_released": True})
    rays, steps = method.rays(0.5), torch.rand(14, M, 2) + 0.1
    passes: list[Tensor] = []
    for losses in steps:
        expected = torch.zeros(())
        for m in range(M):
            passes.append(losses[m])
            mean = torch.stack(passes[-25:]).mean(0)
            weights = 1 - mean / mean.sum() if len(passes) > 26 else torch.ones(2)
            expected = expected + (rays[m] * weights * losses[m]).sum()
        assert method.objective(losses, rays).item() == pytest.approx(expected.item(), rel=1e-5)
        method.after_step(losses, rays)


@pytest.mark.parametrize("released", [False, True])
def test_chunks_of_loss_balancing_equal_one_pass(released: bool) -> None:
    found = []
    for chunk in (None, 1, 2):
        method, model = made("palora", balance="loss", as_released=released)
        for k in range(12):
            before = torch.tensor([1.0, 3.0], dtype=torch.float64) * (1 + k)
            method.after_step(before.expand(M, 2), torch.ones(M, 2))
        accumulate(method, model, losses_at(method, model), method.rays(0.7).double(), chunk)
        found.append(gradients(model))
    for other in found[1:]:
        for key, gradient in found[0].items():
            torch.testing.assert_close(other[key], gradient, rtol=1e-9, atol=1e-12, msg=key)


def test_gradient_last_needs_to_know_the_layer() -> None:
    method = methods.build("palora", 2, {"rays": 1, "balance": "gradient-last"})
    layer = nn.Linear(2, 2)
    losses = layer(torch.ones(1, 2))
    with pytest.raises(PaloraError, match=r"names its `last_shared_layer`; Linear does not. Take --balance gradient"):
        method.backward(layer, losses, torch.ones(1, 2))
