"""PaMaL, Pareto manifold learning: the front as the convex hull of m models in weight space (PaMaL, Algorithm 1)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from palora.layers import at, ensemble, merge, split
from palora.methods.balancing import Balanced, BalancedOptions
from palora.methods.base import centre, option
from palora.methods.members import member_weights, weighting
from palora.methods.multiforward import multiforward
from palora.rays import schedules, simplex_grid
from palora_kernels.typed import Range


@dataclass(frozen=True)
class PaMaLOptions(BalancedOptions):
    """The defaults are the paper's best setting on MultiMNIST."""

    window: Annotated[int, Range(1, 1024)] = option(
        4, "Window W: forward passes (samples of the members' simplex) per step."
    )
    regularisation: Annotated[float, Range(0, 1e6)] = option(
        0.0, "Strength λ of the multi-forward regularisation; it needs a window > 1."
    )
    p: Annotated[float, Range(0, 1e6)] = option(1.0, "Concentration of the Dirichlet schedules.")
    members: Annotated[int, Range(2, 64)] | None = option(None, "Members m of the ensemble (default: one a task).")
    weighting: str | None = option(
        None, 'Weights of the tasks per member, as "1,0; 0.5,0.5; 0,1" (default: spread over the simplex).'
    )
    member_lr: Annotated[float, Range(0, 1000, above=True)] | None = option(
        None, "Learning rate over the recipe's (default: m, as in the paper; 1 with --as-released)."
    )
    as_released: bool = option(False, "As the authors' code does where it departs from their paper.")
    same_start: bool = option(False, "Members start alike, not from weights of their own.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.regularisation and self.window == 1:
            raise ValueError("`regularisation` compares the samples of a step: `window` should be > 1. Found 1.")


class PaMaL(Balanced):
    """Σ_i α_iᵀ W L(α_i) + λ_reg R over W samples α_i ~ Dirichlet(p) of the members' simplex (Eq. 2 and 3).

    Weights, biases and the scale and shift of batch normalisation are mixtures Σ_k α_k θ_k; running statistics are
    shared. A row of the (m, T) matrix W says how a member weights the tasks. With the default, one member a task
    and W = I, α is the preference itself. With m ≠ T, `rays` gives the α of a step, (window, m); a preference λ
    that is asked for later is answered by the α with αᵀ W = λ (:func:`palora.methods.members.member_weights`).

    R is :func:`palora.methods.multiforward.multiforward`. ``as_released`` departs from the paper as the authors' code
    does: the sign within R, λ_reg R dropped in steps where it is not below the rest of the loss, the base learning
    rate instead of m times that, and the weights of loss balancing.
    """

    name = "pamal"
    summary = "weight ensemble: a front between m models, m times the parameters"
    Options = PaMaLOptions

    def __init__(self, tasks: int, options: PaMaLOptions | None = None, seed: int = 0) -> None:
        super().__init__(tasks, options, seed)
        self.matrix = weighting(tasks, self.options.members, self.options.weighting)  # (m, T)
        self.members = len(self.matrix)
        self.direct = self.members == tasks and torch.equal(self.matrix, torch.eye(tasks))  # preferences are mixtures
        generator = torch.Generator().manual_seed(seed)
        self.schedule = schedules.Dirichlet(self.members, self.options.window, self.options.p, generator)
        if self.options.regularisation:
            self.couples_rays = True
        self.capturable = self.capturable and self.direct and not self.options.regularisation

    def adapt(self, model: nn.Module) -> nn.Module:
        return ensemble(model, self.members, independent=not self.options.same_start)

    def plain(self, model: nn.Module) -> nn.Module:
        return merge(model, member_weights(centre(self.tasks), self.matrix)[0])

    def forward(self, model: nn.Module, inputs: Tensor, rays: Tensor) -> Sequence[Tensor]:
        # m = T: always a preference; otherwise its length tells a mixture from a preference.
        preference = rays.shape[1] == self.tasks and not self.direct
        with at(model, member_weights(rays, self.matrix) if preference else rays):
            return split(model(inputs), len(rays))

    def rays(self, tau: float) -> Tensor:
        mixtures = self.schedule(tau)
        return mixtures @ self.matrix if self.members == self.tasks else mixtures

    def evaluation_rays(self, divisions: int) -> Tensor:
        return simplex_grid(self.tasks, divisions)

    def task_weights(self, rays: Tensor) -> Tensor:
        return rays if rays.shape[1] == self.tasks else rays @ self.matrix.to(rays)

    def objective(self, losses: Tensor, rays: Tensor) -> Tensor:
        total = super().objective(losses, rays)
        strength, released = self.options.regularisation, self.options.as_released
        if not strength:
            return total
        penalty = strength * multiforward(losses, self.task_weights(rays), released)
        return total + torch.where(penalty < total, penalty, 0) if released else total + penalty

    def parameter_groups(self, model: nn.Module, lr: float) -> list[dict[str, Any]]:
        """m times the base rate: a mixture hands each member 1/m of the gradient on average (Sec. 5)."""
        default = 1.0 if self.options.as_released else float(self.members)
        factor = default if self.options.member_lr is None else self.options.member_lr
        return super().parameter_groups(model, factor * lr)

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "schedule": self.schedule.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self.schedule.load_state_dict(state["schedule"])
