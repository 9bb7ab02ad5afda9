"""Uncertainty weighting: the weights of the losses are learnt (Cipolla, Gal & Kendall, 2018, Sec. 3)."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from palora.methods.point import SinglePoint
from palora.optional import need


class UncertaintyWeighting(SinglePoint):
    """Minimise Σ_t ½ (exp(−s_t) L_t + s_t) over the model and the log-variances s_t, which start at 0.

    s is TorchJD's `UW`, a part of the model (`model.uncertainty.log_var`): it is trained at the base learning
    rate, and checkpoints hold it.
    """

    name = "uw"
    summary = "uncertainty weighting: the weights of the losses are learnt, one point"
    capturable = True

    def __init__(self, tasks: int, options: Any = None, seed: int = 0) -> None:
        super().__init__(tasks, options, seed)
        self.uncertainty = need("torchjd.scalarization", f"The method '{self.name}'").UW(tasks)

    def adapt(self, model: nn.Module) -> nn.Module:
        model.add_module("uncertainty", self.uncertainty)
        return model

    def objective(self, losses: Tensor, rays: Tensor) -> Tensor:
        return self.uncertainty(losses[0])
