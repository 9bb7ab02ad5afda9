"""Between the rays of a grid: as good as a grid a hundred times finer, and never worse than the grid itself."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import palora
from palora.errors import PaloraError
from palora.evaluation import Front, UnreachableError, knee, nearest, refine, select, sweep
from palora.evaluation.refining import proposals, search
from palora.evaluation.selection import position
from palora.evaluation.sensitivity import sensitivity
from palora.rays import simplex_grid


def smooth(rays: Tensor) -> Front:
    """L_t = |λ − v_t|², v_t near vertex t: a front that bends, with accuracies 1 − L_t / 2."""
    corners = 0.9 * torch.eye(rays.shape[1]) + 0.1 / rays.shape[1]
    losses = (rays[:, None] - corners).square().sum(2)
    names = tuple("abc"[: rays.shape[1]])
    return Front(rays, losses, {f"accuracy/{n}": 1 - losses[:, t] / 2 for t, n in enumerate(names)}, names)


def slopes(ray: Tensor) -> Tensor:
    corners = 0.9 * torch.eye(len(ray)) + 0.1 / len(ray)
    return 2 * (ray - corners)


@pytest.mark.parametrize("tasks", [2, 3])
@pytest.mark.parametrize(
    "choose",
    [
        partial(select, at_least={"a": 0.873}, best="b"),
        partial(select, best="b"),
        partial(nearest, wish={"a": 0.81, "b": 0.77}),
        pytest.param(knee, id="knee"),
    ],
)
def test_a_refined_preference_is_that_of_a_finer_grid(tasks: int, choose: Any) -> None:
    coarse, fine = smooth(simplex_grid(tasks, 4)), smooth(simplex_grid(tasks, 400 if tasks == 2 else 200))
    found = search(coarse, choose, smooth, slopes, rounds=12)
    everything = Front(
        torch.cat([found.front.rays, fine.rays]),
        torch.cat([found.front.losses, fine.losses]),
        {name: torch.cat([found.front.metrics[name], fine.metrics[name]]) for name in fine.metrics},
        fine.tasks,
    )
    best = everything.metrics["accuracy/b"]
    mine, theirs = position(everything, found.ray), position(everything, choose(everything))
    assert best[mine] == pytest.approx(best[theirs].item(), abs=0.004)
    assert len(found.front) < 250
    assert torch.equal(found.front.rays[: len(coarse)], coarse.rays)


@settings(max_examples=25)
@given(st.floats(0.55, 0.99), st.integers(2, 3), st.booleans())
def test_it_is_never_worse_than_the_grid_and_keeps_the_bound(bound: float, tasks: int, gradient: bool) -> None:
    coarse = smooth(simplex_grid(tasks, 3))
    choose = partial(select, at_least={"a": bound}, best="b")
    found = search(coarse, choose, smooth, slopes if gradient else lambda ray: None)
    at = position(found.front, found.ray)
    assert found.front.metrics["accuracy/a"][at] >= torch.tensor(bound)
    try:
        before = position(coarse, choose(coarse))
    except UnreachableError:
        return
    assert found.front.metrics["accuracy/b"][at] >= coarse.metrics["accuracy/b"][before]


def test_a_bound_that_the_grid_misses_is_reached_between_its_rays() -> None:
    """Both at once, which no ray of the grid has."""
    rays = simplex_grid(2, 3)
    choose = partial(select, at_least={"a": 0.77, "b": 0.77}, best="a")
    with pytest.raises(UnreachableError):
        choose(smooth(rays))
    found = search(smooth(rays), choose, smooth, slopes)
    at = position(found.front, found.ray)
    assert min(found.front.metrics[f"accuracy/{n}"][at] for n in "ab") >= 0.77
    with pytest.raises(UnreachableError, match="accuracy/b at least"):
        search(smooth(rays), partial(select, at_least={"a": 0.9, "b": 0.99}, best="a"), smooth, slopes)


def test_proposals_lie_on_the_simplex_and_follow_the_gradients() -> None:
    ray = torch.tensor([0.2, 0.3, 0.5])
    rays = proposals(ray, slopes(ray), 0.1)
    assert (rays >= 0).all()
    torch.testing.assert_close(rays.sum(1), torch.ones(len(rays)))
    assert len(torch.unique(rays, dim=0)) == len(rays) > len(proposals(ray, None, 0.1)) == 6
    # Down the loss of a along the level of b: to first order a falls and b stays.
    near = proposals(ray, slopes(ray), 0.02)
    change = smooth(near).losses - smooth(ray[None]).losses
    assert ((change[:, 0] < -5e-3) & (change[:, 1].abs() < 1e-3)).any()


class Net(nn.Module):
    def __init__(self, tasks: int) -> None:
        super().__init__()
        self.trunk = nn.Linear(4, 6)
        self.heads = nn.ModuleList(nn.Linear(6, 1) for _ in range(tasks))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        h = self.trunk(x).tanh()
        return tuple(head(h) for head in self.heads)


def squares(outputs: Any, targets: Any) -> Tensor:
    return torch.stack([(o - t).square().mean(1) for o, t in zip(outputs, targets, strict=True)], dim=1)


@pytest.mark.parametrize("tasks", [2, 3])
def test_sensitivity_is_the_slope_of_the_losses(tasks: int) -> None:
    model = palora.adapt(Net(tasks).double(), tasks, 2)
    for name, parameter in model.named_parameters():
        if "lora_A" in name:
            nn.init.normal_(parameter, std=0.5)
    x = torch.randn(7, 4, dtype=torch.float64)
    batches = [(part, tuple(part[:, t : t + 1].sin() for t in range(tasks))) for part in x.split(4)]  # uneven
    ray = torch.rand(tasks, dtype=torch.float64)
    found = sensitivity(model, batches, squares, ray)
    assert found is not None
    moved = torch.cat([ray + 1e-5 * torch.eye(tasks), ray - 1e-5 * torch.eye(tasks)])
    losses = sweep(model, batches, squares, moved).losses
    torch.testing.assert_close(found, ((losses[:tasks] - losses[tasks:]) / 2e-5).T, rtol=1e-6, atol=1e-8)
    assert all(p.requires_grad and p.grad is None for p in model.parameters())
    assert model.training

    front = sweep(model, batches, squares, simplex_grid(tasks, 2).double())
    best = refine(model, front, partial(select, best=0), batches, squares)
    assert torch.equal(best.ray, select(best.front, best=0))
    at = position(best.front, best.ray)
    assert best.front.losses[at, 0] <= front.losses[:, 0].min()
    with palora.at(model, best.ray):
        again = squares(model(x), tuple(x[:, t : t + 1].sin() for t in range(tasks))).mean(0)
    torch.testing.assert_close(best.front.losses[at], again.detach())


def test_a_single_point_and_a_model_without_preferences() -> None:
    front = Front(torch.ones(1, 2) / 2, torch.ones(1, 2))
    with pytest.raises(PaloraError, match="nothing to refine: the front is a single point"):
        refine(Net(2), front, knee, [], squares)
    batches = [(torch.randn(3, 4), (torch.zeros(3, 1), torch.zeros(3, 1)))]
    assert sensitivity(Net(2), batches, squares, torch.ones(2) / 2) is None


def test_along_a_bound_the_gradients_find_what_moving_weights_does_not() -> None:
    """Three tasks on a bound: a corner between the six directions of the grid."""
    choose = partial(select, at_least={"a": 0.85}, best="b")
    reached = []
    for gradients in (slopes, lambda ray: None):
        found = search(smooth(simplex_grid(3, 4)), choose, smooth, gradients, rounds=8)
        reached.append(found.front.metrics["accuracy/b"][position(found.front, found.ray)].item())
    fine = smooth(simplex_grid(3, 200))
    assert reached[0] == pytest.approx(fine.metrics["accuracy/b"][position(fine, choose(fine))].item(), abs=3e-3)
    assert reached[1] < reached[0] - 0.02
