"""IMTL: equal projections on all gradients (Liu et al., 2021, "Towards Impartial Multi-Task Learning")."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from palora.methods.aggregated import Aggregated
from palora.optional import need


class IMTL(Aggregated):
    """IMTL-G: w with Σ_t w_t = 1 such that ⟨Σ_s w_s g_s, g_t/‖g_t‖⟩ is the same for every t.

    By TorchJD's `IMTLGWeighting`. w weights the whole losses, heads included, as in the comparisons of the
    papers, and may be negative.
    """

    name = "imtl"
    summary = "impartial learning: an update with equal projections on all gradients, one point"

    def __init__(self, tasks: int, options: Any = None, seed: int = 0) -> None:
        super().__init__(tasks, options, seed)
        self.solve = need("torchjd.aggregation", f"The method '{self.name}'").IMTLGWeighting()

    def weigh(self, gramian: Tensor, losses: Tensor) -> tuple[Tensor, Tensor]:
        weights = self.solve(gramian)
        return weights, weights
