"""CAGrad: the best worst-case improvement near the mean gradient (Liu et al., 2021, Algorithm 1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from palora.methods.aggregated import Aggregated
from palora.methods.base import Options, option
from palora.optional import need
from palora_kernels.typed import Range


@dataclass(frozen=True)
class CAGradOptions(Options):
    """The papers use c = 0.4."""

    c: Annotated[float, Range(0, 1)] = option(
        0.4, "How far the update may be from the mean gradient, relative to its norm."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.c == 1:
            raise ValueError(f"`c` should lie in [0, 1). Found {self.c}.")


class CAGrad(Aggregated):
    """d = argmax min_t ⟨g_t, d⟩ subject to ‖d − g_0‖ ≤ c ‖g_0‖, where g_0 = Σ_t g_t / T.

    The dual, min over the simplex of ⟨g_w, g_0⟩ + c‖g_0‖‖g_w‖ with g_w = Σ_t w_t g_t, is solved by TorchJD's
    `CAGradWeighting` (CVXPY with Clarabel). The update is T·d/(1 + c²): on the scale of the sum of losses, by
    which the heads are trained, and rescaled as in the authors' code. Where g_w vanishes (a task is solved) it is
    g_0 that remains, again as in their code; TorchJD would stop there.
    """

    name = "cagrad"
    summary = "conflict-averse descent: the worst task improves most, near the mean gradient, one point"
    Options = CAGradOptions

    def __init__(self, tasks: int, options: CAGradOptions | None = None, seed: int = 0) -> None:
        super().__init__(tasks, options, seed)
        need("cvxpy", f"The method '{self.name}'")
        self.solve = need("torchjd.aggregation", f"The method '{self.name}'").CAGradWeighting(c=self.options.c)

    def weigh(self, gramian: Tensor, losses: Tensor) -> tuple[Tensor, Tensor]:
        weights = self.solve(gramian)
        if not weights.any():
            weights = torch.full_like(weights, 1 / self.tasks)
        return weights * self.tasks / (1 + self.options.c**2), torch.ones(self.tasks)
