"""MGDA: the shortest convex combination of the gradients (Désidéri, 2012; Sener & Koltun, 2018)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from palora.methods.aggregated import Aggregated
from palora.methods.base import Options, option
from palora.optional import need

NORMALISATIONS = ("none", "l2", "loss", "loss+")


@dataclass(frozen=True)
class MGDAOptions(Options):
    """The papers' tables use the gradients as they are."""

    normalisation: str = option("none", f"Gradients divided by norm, loss or both: {', '.join(NORMALISATIONS)}.")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.normalisation not in NORMALISATIONS:
            raise ValueError(
                f"`normalisation` should be one of {', '.join(NORMALISATIONS)}. Found {self.normalisation!r}."
            )


class MGDA(Aggregated):
    """w = argmin ‖Σ_t w_t g_t/n_t‖² over the simplex, by Frank-Wolfe (TorchJD's `MGDAWeighting`).

    n_t is 1, ‖g_t‖ ("l2"), L_t ("loss") or L_t·‖g_t‖ ("loss+"). T·w weights the whole losses, heads included,
    as Sener & Koltun do (TorchJD's `mtl_backward` would leave the heads as they are).
    """

    name = "mgda"
    summary = "multiple gradient descent: the shortest combination of the gradients, one point"
    Options = MGDAOptions

    def __init__(self, tasks: int, options: MGDAOptions | None = None, seed: int = 0) -> None:
        super().__init__(tasks, options, seed)
        self.solve = need("torchjd.aggregation", f"The method '{self.name}'").MGDAWeighting()

    def weigh(self, gramian: Tensor, losses: Tensor) -> tuple[Tensor, Tensor]:
        scale = torch.ones(self.tasks, dtype=torch.float64)
        if self.options.normalisation in ("l2", "loss+"):
            scale *= gramian.diagonal().sqrt()
        if self.options.normalisation in ("loss", "loss+"):
            scale *= losses.cpu().double().abs()
        scale = scale.clamp(min=1e-12)
        weights = self.tasks * self.solve(gramian / scale / scale[:, None])
        return weights, weights
