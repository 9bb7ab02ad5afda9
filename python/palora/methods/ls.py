"""Linear scalarisation: a plain model on the mean of the losses, the control a front is held against."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from palora.methods.base import Method, centre


class LinearScalarisation(Method):
    """Minimise Σ_t L_t / T with one ordinary model: one point, at the ray (1/T, …, 1/T)."""

    name = "ls"
    summary = "linear scalarisation: a plain model on the mean of the losses, one point"

    def forward(self, model: nn.Module, inputs: Tensor, rays: Tensor) -> Sequence[Tensor]:
        return [output.unsqueeze(0) for output in model(inputs)]

    def rays(self, tau: float) -> Tensor:
        return centre(self.tasks)
