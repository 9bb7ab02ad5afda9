"""What MGDA, PCGrad, IMTL, CAGrad and Nash-MTL share: T gradients become one, by T weights."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor, nn

from palora.methods.gradients import TaskGradients
from palora.methods.point import SinglePoint


class Aggregated(SinglePoint):
    """Shared parameters move along Σ_t w_t g_t, where w depends on the Gramian ⟨g_s, g_t⟩ alone.

    g_t is the gradient of L_t in the parameters that tasks share. Whether w weights the heads as well differs
    from paper to paper, so :meth:`weigh` gives both.
    """

    @abstractmethod
    def weigh(self, gramian: Tensor, losses: Tensor) -> tuple[Tensor, Tensor]:
        """Weights of the shared gradients and of the heads, (T,) each.

        `gramian` (T, T): float64, on the CPU, finite; `losses` (T,): detached.
        """

    def backward(self, model: nn.Module, losses: Tensor, rays: Tensor) -> None:
        """Add the aggregate to ``.grad``; T backward passes."""
        gradients = TaskGradients(model, losses[0])
        gramian = gradients.gramian()
        if gramian.isfinite().all():
            gradients.write(*self.weigh(gramian, losses[0].detach()))
        else:  # nothing to solve; the loop reports the loss or weight that is not finite
            equal = torch.ones(self.tasks)
            gradients.write(equal, equal)
