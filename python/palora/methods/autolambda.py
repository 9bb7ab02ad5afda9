"""Auto-λ: task weights that are learnt to lower the losses on other data (Liu et al., 2022, Eq. 3 to 5)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from palora.methods.base import Options, option
from palora.methods.gradients import Rows, TaskGradients, inner
from palora.methods.point import SinglePoint
from palora_kernels.typed import Range


@dataclass(frozen=True)
class AutoLambdaOptions(Options):
    """The papers start at 0.1, with a meta learning rate of 1e-4."""

    meta_lr: Annotated[float, Range(0, 1000, above=True)] = option(1e-4, "Learning rate of the task weights.")
    meta_init: Annotated[float, Range(0, 1e6)] = option(0.1, "Task weights at the start.")


class AutoLambda(SinglePoint):
    """Minimise Σ_t λ_t L_t; λ itself follows Adam on the losses of a batch that the step did not see.

    After a step θ' = θ − η Σ_t λ_t ∇L_t(θ), the other batch's Σ_s L'_s(θ') has the derivative
    −η ⟨∇L_t(θ), Σ_s ∇L'_s(θ')⟩ in λ_t. The authors take a trial step and one more batch for it, and form the
    product by finite differences. Here the step that is taken anyway and the next training batch serve, and the
    product is exact: the same quantity one step later, at T backward passes and no further forward pass.
    (η is left out: Adam does not see the scale of a gradient.) All tasks are primary.
    """

    name = "autolambda"
    summary = "Auto-lambda: task weights learnt by meta-gradients, one point"
    Options = AutoLambdaOptions

    def __init__(self, tasks: int, options: AutoLambdaOptions | None = None, seed: int = 0) -> None:
        super().__init__(tasks, options, seed)
        self.weights = torch.full((tasks,), float(self.options.meta_init), requires_grad=True)
        self.optimiser = torch.optim.Adam([self.weights], lr=self.options.meta_lr)
        self.before: Rows | None = None

    def backward(self, model: nn.Module, losses: Tensor, rays: Tensor) -> None:
        """Update λ by the gradients of the step before and of this one, then add Σ_t λ_t ∇L_t to ``.grad``."""
        gradients = TaskGradients(model, losses[0])
        if self.before is not None:
            products = [sum(inner(old, new) for new in gradients.rows) for old in self.before]
            self.weights.grad = -torch.tensor(products, dtype=self.weights.dtype)
            self.optimiser.step()
        self.before = gradients.rows
        weights = self.weights.detach()
        gradients.write(weights, weights)

    def objective(self, losses: Tensor, rays: Tensor) -> Tensor:
        return (self.weights.detach().to(losses) * losses).sum()

    def state_dict(self) -> dict[str, Any]:
        return {
            "weights": self.weights.detach().clone(),
            "optimiser": self.optimiser.state_dict(),
            "before": self.before,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        with torch.no_grad():
            self.weights.copy_(state["weights"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.before = state["before"]
