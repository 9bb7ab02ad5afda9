"""Pareto hypernetworks (Navon et al., 2021): a network that makes a model's weights from the preference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from palora.methods.base import Method, Options, centre, option
from palora.methods.epo import epo_weights
from palora.methods.gradients import TaskGradients
from palora.methods.hypernet import HyperNetwork
from palora.optional import need
from palora.rays import schedules, simplex_grid
from palora_kernels.typed import Range


@dataclass(frozen=True)
class PHNOptions(Options):
    """Their defaults on digits; they train with ``--lr 1e-4 --epochs 150``, the later papers as the recipes say."""

    hidden: Annotated[int, Range(1, 4096)] = option(100, "Width of the hypernetwork.")
    p: Annotated[float, Range(0, 1e6)] = option(0.2, "Concentration of the Dirichlet schedules.")


class PHNLinear(Method):
    """Minimise λᵀL at one random preference λ a step, over the weights of the hypernetwork."""

    name = "phn-ls"
    summary = "hypernetwork for LeNet and MLP, linear scalarisation, a front"
    capturable = True
    Options = PHNOptions

    def __init__(self, tasks: int, options: PHNOptions | None = None, seed: int = 0) -> None:
        super().__init__(tasks, options, seed)
        generator = torch.Generator().manual_seed(seed)
        self.schedule = schedules.Dirichlet(tasks, 1, self.options.p, generator)

    def adapt(self, model: nn.Module) -> nn.Module:
        return HyperNetwork(model, self.tasks, self.options.hidden)

    def plain(self, model: nn.Module) -> nn.Module:
        assert isinstance(model, HyperNetwork)
        return model.generated(centre(self.tasks)[0])

    def forward(self, model: nn.Module, inputs: Tensor, rays: Tensor) -> Sequence[Tensor]:
        return model(inputs, rays)

    def rays(self, tau: float) -> Tensor:
        return self.schedule(tau)

    def evaluation_rays(self, divisions: int) -> Tensor:
        return simplex_grid(self.tasks, divisions)

    def state_dict(self) -> dict[str, Any]:
        return {"schedule": self.schedule.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.schedule.load_state_dict(state["schedule"])


class PHNExact(PHNLinear):
    """Along T Σ_t β_t ∇L_t, where β solves EPO's linear programme (:mod:`palora.methods.epo`).

    It leads to the front's point at which λ_t L_t is the same for every task. The inner products that the programme
    reads are those of the gradients in what several tasks share: the embedding, and the makers of the trunk.
    """

    name = "phn-epo"
    summary = "hypernetwork for LeNet and MLP, exact Pareto search, a front"
    capturable = False
    rays_per_pass = 1

    def __init__(self, tasks: int, options: PHNOptions | None = None, seed: int = 0) -> None:
        super().__init__(tasks, options, seed)
        need("scipy.optimize", f"The method '{self.name}'")

    def backward(self, model: nn.Module, losses: Tensor, rays: Tensor) -> None:
        """Add the directions of all rays to ``.grad``; T backward passes a ray."""
        for m, (row, ray) in enumerate(zip(losses, rays, strict=True)):
            gradients = TaskGradients(model, row, retain_graph=m < len(losses) - 1)
            gramian = gradients.gramian()
            if gramian.isfinite().all() and row.isfinite().all():
                weights = self.tasks * epo_weights(row.detach().cpu(), gramian, ray.cpu())
            else:  # nothing to solve; the loop reports what is not finite
                weights = torch.ones(self.tasks)
            gradients.write(weights, weights)
