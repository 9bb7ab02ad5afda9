"""Random loss weighting: new task weights in every step (Lin et al., 2022, Algorithm 1)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from palora.methods.point import SinglePoint
from palora.optional import need


class RandomWeighting(SinglePoint):
    """Minimise Σ_t w_t L_t, w the softmax of T normal numbers (TorchJD's `RandomWeighting`).

    w is the ray of the step, so that the records show it; it is drawn with PyTorch's generator.
    """

    name = "rlw"
    summary = "random loss weighting: new random weights in every step, one point"
    capturable = True

    def __init__(self, tasks: int, options: Any = None, seed: int = 0) -> None:
        super().__init__(tasks, options, seed)
        self.draw = need("torchjd.aggregation", f"The method '{self.name}'").RandomWeighting()

    def rays(self, tau: float) -> Tensor:
        return self.draw(torch.empty(self.tasks, 1)).unsqueeze(0)
