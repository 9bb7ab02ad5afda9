"""Single-task learning: a model of its own for every task, trained side by side."""

from __future__ import annotations

import copy
from collections.abc import Sequence

from torch import Tensor, nn

from palora.methods.base import Method, centre


class Separate(nn.Module):
    """T copies of a model; output t is the t-th output of copy t. `forward(x)` gives the T outputs."""

    def __init__(self, model: nn.Module, tasks: int) -> None:
        super().__init__()
        self.copies = nn.ModuleList([model, *(copy.deepcopy(model) for _ in range(tasks - 1))])

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        return tuple(model(x)[t] for t, model in enumerate(self.copies))


class SingleTask(Method):
    """T independent runs in one loop: copy t sees L_t alone; all copies start from the same weights.

    Equal to T runs of their own, as the copies share nothing (a model with dropout draws other masks than it
    would alone). T times the parameters.
    """

    name = "stl"
    summary = "single-task learning: one model per task, T times the parameters, one point"
    capturable = True

    def adapt(self, model: nn.Module) -> nn.Module:
        return Separate(model, self.tasks)

    def forward(self, model: nn.Module, inputs: Tensor, rays: Tensor) -> Sequence[Tensor]:
        return [output.unsqueeze(0) for output in model(inputs)]

    def rays(self, tau: float) -> Tensor:
        return centre(self.tasks)

    def objective(self, losses: Tensor, rays: Tensor) -> Tensor:
        """Σ_t L_t: each task at full weight, as in a run of its own."""
        return losses.sum()
