"""Losses of different scales under one preference: gradient and loss balancing (PaMaL paper, Sec. 4.2), per ray."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from palora.errors import PaloraError
from palora.methods.base import Method, Options, option
from palora.methods.gradients import TaskGradients

BALANCES = ("none", "gradient", "gradient-last", "loss")
XI = 1e-3
"""Added to the norms, as the authors do: a task that is solved must not be blown up."""
STEPS = 25
"""Window of the running means of loss balancing, as in the authors' code."""


@dataclass(frozen=True)
class BalancedOptions(Options):
    """The flags of every method that can balance."""

    balance: str = option(
        "none",
        "Balance tasks by: none, gradient (norms in all shared parameters, M·T backward passes), gradient-last "
        "(norms in the last shared layer, cheaper), or loss (running means).",
    )
    as_released: bool = option(
        False, "As the authors' code does where it departs from their paper.", only={"balance": ("loss",)}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.balance not in BALANCES:
            raise ValueError(f"`balance` should be one of {', '.join(BALANCES)}. Found {self.balance!r}.")


class Balanced(Method):
    """Σ_m Σ_t w_mt L_mt, where w is the preference λ, divided by a measure of each task's scale.

    * ``gradient``: w_mt = λ_mt / (‖∇_shared L_mt‖ + 0.001), norms detached, each ray by its own. One graph per ray
      and one backward pass per task, M·T in all; what several tasks reach counts as shared.
    * ``gradient-last``: the same with norms in the last shared layer alone (the model's `last_shared_layer`): M·T
      backward passes through the heads and that layer, and one whole backward pass per ray.
    * ``loss``: w_mt = λ_mt / |mean of L_t over the last 25 steps, this one included|, averaged over the rays of a
      step; fewer steps while there are no more. In absolute value, so that a loss below zero still falls.
      ``as_released``: w_mt = λ_mt (1 − |mean_t| / Σ_s |mean_s|) with means over the last 25 passes (rays one
      after the other), and w = λ for the first 25 passes, which is what the authors' code computes.
    """

    def __init__(self, tasks: int, options: Any = None, seed: int = 0) -> None:
        super().__init__(tasks, options, seed)
        self.history = torch.zeros(0, tasks)  # (K, T): the last losses, one row a step (as released: a pass)
        self.passes = 0
        # Norms in all shared parameters are read on the host, and running means are a history.
        self.capturable = self.options.balance in ("none", "gradient-last")
        if self.options.balance.startswith("gradient"):
            self.rays_per_pass = 1
        elif self.options.balance == "loss":
            self.couples_rays = True

    def task_weights(self, rays: Tensor) -> Tensor:
        """λ (M, T) of the rays of a step: the rays themselves."""
        return rays

    def objective(self, losses: Tensor, rays: Tensor) -> Tensor:
        weights = self.task_weights(rays)
        if self.options.balance == "loss":
            weights = weights * self.coefficients(losses.detach())
        return (weights * losses).sum()

    def backward(self, model: nn.Module, losses: Tensor, rays: Tensor) -> None:
        if not self.options.balance.startswith("gradient"):
            self.objective(losses, rays).backward()
        else:
            self._by_gradients(model, losses, self.task_weights(rays), torch.zeros_like(losses))

    def backward_weighted(self, model: nn.Module, losses: Tensor, rays: Tensor, factors: Tensor) -> None:
        if not self.options.balance.startswith("gradient"):
            super().backward_weighted(model, losses, rays, factors)
        else:  # what the objective has beside Σ λ L is not balanced
            weights = self.task_weights(rays)
            self._by_gradients(model, losses, weights, factors - weights)

    def _by_gradients(self, model: nn.Module, losses: Tensor, weights: Tensor, more: Tensor) -> None:
        """Add Σ_mt (weights_mt / (norm_mt + ξ) + more_mt) ∇L_mt to ``.grad``."""
        last = self.options.balance == "gradient-last"
        for m, row in enumerate(losses):
            if last:
                norms = last_layer_norms(model, row)
                ((weights[m] / (norms + XI) + more[m]) * row).sum().backward(retain_graph=m < len(losses) - 1)
            else:
                gradients = TaskGradients(model, row, retain_graph=m < len(losses) - 1)
                norms = gradients.gramian().diagonal().sqrt().to(row)
                total = weights[m] / (norms + XI) + more[m]
                gradients.write(total, total)

    def coefficients(self, losses: Tensor) -> Tensor:
        """What λ is multiplied with: (T,), or as released (M, T). `losses` (M, T): those of all rays."""
        past = self.history.to(losses)
        if not self.options.as_released:
            recent = torch.cat([past, losses.mean(0, keepdim=True)])[-STEPS:]
            return 1 / recent.mean(0).abs().clamp_min(torch.finfo(losses.dtype).tiny)
        rows = torch.cat([past, losses])
        found = []
        for m in range(len(losses)):
            mean = rows[: len(past) + m + 1][-STEPS:].mean(0).abs()
            found.append(1 - mean / mean.sum() if self.passes + m > STEPS else torch.ones_like(mean))
        return torch.stack(found)

    def after_step(self, losses: Tensor, rays: Tensor) -> None:
        if self.options.balance != "loss":
            return
        new = losses if self.options.as_released else losses.mean(0, keepdim=True)
        self.history = torch.cat([self.history.to(new), new])[-STEPS:]
        self.passes += len(losses)

    def state_dict(self) -> dict[str, Any]:
        return {"history": self.history, "passes": self.passes} if self.options.balance == "loss" else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.history = state.get("history", self.history)
        self.passes = state.get("passes", self.passes)


def last_layer_norms(model: nn.Module, losses: Tensor) -> Tensor:
    """‖∇L_t‖ in the trainable parameters of the last shared layer, (T,), detached; the graph stays."""
    layer = getattr(model, "last_shared_layer", None)
    if not isinstance(layer, nn.Module):
        raise PaloraError(
            f"--balance gradient-last needs a model that names its `last_shared_layer`; {type(model).__name__} does "
            "not. Take --balance gradient."
        )
    parameters = [p for p in layer.parameters() if p.requires_grad]
    return torch.stack([_norm(torch.autograd.grad(loss, parameters, retain_graph=True)) for loss in losses])


def _norm(gradients: Sequence[Tensor]) -> Tensor:
    return torch.stack([g.float().norm() if g.dtype.itemsize < 4 else g.norm() for g in gradients]).norm()
