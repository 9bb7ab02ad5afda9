"""What the methods without preferences share: an ordinary model, one point."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from palora.methods.base import Method, centre


class SinglePoint(Method):
    """An ordinary model with T outputs, at the one ray (1/T, …, 1/T).

    A method of this kind says how the T losses, or their T gradients, become one update: it overrides
    :meth:`objective`, or :meth:`backward` (see :class:`palora.methods.aggregated.Aggregated`).
    """

    def forward(self, model: nn.Module, inputs: Tensor, rays: Tensor) -> Sequence[Tensor]:
        return [output.unsqueeze(0) for output in model(inputs)]

    def rays(self, tau: float) -> Tensor:
        return centre(self.tasks)
