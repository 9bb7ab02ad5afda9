"""GradDrop: every weight listens to the tasks of one sign, drawn at random (Chen et al., 2020, Algorithm 1)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from palora.methods.gradients import TaskGradients
from palora.methods.point import SinglePoint
from palora.optional import need


class GradDrop(SinglePoint):
    """In each shared weight keep the positive gradients with probability P, else the negative ones.

    P = ½ (1 + Σ_t g_t / Σ_t |g_t|), the sign purity; weight by weight, by TorchJD's `GradDrop`, with PyTorch's
    generator. Heads keep their own gradients.
    """

    name = "graddrop"
    summary = "gradient sign dropout: each weight follows the tasks of one random sign, one point"

    def __init__(self, tasks: int, options: Any = None, seed: int = 0) -> None:
        super().__init__(tasks, options, seed)
        self.aggregate = need("torchjd.aggregation", f"The method '{self.name}'").GradDrop()

    def backward(self, model: nn.Module, losses: Tensor, rays: Tensor) -> None:
        """Add what is kept to ``.grad``; T backward passes."""
        gradients = TaskGradients(model, losses[0])
        gradients.write(self.drop, torch.ones(self.tasks))

    def drop(self, stacked: Tensor) -> Tensor:
        """(T, *shape) → shape."""
        return self.aggregate(stacked.flatten(1)).view(stacked.shape[1:])
