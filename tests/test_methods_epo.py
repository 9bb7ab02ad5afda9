"""EPO: the linear programme against a grid of the simplex, and the descent against points known in closed form."""

from __future__ import annotations

import importlib
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from palora import methods
from palora.errors import PaloraError
from palora.methods.epo import epo_weights, non_uniformity
from palora.rays import simplex_grid


def test_non_uniformity_is_a_divergence() -> None:
    mu, a = non_uniformity(torch.tensor([1.0, 1.0]).double().numpy(), torch.tensor([0.3, 0.7]).double().numpy())
    assert mu == pytest.approx(0.3 * math.log(0.6) + 0.7 * math.log(1.4))
    assert a == pytest.approx([0.3 * (math.log(0.6) - mu), 0.7 * (math.log(1.4) - mu)])
    assert non_uniformity(torch.tensor([0.7, 0.3]).numpy(), torch.tensor([0.3, 0.7]).numpy())[0] == pytest.approx(0)


def feasible(beta: Tensor, C: Tensor, losses: Tensor, ray: Tensor, tolerance: float) -> Tensor:
    """The constraints, written out for many (B, T) weights at once."""
    mu, a = non_uniformity(losses.numpy(), ray.numpy())
    Ca, change = C @ torch.from_numpy(a), beta @ C
    if mu <= 1e-4:
        return (change >= -tolerance).all(1) & (beta @ Ca >= min(float(Ca.max()), 0.0) - tolerance)
    if not (Ca > 0).any():
        return (change >= -tolerance).all(1)
    ok = torch.ones(len(beta), dtype=torch.bool)
    for t in range(len(ray)):
        if (ray * losses)[t] == (ray * losses).max():
            ok &= change[:, t] >= -tolerance
        elif Ca[t] <= 0:
            ok &= change[:, t] >= Ca[t] - tolerance
    return ok


@pytest.mark.parametrize("tasks", [2, 3])
@pytest.mark.parametrize("on_ray", [False, True])
@pytest.mark.needs("scipy")
def test_the_programme_is_solved(tasks: int, on_ray: bool) -> None:
    grid = simplex_grid(tasks, 200).double()
    for seed in range(8):
        generator = torch.Generator().manual_seed(seed)
        G = torch.randn(tasks, 4, generator=generator, dtype=torch.float64)
        C = G @ G.T
        C = C / C.abs().max()
        losses = torch.rand(tasks, generator=generator, dtype=torch.float64) + 0.1
        ray = torch.rand(tasks, generator=generator, dtype=torch.float64) + 0.1
        if on_ray:
            ray = 1 / losses
        ray = ray / ray.sum()
        beta = epo_weights(losses, 7.0 * C, ray)
        mu, a = non_uniformity(losses.numpy(), ray.numpy())
        assert (mu <= 1e-4) is on_ray
        gain = C.sum(0) if on_ray else C @ torch.from_numpy(a)
        assert beta.sum().item() == pytest.approx(1)
        assert (beta >= 0).all()
        assert feasible(beta[None], C, losses, ray, 1e-7).all()
        allowed = grid[feasible(grid, C, losses, ray, 0.0)]
        if len(allowed):
            best = (allowed @ gain).max().item()
            assert (beta @ gain).item() >= best - 1e-7


@pytest.mark.parametrize(
    ("ray", "start"), [((0.5, 0.5), (0.3, 2.0)), ((0.2, 0.8), (1.0, 0.1)), ((0.9, 0.1), (-0.5, -1.0))]
)
@pytest.mark.needs("scipy")
def test_descent_ends_where_the_ray_meets_the_front(ray: tuple[float, float], start: tuple[float, float]) -> None:
    """L = ‖x ∓ (1, 0)‖²: the front is the segment x = (s, 0), λ_1 (1 − s)² = λ_2 (1 + s)² its point."""
    x = torch.tensor(start, dtype=torch.float64, requires_grad=True)
    anchor, weights = torch.tensor([1.0, 0.0], dtype=torch.float64), torch.tensor(ray, dtype=torch.float64)
    for step in range(300):
        losses = torch.stack([(x - anchor).square().sum(), (x + anchor).square().sum()])
        G = torch.stack([torch.autograd.grad(loss, x, retain_graph=True)[0] for loss in losses])
        beta = epo_weights(losses.detach(), G @ G.T, weights)
        with torch.no_grad():
            x -= 0.05 / (1 + step / 30) * 2 * beta @ G
    q = math.sqrt(ray[1] / ray[0])
    known = torch.tensor([(1 - q) / (1 + q), 0.0], dtype=torch.float64)
    torch.testing.assert_close(x.detach(), known, atol=2e-2, rtol=0)


@pytest.mark.needs("scipy")
def test_degenerate_inputs() -> None:
    ray, C = torch.tensor([1.0, 0.0]), torch.eye(2)
    beta = epo_weights(torch.tensor([1.0, 2.0]), C, ray)  # an exact zero in the ray
    torch.testing.assert_close(beta, torch.tensor([1.0, 0.0]))
    torch.testing.assert_close(epo_weights(torch.zeros(2), C, torch.tensor([0.2, 0.8])), torch.tensor([0.2, 0.8]))
    assert epo_weights(torch.ones(2), torch.zeros(2, 2), torch.tensor([0.2, 0.8])).sum().item() == pytest.approx(1)
    with pytest.raises(ValueError, match=r"losses that are >= 0\. Found -1"):
        epo_weights(torch.tensor([-1.0, 2.0]), C, torch.tensor([0.5, 0.5]))


def test_a_missing_solver_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    original = importlib.import_module

    def without_scipy(name: str, *more: Any) -> Any:
        if name.startswith("scipy"):
            raise ImportError("No module named 'scipy'")
        return original(name, *more)

    monkeypatch.setattr(importlib, "import_module", without_scipy)
    with pytest.raises(PaloraError, match=r"'phn-epo' needs scipy.*pip install 'scipy>=1\.11'"):
        methods.build("phn-epo", 2)
