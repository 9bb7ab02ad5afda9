"""PCGrad: gradients lose what conflicts with another task's (Yu et al., 2020, Algorithm 1)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from palora.methods.aggregated import Aggregated
from palora.optional import need


class PCGrad(Aggregated):
    """Σ_t g̃_t, where g̃_t ← g̃_t − (⟨g̃_t, g_s⟩/‖g_s‖²) g_s for each other s, in random order, if ⟨g̃_t, g_s⟩ < 0.

    By TorchJD's `PCGradWeighting`; the order comes from PyTorch's generator. Heads keep their own gradients.
    """

    name = "pcgrad"
    summary = "gradient surgery: conflicting parts of the gradients are projected away, one point"

    def __init__(self, tasks: int, options: Any = None, seed: int = 0) -> None:
        super().__init__(tasks, options, seed)
        self.solve = need("torchjd.aggregation", f"The method '{self.name}'").PCGradWeighting()

    def weigh(self, gramian: Tensor, losses: Tensor) -> tuple[Tensor, Tensor]:
        return self.solve(gramian), torch.ones(self.tasks)
