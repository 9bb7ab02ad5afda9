"""A method on the illustrative problem: the same steps as the training loop, without data."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from torch import Tensor

from palora import methods
from palora.errors import PaloraError
from palora.methods import Method
from palora.optional import need
from palora.toy.problem import Point, losses, pareto_front
from palora_kernels.typed import Range, check_arguments

UNSUITED = {
    "rotograd": "it rotates features, and θ has none",
    "phn-epo": "EPO balances losses that are not negative, and these are",
}
"""Methods that have nothing to work on here, and why."""

SLOWER = {"phn-ls": 0.1}
"""Factors of the learning rate: what is right for θ itself is too much for a network that makes θ."""

DIVISIONS = 40
"""Divisions of the grid of rays that is evaluated."""


@dataclass(frozen=True)
class Descent:
    """The way of one method from one start.

    Attributes:
        method, start, scale: what it was.
        steps: (K,) int64, the steps at which the losses were measured: the first is 0, the last the end.
        rays: (M, 2), one ray for a method of a single point.
        losses: (K, M, 2) of every ray at those steps.
    """

    method: str
    start: tuple[float, float]
    scale: float
    steps: Tensor
    rays: Tensor
    losses: Tensor

    def igd_plus(self) -> float:
        """IGD+ of the last losses to the known front, in units of the length of its sides; 0 is perfect.

        The mean over the front of how far the nearest of our points is behind it; points beyond the front's
        ends cost nothing, parts of the front that none of ours comes near do.
        """
        moocore = need("moocore", "IGD+")
        front = pareto_front(self.scale)
        side = front.amax(0) - front.amin(0)
        return float(moocore.igd_plus((self.losses[-1].double() / side).numpy(), ref=(front / side).numpy()))

    def gap(self) -> float:
        """How far the last point of the worst ray is behind the known front, in the same units."""
        front = pareto_front(self.scale)
        side = front.amax(0) - front.amin(0)
        behind = ((self.losses[-1].double()[:, None] - front) / side).clamp(min=0).norm(dim=-1)
        return float(behind.amin(1).max())


def suited() -> list[str]:
    """The methods that can run here."""
    return [name for name in methods.names() if name not in UNSUITED]


def options_for(name: str, given: dict[str, Any]) -> dict[str, Any]:
    """Those of the options `given` that the method `name` has; balancing is on unless `given` says otherwise."""
    known = {field.name for field in dataclasses.fields(methods.get(name).Options)}
    return {key: value for key, value in {**DEFAULTS, **given}.items() if key in known}


DEFAULTS: dict[str, Any] = {"balance": "gradient"}


def descend(
    name: str,
    start: tuple[float, float],
    *,
    options: dict[str, Any] | None = None,
    scale: Annotated[float, Range(1e-6, 1e6)] = 1.0,
    steps: Annotated[int, Range(1, 1_000_000)] = 500,
    lr: Annotated[float, Range(0, 1000, above=True)] = 0.1,
    seed: Annotated[int, Range(0, 2**32 - 1)] = 0,
    measurements: Annotated[int, Range(1, 10_000)] = 50,
) -> Descent:
    """`steps` steps of Adam from `start`; the learning rate falls linearly to a hundredth over the last half.

    The papers take 50,000 steps at 0.002. PaLoRA begins with zero adapters, so all its rays begin at `start`; the
    second member of PaMaL begins at the next of STARTS; COSMOS and hypernetworks make θ themselves, from `seed`.
    Raises PaloraError for a method that cannot run here.
    """
    numbers = {"scale": scale, "steps": steps, "lr": lr, "seed": seed, "measurements": measurements}
    check_arguments(descend, numbers)
    if name in UNSUITED:
        raise PaloraError(f"The method '{name}' cannot run on this problem: {UNSUITED[name]}.")
    torch.manual_seed(seed)
    method = methods.build(name, 2, options, seed)
    model = method.adapt(Point(start))
    groups = method.parameter_groups(model, lr * SLOWER.get(name, 1.0))
    rates = [group["lr"] for group in groups]
    optimiser = torch.optim.Adam(groups, lr=lr)
    grid = method.evaluation_rays(DIVISIONS)
    marks = sorted({round(steps * k / measurements) for k in range(measurements + 1)})
    seen = [measure(method, model, grid, scale)]
    for step in range(1, steps + 1):
        factor = min(1.0, max(0.01, 2 * (1 - step / steps)))
        for group, rate in zip(optimiser.param_groups, rates, strict=True):
            group["lr"] = rate * factor
        advance(method, model, optimiser, step / steps, scale)
        if step in marks:
            seen.append(measure(method, model, grid, scale))
    return Descent(name, start, scale, torch.tensor(marks), grid, torch.stack(seen))


def advance(method: Method, model: Any, optimiser: torch.optim.Optimizer, tau: float, scale: float) -> None:
    """One step, as in the training loop."""
    rays = method.rays(tau)
    optimiser.zero_grad()
    found = at(method, model, rays, scale)
    method.backward(model, found, rays)
    optimiser.step()
    method.after_step(found.detach(), rays)


def at(method: Method, model: Any, rays: Tensor, scale: float) -> Tensor:
    """The losses (M, 2) at `rays`."""
    one, two = method.forward(model, torch.ones(1, 1), rays)
    return torch.stack([losses(one[:, 0], scale)[:, 0], losses(two[:, 0], scale)[:, 1]], dim=1)


def measure(method: Method, model: Any, rays: Tensor, scale: float) -> Tensor:
    """The same without a graph, in groups if the method takes only so many rays at once."""
    groups: Sequence[Tensor] = rays.split(method.rays_per_pass or len(rays))
    with torch.no_grad():
        return torch.cat([at(method, model, group, scale) for group in groups])
